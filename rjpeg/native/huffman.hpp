// Baseline Huffman coding (T.81, F.1.2): symbols, how often they are used, the best tables for them.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "sparse.hpp"

namespace rjpeg {

// Uses of every symbol: for AC run << 4 | size (0x00 end of block, 0xF0 sixteen zeros), for DC the size.
using Histogram = std::array<std::uint32_t, 256>;

// A DHT's table (T.81, B.2.4.2): how many codes have each length, and the symbols in the order of their codes.
struct HuffmanTable {
  std::array<std::uint8_t, 17> lengths{};  // [1..16]
  std::vector<std::uint8_t> symbols;
};

// Bits that hold a magnitude: T.81, tables F.1 and F.2.
inline int size_of(int magnitude) { return magnitude == 0 ? 0 : 32 - __builtin_clz(static_cast<unsigned>(magnitude)); }

// Adds the DC symbols of a component as a scan of this component alone would have them.
void count_dc(const Blocks& blocks, Histogram& histogram);

// Whether one table for the symbols of both takes fewer bits than a table for each, at the symbols' entropy and with
// the tables themselves (T.81, B.2.4.2).
bool better_shared(const Histogram& a, const Histogram& b);

Histogram sum(const Histogram& a, const Histogram& b);

// The best table of codes up to 16 bits (T.81, K.2), the same that libjpeg's optimization finds.
HuffmanTable best_table(const Histogram& histogram);

}  // namespace rjpeg
