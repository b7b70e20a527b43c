// Quantized blocks are mostly zeros: a mask for every block says where it is not zero, so that counting, checking and
// coding visit only what is there.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "clones.hpp"

namespace rjpeg {

// Natural-order index of every zigzag position (T.81, figure A.6).
extern const std::uint8_t kZigzag[64];

// Bit k is set where the coefficient at zigzag position k is not zero.
using Mask = std::uint64_t;

// For every group of four coefficients in natural order and each of its 16 patterns: the bits in zigzag order.
struct ZigzagBits {
  Mask of[16][16]{};
  ZigzagBits() noexcept;
};
extern const ZigzagBits kZigzagBits;

// The mask of 64 coefficients in natural order.
RJPEG_INLINE Mask mask_of(const std::int16_t* block) {
  std::uint8_t nonzero[64];
  for (int k = 0; k < 64; ++k) nonzero[k] = block[k] != 0;
  Mask mask = 0;
  for (int row = 0; row < 8; ++row) {
    std::uint64_t bytes;
    std::memcpy(&bytes, nonzero + 8 * row, sizeof bytes);
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
    bytes = __builtin_bswap64(bytes);
#endif
    const auto bits = static_cast<unsigned>(bytes * 0x0102040810204080u >> 56);  // bit i is byte i
    mask |= kZigzagBits.of[2 * row][bits & 15] | kZigzagBits.of[2 * row + 1][bits >> 4];
  }
  return mask;
}

// The masks of `count` blocks.
void find_masks(const std::int16_t* blocks, std::ptrdiff_t count, Mask* masks);

struct Blocks {
  const std::int16_t* values = nullptr;  // rows * cols * 64, natural order
  const Mask* masks = nullptr;           // rows * cols
  std::ptrdiff_t rows = 0, cols = 0;
};

// CRC-32 (ISO 3309, as zlib's crc32) of the blocks as 16-bit little-endian numbers, going on from `crc`.
std::uint32_t checksum(std::uint32_t crc, const Blocks& blocks);

// Adds the number of nonzero AC coefficients of every region; a component has one block a region or 2x2 of them.
void count_nonzero(const Blocks& blocks, std::ptrdiff_t rows, std::ptrdiff_t cols, std::int32_t* counts);

// Where taking the level of `wanted` in place of `predicted` saves more than `bits`: `levels` has it there, and that of
// `predicted` elsewhere; gives whether there is any such place. All are two channels a region; losses: (count, count)
// bits that a nonzero coefficient loses with the first level in the place of the second.
bool refine(const std::uint8_t* predicted, const std::uint8_t* wanted, const std::int32_t* nonzero[2],
            std::ptrdiff_t regions, const double* losses, std::ptrdiff_t count, double bits, std::uint8_t* levels);

}  // namespace rjpeg
