#include "sparse.hpp"

#include <array>

namespace rjpeg {

const std::uint8_t kZigzag[64] = {0,  1,  8,  16, 9,  2,  3,  10, 17, 24, 32, 25, 18, 11, 4,  5,
                                  12, 19, 26, 33, 40, 48, 41, 34, 27, 20, 13, 6,  7,  14, 21, 28,
                                  35, 42, 49, 56, 57, 50, 43, 36, 29, 22, 15, 23, 30, 37, 44, 51,
                                  58, 59, 52, 45, 38, 31, 39, 46, 53, 60, 61, 54, 47, 55, 62, 63};

ZigzagBits::ZigzagBits() noexcept {
  for (int k = 0; k < 64; ++k)
    for (int pattern = 0; pattern < 16; ++pattern)
      if (pattern >> (kZigzag[k] % 4) & 1) of[kZigzag[k] / 4][pattern] |= Mask{1} << k;
}

const ZigzagBits kZigzagBits;

namespace {

// The CRC's register is linear over GF(2): a block's is that of the block before, moved on by 128 bytes, and the sum of
// what every coefficient adds in its place.
constexpr int kNear = 8;

struct CrcTables {
  // natural index, coefficient of -kNear..kNear-1: most are, and these stay in the cache
  std::uint32_t near[64][2 * kNear];
  std::uint32_t small[64][256];  // natural index, low byte: a coefficient of -128..127
  std::uint32_t high[64][256];   // what another high byte changes
  std::uint32_t moved[4][256];   // one byte of the register, 128 bytes on

  CrcTables() {
    std::array<std::uint32_t, 256> byte{};
    for (std::uint32_t i = 0; i < 256; ++i) {
      std::uint32_t crc = i;
      for (int bit = 0; bit < 8; ++bit) crc = crc >> 1 ^ (crc & 1 ? 0xEDB88320u : 0);
      byte[i] = crc;
    }
    const auto next = [&byte](std::uint32_t crc) { return crc >> 8 ^ byte[crc & 255]; };
    for (std::uint32_t i = 0; i < 256; ++i) {
      std::uint32_t crc = byte[i];  // as the last byte of a block
      for (int k = 63; k >= 0; --k) {
        high[k][i] = crc;
        crc = next(crc);
        small[k][i] = crc;
        crc = next(crc);
      }
    }
    for (int k = 0; k < 64; ++k)
      for (int i = 128; i < 256; ++i) small[k][i] ^= high[k][255];
    for (int k = 0; k < 64; ++k)
      for (int i = -kNear; i < kNear; ++i) near[k][i + kNear] = small[k][i & 255];
    for (int part = 0; part < 4; ++part)
      for (std::uint32_t i = 0; i < 256; ++i) {
        std::uint32_t crc = i << 8 * part;
        for (int n = 0; n < 128; ++n) crc = next(crc);
        moved[part][i] = crc;
      }
  }
};

const CrcTables& crc_tables() {
  static const CrcTables tables;
  return tables;
}

}  // namespace

RJPEG_WIDE
void find_masks(const std::int16_t* blocks, std::ptrdiff_t count, Mask* masks) {
  for (std::ptrdiff_t i = 0; i < count; ++i, blocks += 64) masks[i] = mask_of(blocks);
}

RJPEG_WIDE
std::uint32_t checksum(std::uint32_t crc, const Blocks& blocks) {
  const CrcTables& tables = crc_tables();
  crc = ~crc;
  const std::int16_t* block = blocks.values;
  for (std::ptrdiff_t i = 0; i < blocks.rows * blocks.cols; ++i, block += 64) {
    crc = tables.moved[0][crc & 255] ^ tables.moved[1][crc >> 8 & 255] ^ tables.moved[2][crc >> 16 & 255] ^
          tables.moved[3][crc >> 24];
    for (Mask mask = blocks.masks[i]; mask; mask &= mask - 1) {
      const int k = kZigzag[__builtin_ctzll(mask)];
      const int value = block[k];
      if (static_cast<unsigned>(value + kNear) < 2 * kNear) {
        crc ^= tables.near[k][value + kNear];
        continue;
      }
      crc ^= tables.small[k][value & 255];
      const int rest = (value >> 8 & 255) ^ (value & 128 ? 255 : 0);
      if (rest) crc ^= tables.high[k][rest];
    }
  }
  return ~crc;
}

RJPEG_WIDE
void count_nonzero(const Blocks& blocks, std::ptrdiff_t rows, std::ptrdiff_t cols, std::int32_t* counts) {
  const int across = blocks.cols == cols && blocks.rows == rows ? 0 : 1;
  for (std::ptrdiff_t row = 0; row < blocks.rows; ++row)
    for (std::ptrdiff_t col = 0; col < blocks.cols; ++col)
      counts[(row >> across) * cols + (col >> across)] +=
          __builtin_popcountll(blocks.masks[row * blocks.cols + col] & ~Mask{1});
}

bool refine(const std::uint8_t* predicted, const std::uint8_t* wanted, const std::int32_t* nonzero[2],
            std::ptrdiff_t regions, const double* losses, std::ptrdiff_t count, double bits, std::uint8_t* levels) {
  bool any = false;
  for (std::ptrdiff_t i = 0; i < 2 * regions; ++i) {
    const bool pays = nonzero[i & 1][i >> 1] * losses[predicted[i] * count + wanted[i]] > bits;
    levels[i] = pays ? wanted[i] : predicted[i];
    any |= pays;
  }
  return any;
}

}  // namespace rjpeg
