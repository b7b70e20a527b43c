#include "entropy.hpp"

#include <algorithm>
#include <cstdlib>

#include "clones.hpp"
#include "jpeg_file.hpp"

namespace rjpeg {
namespace {

constexpr int kMaxDcSize = 11, kMaxAcSize = 10;  // T.81, F.1.2
constexpr int kEndOfBlock = 0x00, kSixteenZeros = 0xF0;
constexpr int kBitsOfValue = 11, kBitsOfSymbol = 8;

// Writes tokens and counts their symbols.
class Tokenizer {
 public:
  explicit Tokenizer(Token* to, Histogram* histograms) : to_(to), histograms_(histograms) {}

  RJPEG_INLINE void put_block(const std::int16_t* block, Mask mask, std::uint32_t kind, int& dc) {
    const int difference = block[0] - dc;
    dc = block[0];
    Token* to = to_;
    largest_dc_ |= std::abs(difference);
    *to++ = token(kind, size_of(std::abs(difference)), difference);
    kind |= kAc;
    int before = 0;
    for (mask &= ~Mask{1}; mask; mask &= mask - 1) {
      const int k = __builtin_ctzll(mask);
      int run = k - before - 1;
      before = k;
      for (; run > 15; run -= 16) *to++ = token(kind, kSixteenZeros, 0);
      const int value = block[kZigzag[k]];
      const int magnitude = std::abs(value);
      largest_ac_ |= magnitude;
      *to++ = token(kind, run << 4 | size_of(magnitude), value);
    }
    if (before < 63) *to++ = token(kind, kEndOfBlock, 0);
    for (const Token* each = to_; each < to; ++each) ++counts()[*each >> kBitsOfValue];
    to_ = to;
  }

  // A block beyond the picture that fills an MCU: flat, as light as the one before.
  void put_filler(std::uint32_t kind) {
    for (const Token each : {token(kind, 0, 0), token(kind | kAc, kEndOfBlock, 0)}) {
      ++counts()[each >> kBitsOfValue];
      *to_++ = each;
    }
  }

  const Token* end() const { return to_; }
  bool fits_baseline() const { return size_of(largest_dc_) <= kMaxDcSize && size_of(largest_ac_) <= kMaxAcSize; }

 private:
  std::uint32_t* counts() { return histograms_->data(); }

  // Negative values are one's complements (T.81, F.1.2.1). Sizes that baseline coding lacks are refused in the end.
  static Token token(std::uint32_t kind, int symbol, int value) {
    const int size = symbol & 15;
    const int bits = (value < 0 ? value - 1 : value) & ((1 << size) - 1) & ((1 << kBitsOfValue) - 1);
    return kind << (kBitsOfSymbol + kBitsOfValue) | static_cast<Token>(symbol & 0xFF) << kBitsOfValue |
           static_cast<Token>(bits);
  }

  Token* to_;
  Histogram* histograms_;
  int largest_dc_ = 0, largest_ac_ = 0;  // all magnitudes' bits
};

// The next power of two, so that a video's frames, each a little larger or smaller, take the same memory again.
std::size_t rounded(std::size_t count) {
  std::size_t result = 1;
  while (result < count) result *= 2;
  return result;
}

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

