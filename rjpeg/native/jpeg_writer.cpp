#include "jpeg_writer.hpp"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <memory>

#include "huffman.hpp"

namespace rjpeg {
namespace {

constexpr unsigned char kSoi = 0xD8, kEoi = 0xD9, kDqt = 0xDB, kDht = 0xC4, kSof0 = 0xC0, kSos = 0xDA;
constexpr int kMostDcSize = 11, kMostAcSize = 10;  // T.81, F.1.2
constexpr int kEndOfBlock = 0x00, kSixteenZeros = 0xF0;

// A symbol with the bits that follow it: kind << 19 | symbol << 11 | bits. Symbol & 15 is the number of those bits.
using Token = std::uint32_t;
constexpr int kBitsOfValue = 11, kBitsOfSymbol = 8;
// Kinds: the four Huffman tables there may be.
constexpr std::size_t kKinds = 4;
constexpr std::uint32_t kAc = 1, kChroma = 2;

struct Tokens {
  std::unique_ptr<Token[]> tokens;
  Token* end = nullptr;
  std::array<Histogram, kKinds> histograms{};
  int largest_dc = 0, largest_ac = 0;  // sizes

  void put(std::uint32_t kind, int symbol, int bits) {
    ++histograms[kind][static_cast<std::size_t>(symbol)];
    *end++ = kind << (kBitsOfSymbol + kBitsOfValue) | static_cast<Token>(symbol) << kBitsOfValue |
             static_cast<Token>(bits);
  }

  // Negative values are one's complements (T.81, F.1.2.1).
  static int bits_of(int value, int size) { return (value < 0 ? value - 1 : value) & ((1 << size) - 1); }

  void put_block(const std::int16_t* block, Mask mask, std::uint32_t kind, int& dc) {
    const int difference = block[0] - dc;
    dc = block[0];
    const int dc_size = size_of(std::abs(difference));
    largest_dc = std::max(largest_dc, dc_size);
    put(kind, dc_size, bits_of(difference, dc_size) & ((1 << kBitsOfValue) - 1));
    kind |= kAc;
    int before = 0;
    for (mask &= ~Mask{1}; mask; mask &= mask - 1) {
      const int k = __builtin_ctzll(mask);
      int run = k - before - 1;
      before = k;
      for (; run > 15; run -= 16) put(kind, kSixteenZeros, 0);
      const int value = block[kZigzag[k]];
      const int size = size_of(std::abs(value));
      largest_ac = std::max(largest_ac, size);
      put(kind, (run << 4 | size) & 0xFF, bits_of(value, size) & ((1 << kBitsOfValue) - 1));
    }
    if (before < 63) put(kind, kEndOfBlock, 0);
  }

