// Entropy coding of a baseline scan (T.81, F.1.2): tokens, the Huffman tables that suit them, the coded bits.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "huffman.hpp"
#include "memory.hpp"
#include "sparse.hpp"

namespace rjpeg {

struct WrittenComponent {
  Blocks blocks;                         // those that hold samples, without padding to whole MCUs
  int h = 1, v = 1;                      // sampling factors
  const std::uint16_t* table = nullptr;  // 64 steps, natural order, 1..255
};

// The four Huffman tables that a file may have: 0, kAc, kChroma, kAc | kChroma.
constexpr std::size_t kKinds = 4;
constexpr std::uint32_t kAc = 1, kChroma = 2;

// A symbol with the bits that follow it: kind << 19 | symbol << 11 | bits. Symbol & 15 is the number of those bits.
using Token = std::uint32_t;

struct Tokens {
  Buffer<Token> tokens;
  const Token* end = nullptr;
  std::array<Histogram, kKinds> histograms{};
};

// All blocks in the order of an interleaved scan (T.81, A.2.3). Throws JpegFailure for coefficients that baseline
// coding does not hold.
Tokens tokens_of(const std::vector<WrittenComponent>& components);

// A symbol's code and its length with the bits that follow.
struct Code {
  std::uint32_t code = 0;
  int length = 0;
};

// The Huffman tables of a file, and the code of each symbol of each kind. Chroma may share the tables of luma.
struct EntropyCode {
  std::array<HuffmanTable, kKinds> tables;  // without symbols if shared or not used
  std::array<std::array<Code, 256>, kKinds> codes{};
  bool share_dc = false, share_ac = false;
};

// The tables that make the file smallest. Luma and chroma share one if that takes fewer bits than two.
EntropyCode choose_code(const Tokens& tokens, const std::vector<WrittenComponent>& components);

// Appends the coded tokens, filled with ones to a whole byte, with a zero after each 0xFF.
void append_scan(const Tokens& tokens, const EntropyCode& code, std::string& file);

}  // namespace rjpeg