  RJPEG_INLINE void put(std::uint32_t bits, int length) {  // up to 27 bits
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

// The tokens' codes, those of each kind after those of the one before. Returns the end of what was written.
RJPEG_WIDE
unsigned char* write_scan(const Token* token, const Token* end, const Code* codes, unsigned char* to) {
  constexpr std::uint32_t kValue = (1 << kBitsOfValue) - 1;
  BitWriter writer(to);
  for (; token != end; ++token) {
    const Code& code = codes[*token >> kBitsOfValue];
    writer.put(code.code | (*token & kValue), code.length);
  }
  return writer.finish();
}

std::uint64_t coded_bits(const Tokens& tokens, const EntropyCode& code) {
  std::uint64_t bits = 0;
  for (std::size_t kind = 0; kind < kKinds; ++kind)
    for (std::size_t symbol = 0; symbol < 256; ++symbol)
      bits += static_cast<std::uint64_t>(tokens.histograms[kind][symbol]) *
              static_cast<std::uint64_t>(code.codes[kind][symbol].length);
  return bits;
}

}  // namespace

// All blocks in the order of an interleaved scan (T.81, A.2.3).
RJPEG_WIDE
Tokens tokens_of(const std::vector<WrittenComponent>& components) {
  std::size_t most = 0;
  std::ptrdiff_t mcu_rows = 0, mcu_cols = 0;
  std::array<std::ptrdiff_t, 3> h{1, 1, 1}, v{1, 1, 1};
  for (std::size_t c = 0; c < components.size(); ++c) {
    const Blocks& blocks = components[c].blocks;
    if (components.size() > 1) {
      h[c] = components[c].h;
      v[c] = components[c].v;
    }
    mcu_rows = std::max(mcu_rows, (blocks.rows + v[c] - 1) / v[c]);
    mcu_cols = std::max(mcu_cols, (blocks.cols + h[c] - 1) / h[c]);
    for (std::ptrdiff_t i = 0; i < blocks.rows * blocks.cols; ++i)
      most += static_cast<std::size_t>(__builtin_popcountll(blocks.masks[i]));
  }
  for (std::size_t c = 0; c < components.size(); ++c)
    // DC, end of block and at most three times sixteen zeros in each
    most += static_cast<std::size_t>(5 * mcu_rows * mcu_cols * h[c] * v[c]);
  Tokens out;
  out.tokens = Buffer<Token>(rounded(most));
  static_assert(sizeof out.histograms == kKinds * sizeof(Histogram), "one histogram after another");
  Tokenizer tokenizer(out.tokens.data(), out.histograms.data());
  std::array<int, 3> dc{};
  for (std::ptrdiff_t mcu_row = 0; mcu_row < mcu_rows; ++mcu_row)
    for (std::ptrdiff_t mcu_col = 0; mcu_col < mcu_cols; ++mcu_col)
      for (std::size_t c = 0; c < components.size(); ++c) {
        const Blocks& blocks = components[c].blocks;
        const std::uint32_t kind = c > 0 ? kChroma : 0;
        for (std::ptrdiff_t row = mcu_row * v[c]; row < (mcu_row + 1) * v[c]; ++row)
          for (std::ptrdiff_t col = mcu_col * h[c]; col < (mcu_col + 1) * h[c]; ++col) {
            const std::ptrdiff_t at = row * blocks.cols + col;
            if (row < blocks.rows && col < blocks.cols)
              tokenizer.put_block(blocks.values + 64 * at, blocks.masks[at], kind, dc[c]);
            else
              tokenizer.put_filler(kind);
          }
      }
  out.end = tokenizer.end();
  if (!tokenizer.fits_baseline())
    throw JpegFailure("JPEG can't be written: coefficients are larger than baseline coding holds");
  return out;
}

EntropyCode choose_code(const Tokens& tokens, const std::vector<WrittenComponent>& components) {
  const bool color = components.size() > 1;
  EntropyCode chosen;
  if (color) {
    // As a scan of each component alone would have them: a filler's DC symbols tell nothing of the picture.
    Histogram dc[2] = {{}, {}};
    for (std::size_t c = 0; c < components.size(); ++c) count_dc(components[c].blocks, dc[c > 0]);
    chosen.share_dc = better_shared(dc[0], dc[1]);
    chosen.share_ac = better_shared(tokens.histograms[kAc], tokens.histograms[kAc | kChroma]);
  }
  for (const std::uint32_t ac : {std::uint32_t{0}, kAc}) {
    const bool share = ac != 0 ? chosen.share_ac : chosen.share_dc;
    const Histogram& luma = tokens.histograms[ac];
    const Histogram& chroma = tokens.histograms[ac | kChroma];
    HuffmanTable& first = chosen.tables[ac];
    HuffmanTable& second = chosen.tables[ac | kChroma];
    first = best_table(share ? sum(luma, chroma) : luma);
    if (color && !share) second = best_table(chroma);
    fill_codes(first, chosen.codes[ac].data());
    fill_codes(share ? first : second, chosen.codes[ac | kChroma].data());
  }
  return chosen;
}

void append_scan(const Tokens& tokens, const EntropyCode& code, std::string& file) {
  // Twice the bytes, if a zero had to follow every one of them.
  const std::size_t most = 2 * (static_cast<std::size_t>(coded_bits(tokens, code) / 8) + 2);
  Buffer<unsigned char> scan(rounded(most));
  static_assert(sizeof code.codes == kKinds * 256 * sizeof(Code), "one table after another");
  const unsigned char* end = write_scan(tokens.tokens.data(), tokens.end, code.codes[0].data(), scan.data());
  file.append(reinterpret_cast<const char*>(scan.data()), static_cast<std::size_t>(end - scan.data()));
}

}  // namespace rjpeg