  // A block beyond the picture that fills an MCU: flat, as light as the one before.
  void put_filler(std::uint32_t kind) {
    put(kind, 0, 0);
    put(kind | kAc, kEndOfBlock, 0);
  }
};

// All blocks in the order of an interleaved scan (T.81, A.2.3).
Tokens tokens_of(const std::vector<WrittenComponent>& components) {
  std::size_t most = 0;
  std::ptrdiff_t mcu_rows = 0, mcu_cols = 0;
  for (const WrittenComponent& component : components) {
    const auto& blocks = component.blocks;
    const int h = components.size() == 1 ? 1 : component.h, v = components.size() == 1 ? 1 : component.v;
    mcu_rows = std::max(mcu_rows, (blocks.rows + v - 1) / v);
    mcu_cols = std::max(mcu_cols, (blocks.cols + h - 1) / h);
    for (std::ptrdiff_t i = 0; i < blocks.rows * blocks.cols; ++i)
      most += static_cast<std::size_t>(__builtin_popcountll(blocks.masks[i]));
  }
  for (const WrittenComponent& component : components)
    // DC, end of block and at most three times sixteen zeros in each
    most += static_cast<std::size_t>(5 * mcu_rows * mcu_cols * component.h * component.v);
  Tokens out;
  out.tokens.reset(new Token[most]);
  out.end = out.tokens.get();
  std::array<int, 3> dc{};
  for (std::ptrdiff_t mcu_row = 0; mcu_row < mcu_rows; ++mcu_row)
    for (std::ptrdiff_t mcu_col = 0; mcu_col < mcu_cols; ++mcu_col)
      for (std::size_t c = 0; c < components.size(); ++c) {
        const Blocks& blocks = components[c].blocks;
        const int h = components.size() == 1 ? 1 : components[c].h, v = components.size() == 1 ? 1 : components[c].v;
        const std::uint32_t kind = c > 0 ? kChroma : 0;
        for (std::ptrdiff_t row = mcu_row * v; row < (mcu_row + 1) * v; ++row)
          for (std::ptrdiff_t col = mcu_col * h; col < (mcu_col + 1) * h; ++col) {
            const std::ptrdiff_t at = row * blocks.cols + col;
            if (row < blocks.rows && col < blocks.cols)
              out.put_block(blocks.values + 64 * at, blocks.masks[at], kind, dc[c]);
            else
              out.put_filler(kind);
          }
      }
  if (out.largest_dc > kMostDcSize || out.largest_ac > kMostAcSize)
    throw JpegFailure("JPEG can't be written: coefficients are larger than baseline coding holds");
  return out;
}

void put_byte(std::string& file, int byte) { file.push_back(static_cast<char>(byte)); }

void put_marker(std::string& file, int code, std::size_t content) {
  put_byte(file, 0xFF);
  put_byte(file, code);
  const std::size_t length = content + 2;
  put_byte(file, static_cast<int>(length >> 8));
  put_byte(file, static_cast<int>(length & 0xFF));
}

void put_word(std::string& file, int word) {
  put_byte(file, word >> 8);
  put_byte(file, word & 0xFF);
}

// A symbol's code and its length with the bits that follow.
struct Code {
  std::uint32_t code = 0;
  int length = 0;
};

void fill_codes(const HuffmanTable& table, Code* codes) {
  std::uint32_t code = 0;
  std::size_t at = 0;
  for (int length = 1; length <= 16; ++length, code <<= 1)
    for (int n = 0; n < table.lengths[static_cast<std::size_t>(length)]; ++n) {
      const int symbol = table.symbols[at++];
      codes[symbol] = {code++ << (symbol & 15), length + (symbol & 15)};
    }
}

class BitWriter {
 public:
  explicit BitWriter(unsigned char* to) : to_(to) {}

  void put(std::uint32_t bits, int length) {  // up to 27 bits
    bits_ = bits_ << length | bits;
    held_ += length;
    if (held_ >= 32) {
      held_ -= 32;
      put_four(static_cast<std::uint32_t>(bits_ >> held_));
    }
  }

  // Ends with ones up to a whole byte (T.81, F.1.2.3).
  unsigned char* finish() {
    put(0x7F, 7);
    for (; held_ >= 8; held_ -= 8) put_one(static_cast<unsigned char>(bits_ >> (held_ - 8)));
    return to_;
  }

 private:
  void put_one(unsigned char byte) {
    *to_++ = byte;
    if (byte == 0xFF) *to_++ = 0;
  }

  void put_four(std::uint32_t four) {
    // whether any byte is 0xFF
    if ((four & 0x80808080u) & ~(four + 0x01010101u)) {
      for (int shift = 24; shift >= 0; shift -= 8) put_one(static_cast<unsigned char>(four >> shift));
    } else {
      for (int i = 0; i < 4; ++i) to_[i] = static_cast<unsigned char>(four >> (24 - 8 * i));
      to_ += 4;
    }
  }

