// The 8x8 transforms of one block, on eight columns at a time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "clones.hpp"

namespace rjpeg {

constexpr int kBlock = 8;
constexpr int kCoefficients = kBlock * kBlock;

// Eight lanes that the compiler maps to whatever vectors the machine has.
using Lanes = float __attribute__((vector_size(kBlock * sizeof(float))));
// The same anywhere in memory.
using LanesInMemory = float __attribute__((vector_size(kBlock * sizeof(float)), aligned(sizeof(float)), may_alias));

RJPEG_INLINE void load(const float* from, std::ptrdiff_t stride, Lanes x[kBlock]) {
#pragma GCC unroll 8
  for (int i = 0; i < kBlock; ++i) x[i] = *reinterpret_cast<const LanesInMemory*>(from + i * stride);
}

RJPEG_INLINE void store(const Lanes x[kBlock], float* to) {
#pragma GCC unroll 8
  for (int i = 0; i < kBlock; ++i) *reinterpret_cast<LanesInMemory*>(to + i * kBlock) = x[i];
}

// kC[k] = cos(k * pi / 16) / 2
constexpr float kC1 = 0.49039264020161522f;
constexpr float kC2 = 0.46193976625564337f;
constexpr float kC3 = 0.41573480615127262f;
constexpr float kC4 = 0.35355339059327379f;
constexpr float kC5 = 0.27778511650980111f;
constexpr float kC6 = 0.19134171618254489f;
constexpr float kC7 = 0.09754516100806412f;

// Rows become columns: within quarters, then pairs of quarters, then halves, since vectors of eight are often two of
// four.
RJPEG_INLINE void transpose(Lanes x[kBlock]) {
  Lanes y[kBlock], z[kBlock];
#pragma GCC unroll 4
  for (int i = 0; i < kBlock; i += 2) {
    y[i] = __builtin_shufflevector(x[i], x[i + 1], 0, 8, 1, 9, 4, 12, 5, 13);
    y[i + 1] = __builtin_shufflevector(x[i], x[i + 1], 2, 10, 3, 11, 6, 14, 7, 15);
  }
  for (int i = 0; i < kBlock; i += 4)
    for (int j = 0; j < 2; ++j) {
      z[i + 2 * j] = __builtin_shufflevector(y[i + j], y[i + j + 2], 0, 1, 8, 9, 4, 5, 12, 13);
      z[i + 2 * j + 1] = __builtin_shufflevector(y[i + j], y[i + j + 2], 2, 3, 10, 11, 6, 7, 14, 15);
    }
  for (int i = 0; i < kBlock / 2; ++i) {
    x[i] = __builtin_shufflevector(z[i], z[i + 4], 0, 1, 2, 3, 8, 9, 10, 11);
    x[i + 4] = __builtin_shufflevector(z[i], z[i + 4], 4, 5, 6, 7, 12, 13, 14, 15);
  }
}

RJPEG_INLINE void forward_columns(Lanes x[kBlock]) {
  const Lanes s0 = x[0] + x[7], s1 = x[1] + x[6], s2 = x[2] + x[5], s3 = x[3] + x[4];
  const Lanes d0 = x[0] - x[7], d1 = x[1] - x[6], d2 = x[2] - x[5], d3 = x[3] - x[4];
  const Lanes t0 = s0 + s3, t1 = s1 + s2, t2 = s0 - s3, t3 = s1 - s2;
  x[0] = kC4 * (t0 + t1);
  x[4] = kC4 * (t0 - t1);
  x[2] = kC2 * t2 + kC6 * t3;
  x[6] = kC6 * t2 - kC2 * t3;
  x[1] = kC1 * d0 + kC3 * d1 + kC5 * d2 + kC7 * d3;
  x[3] = kC3 * d0 - kC7 * d1 - kC1 * d2 - kC5 * d3;
  x[5] = kC5 * d0 - kC1 * d1 + kC7 * d2 + kC3 * d3;
  x[7] = kC7 * d0 - kC5 * d1 + kC3 * d2 - kC1 * d3;
}

RJPEG_INLINE void inverse_columns(Lanes x[kBlock]) {
  const Lanes t0 = kC4 * (x[0] + x[4]), t1 = kC4 * (x[0] - x[4]);
  const Lanes t2 = kC2 * x[2] + kC6 * x[6], t3 = kC6 * x[2] - kC2 * x[6];
  const Lanes s0 = t0 + t2, s3 = t0 - t2, s1 = t1 + t3, s2 = t1 - t3;
  const Lanes d0 = kC1 * x[1] + kC3 * x[3] + kC5 * x[5] + kC7 * x[7];
  const Lanes d1 = kC3 * x[1] - kC7 * x[3] - kC1 * x[5] - kC5 * x[7];
  const Lanes d2 = kC5 * x[1] - kC1 * x[3] + kC7 * x[5] + kC3 * x[7];
  const Lanes d3 = kC7 * x[1] - kC5 * x[3] + kC3 * x[5] - kC1 * x[7];
  x[0] = s0 + d0;
  x[7] = s0 - d0;
  x[1] = s1 + d1;
  x[6] = s1 - d1;
  x[2] = s2 + d2;
  x[5] = s2 - d2;
  x[3] = s3 + d3;
  x[4] = s3 - d3;
}

// The same as integers, and as they lie in memory.
using Integers = std::int32_t __attribute__((vector_size(kBlock * sizeof(std::int32_t))));
using Shorts = std::int16_t __attribute__((vector_size(kBlock * sizeof(std::int16_t)), aligned(2), may_alias));

RJPEG_INLINE bool has_ac(const std::int16_t* block) {
  std::uint64_t words[kCoefficients / 4];
  std::memcpy(words, block, sizeof words);
  std::uint64_t any = 0;
  for (int i = 1; i < kCoefficients / 4; ++i) any |= words[i];
  return (any | static_cast<std::uint16_t>(block[1] | block[2] | block[3])) != 0;
}

// Coefficients times their steps, inverse DCT, + 128, rounding and clipping to 0..255: 8 rows of 8 bytes.
RJPEG_INLINE void inverse_block(const std::int16_t* block, const float* step, std::uint8_t* out,
                                std::ptrdiff_t stride) {
  // Clipped before the conversion: a hostile file's sums do not fit an int.
  const auto integers_of = [](const Lanes& sample) {
    const Lanes shifted = sample + 128.5f, low = {}, high = low + 255.0f;
    const Lanes raised = shifted > low ? shifted : low;
    return __builtin_convertvector(raised < high ? raised : high, Integers);
  };
  if (!has_ac(block)) {
    // What the transform makes of it, without the zeros.
    const Lanes flat = Lanes{} + kC4 * (kC4 * (static_cast<float>(block[0]) * step[0]));
    const int value = integers_of(flat)[0];
    for (int i = 0; i < kBlock; ++i) std::memset(out + i * stride, value, kBlock);
    return;
  }
  Lanes x[kBlock];
  load(step, kBlock, x);
#pragma GCC unroll 8
  for (int i = 0; i < kBlock; ++i)
    x[i] *= __builtin_convertvector(*reinterpret_cast<const Shorts*>(block + i * kBlock), Lanes);
  inverse_columns(x);
  transpose(x);
  inverse_columns(x);
  // x[i] is column i of the samples. Four bytes to an integer, and the two halves of every row side by side.
  constexpr int kFirst = __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__ ? 24 : 0, kNext = kFirst == 0 ? 8 : -8;
  Integers half[2];
  for (int i = 0; i < 2; ++i) {
    half[i] = integers_of(x[4 * i]) << kFirst;
    for (int j = 1; j < 4; ++j) half[i] |= integers_of(x[4 * i + j]) << (kFirst + j * kNext);
  }
  const Integers rows[2] = {__builtin_shufflevector(half[0], half[1], 0, 8, 1, 9, 2, 10, 3, 11),
                            __builtin_shufflevector(half[0], half[1], 4, 12, 5, 13, 6, 14, 7, 15)};
  for (int i = 0; i < kBlock; ++i)
    std::memcpy(out + i * stride, reinterpret_cast<const char*>(rows) + i * kBlock, kBlock);
}

}  // namespace rjpeg