  unsigned char* to_;
  std::uint64_t bits_ = 0;
  int held_ = 0;
};

}  // namespace

std::string write_file(int width, int height, const std::vector<WrittenComponent>& components,
                       const std::vector<Segment>& segments) {
  const std::size_t count = components.size();
  if (count != 1 && count != 3) throw JpegFailure("JPEG can't be written: expected one or three components");
  const Tokens tokens = tokens_of(components);

  // Which of the two kinds of Huffman tables luma and chroma share, since that makes the file smaller.
  bool share[2] = {false, false};
  if (count == 3) {
    Histogram dc[2] = {{}, {}};
    for (std::size_t c = 0; c < 3; ++c) count_dc(components[c].blocks, dc[c > 0]);
    share[0] = better_shared(dc[0], dc[1]);
    share[kAc] = better_shared(tokens.histograms[kAc], tokens.histograms[kAc | kChroma]);
  }
  std::array<HuffmanTable, kKinds> tables;
  std::array<std::array<Code, 256>, kKinds> codes{};
  for (std::uint32_t ac = 0; ac < 2; ++ac) {
    const Histogram& luma = tokens.histograms[ac];
    const Histogram& chroma = tokens.histograms[ac | kChroma];
    tables[ac] = best_table(share[ac] ? sum(luma, chroma) : luma);
    if (count == 3 && !share[ac]) tables[ac | kChroma] = best_table(chroma);
    fill_codes(tables[ac], codes[ac].data());
    fill_codes(share[ac] ? tables[ac] : tables[ac | kChroma], codes[ac | kChroma].data());
  }
  std::uint64_t bits = 0;
  for (std::size_t kind = 0; kind < kKinds; ++kind)
    for (std::size_t symbol = 0; symbol < 256; ++symbol)
      bits += static_cast<std::uint64_t>(tokens.histograms[kind][symbol]) *
              static_cast<std::uint64_t>(codes[kind][symbol].length);

  std::string file;
  put_byte(file, 0xFF);
  put_byte(file, kSoi);
  for (const Segment& segment : segments) {
    if (segment.data.size() > 0xFFFF - 2) throw JpegFailure("JPEG can't be written: a segment is too long");
    put_marker(file, segment.code, segment.data.size());
    file += segment.data;
  }
  // A table that several components share is written once.
  std::array<int, 3> table_of{};
  for (std::size_t c = 0; c < count; ++c) {
    std::size_t same = 0;
    while (same < c && !std::equal(components[c].table, components[c].table + 64, components[same].table)) ++same;
    table_of[c] = static_cast<int>(same);
    if (same < c) continue;
    put_marker(file, kDqt, 65);
    put_byte(file, static_cast<int>(c));
    for (const std::uint8_t k : kZigzag) {
      if (components[c].table[k] < 1 || components[c].table[k] > 255)
        throw JpegFailure("JPEG can't be written: quantization steps must be 1..255");
      put_byte(file, components[c].table[k]);
    }
  }
  put_marker(file, kSof0, 6 + 3 * count);
  put_byte(file, 8);
  put_word(file, height);
  put_word(file, width);
  put_byte(file, static_cast<int>(count));
  for (std::size_t c = 0; c < count; ++c) {
    put_byte(file, static_cast<int>(c) + 1);
    put_byte(file, components[c].h << 4 | components[c].v);
    put_byte(file, table_of[c]);
  }
  std::size_t content = 0;
  for (const HuffmanTable& table : tables)
    if (!table.symbols.empty()) content += 17 + table.symbols.size();
  put_marker(file, kDht, content);
  for (std::uint32_t kind = 0; kind < kKinds; ++kind) {
    const HuffmanTable& table = tables[kind];
    if (table.symbols.empty()) continue;
    put_byte(file, static_cast<int>((kind & kAc) << 4 | kind >> 1));
    file.append(table.lengths.begin() + 1, table.lengths.end());
    file.append(table.symbols.begin(), table.symbols.end());
  }
  put_marker(file, kSos, 4 + 2 * count);
  put_byte(file, static_cast<int>(count));
  for (std::size_t c = 0; c < count; ++c) {
    put_byte(file, static_cast<int>(c) + 1);
    put_byte(file, c > 0 ? (share[0] ? 0 : 1) << 4 | (share[kAc] ? 0 : 1) : 0);
  }
  put_byte(file, 0);
  put_byte(file, 63);
  put_byte(file, 0);

  // Twice the bytes, if a zero had to follow every one of them.
  const std::size_t most = 2 * (static_cast<std::size_t>(bits / 8) + 2);
  const std::unique_ptr<unsigned char[]> scan(new unsigned char[most]);
  BitWriter writer(scan.get());
  constexpr std::uint32_t kValue = (1 << kBitsOfValue) - 1;
  const Code* flat = codes[0].data();
  static_assert(sizeof codes == kKinds * 256 * sizeof(Code), "one table after another");
  for (const Token* token = tokens.tokens.get(); token != tokens.end; ++token) {
    const Code& code = flat[*token >> kBitsOfValue];
    writer.put(code.code | (*token & kValue), code.length);
  }
  const unsigned char* end = writer.finish();
  file.append(reinterpret_cast<const char*>(scan.get()), static_cast<std::size_t>(end - scan.get()));
  put_byte(file, 0xFF);
  put_byte(file, kEoi);
  return file;
}

}  // namespace rjpeg
