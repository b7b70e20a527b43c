#include "transform.hpp"

#include "clones.hpp"

#include <algorithm>
#include <vector>

namespace rjpeg {
namespace {

// Eight lanes that the compiler maps to whatever vectors the machine has.
typedef float Lanes __attribute__((vector_size(kBlock * sizeof(float))));
// The same anywhere in memory.
typedef float LanesInMemory __attribute__((vector_size(kBlock * sizeof(float)), aligned(sizeof(float)), may_alias));

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

// Largest coefficient that baseline Huffman coding holds (T.81, F.1.2.2: AC categories up to 10).
constexpr float kLargestQuantized = 1023.0f;

// Rows become columns: within quarters, then pairs of quarters, then halves, since vectors of eight are often two of four.
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

RJPEG_INLINE int quantized_value(float c, float step, float offset) {
  const float magnitude = c < 0.0f ? -c : c;
  const float index = magnitude / step + offset;
  const int q = static_cast<int>(index < kLargestQuantized ? index : kLargestQuantized);
  return c < 0.0f ? -q : q;
}

RJPEG_INLINE void quantize_block(const float* coefficients, const float* step, const float* offsets,
                                 std::int16_t* quantized) {
  for (int k = 0; k < kCoefficients; ++k)
    quantized[k] = static_cast<std::int16_t>(quantized_value(coefficients[k], step[k], offsets[k]));
}

RJPEG_INLINE void fill_offsets(float dead_zone, float* offsets) {
  std::fill(offsets, offsets + kCoefficients, 0.5f - dead_zone);
  offsets[0] = 0.5f;
}

// A row of blocks. samples: 8 * 8 * block_cols floats to work in.
RJPEG_INLINE void forward_row(const std::uint8_t* plane, std::ptrdiff_t height, std::ptrdiff_t width,
                              std::ptrdiff_t stride, std::ptrdiff_t block_row, std::ptrdiff_t block_cols,
                              float* samples, float* coefficients) {
  const std::ptrdiff_t padded = block_cols * kBlock, whole = std::min(width, padded);
  for (int i = 0; i < kBlock; ++i) {
    const std::uint8_t* row = plane + std::min(block_row * kBlock + i, height - 1) * stride;
    float* line = samples + i * padded;
    for (std::ptrdiff_t j = 0; j < whole; ++j) line[j] = static_cast<float>(row[j]) - 128.0f;
    for (std::ptrdiff_t j = whole; j < padded; ++j) line[j] = line[whole - 1];
  }
  for (std::ptrdiff_t block_col = 0; block_col < block_cols; ++block_col) {
    Lanes x[kBlock];
    load(samples + block_col * kBlock, padded, x);
    forward_columns(x);
    transpose(x);
    forward_columns(x);
    transpose(x);
    store(x, coefficients + block_col * kCoefficients);
  }
}

// A row of blocks; across: whether regions have 2x2 blocks.
RJPEG_INLINE void quantize_row(const float* coefficients, std::ptrdiff_t block_row, std::ptrdiff_t block_cols,
                               const float* steps, const RegionLevels& levels, int across, const std::uint8_t* before,
                               const float* offsets, std::int16_t* quantized, Mask* masks) {
  for (std::ptrdiff_t col = 0; col < block_cols; ++col) {
    const std::ptrdiff_t region = ((block_row >> across) * levels.cols + (col >> across)) * 2;
    const std::uint8_t level = levels.values[region];
    if (before == nullptr || before[region] != level) {
      quantize_block(coefficients, steps + level * kCoefficients, offsets, quantized);
      masks[col] = mask_of(quantized);
    }
    coefficients += kCoefficients;
    quantized += kCoefficients;
  }
}

}  // namespace

RJPEG_WIDE
void forward_dct(const std::uint8_t* plane, std::ptrdiff_t height, std::ptrdiff_t width, std::ptrdiff_t stride,
                 std::ptrdiff_t block_rows, std::ptrdiff_t block_cols, float* coefficients) {
  std::vector<float> samples(static_cast<std::size_t>(block_cols) * kCoefficients);
  for (std::ptrdiff_t row = 0; row < block_rows; ++row, coefficients += block_cols * kCoefficients)
    forward_row(plane, height, width, stride, row, block_cols, samples.data(), coefficients);
}

RJPEG_WIDE
void quantize(const float* coefficients, std::ptrdiff_t blocks, const float* steps, const std::uint8_t* levels,
              float dead_zone, std::int16_t* quantized) {
  float offsets[kCoefficients];
  fill_offsets(dead_zone, offsets);
  for (std::ptrdiff_t block = 0; block < blocks; ++block) {
    quantize_block(coefficients, steps + levels[block] * kCoefficients, offsets, quantized);
    coefficients += kCoefficients;
    quantized += kCoefficients;
  }
}

RJPEG_WIDE
void quantize_regions(const float* coefficients, std::ptrdiff_t block_rows, std::ptrdiff_t block_cols,
                      const float* steps, const RegionLevels& levels, const std::uint8_t* before, float dead_zone,
                      std::int16_t* quantized, Mask* masks) {
  float offsets[kCoefficients];
  fill_offsets(dead_zone, offsets);
  const int across = block_rows == levels.rows && block_cols == levels.cols ? 0 : 1;
  for (std::ptrdiff_t row = 0; row < block_rows; ++row)
    quantize_row(coefficients + row * block_cols * kCoefficients, row, block_cols, steps, levels, across, before,
                 offsets, quantized + row * block_cols * kCoefficients, masks + row * block_cols);
}

RJPEG_WIDE
void transform_and_quantize(const std::uint8_t* plane, std::ptrdiff_t height, std::ptrdiff_t width,
                            std::ptrdiff_t stride, std::ptrdiff_t block_rows, std::ptrdiff_t block_cols,
                            const float* steps, const RegionLevels& levels, float dead_zone, std::int16_t* quantized,
                            Mask* masks) {
  float offsets[kCoefficients];
  fill_offsets(dead_zone, offsets);
  const int across = block_rows == levels.rows && block_cols == levels.cols ? 0 : 1;
  const std::size_t in_row = static_cast<std::size_t>(block_cols) * kCoefficients;
  std::vector<float> samples(in_row), coefficients(in_row);
  for (std::ptrdiff_t row = 0; row < block_rows; ++row) {
    forward_row(plane, height, width, stride, row, block_cols, samples.data(), coefficients.data());
    quantize_row(coefficients.data(), row, block_cols, steps, levels, across, nullptr, offsets,
                 quantized + row * block_cols * kCoefficients, masks + row * block_cols);
  }
}

RJPEG_WIDE
void dequantized_dc(const float* coefficients, std::ptrdiff_t blocks, int step, std::int32_t* dc) {
  const auto divisor = static_cast<float>(step);
  for (std::ptrdiff_t block = 0; block < blocks; ++block) {
    const float c = coefficients[block * kCoefficients];
    dc[block] = quantized_value(c, divisor, 0.5f) * step;
  }
}

RJPEG_WIDE
void inverse_dct(const std::int16_t* quantized, std::ptrdiff_t block_rows, std::ptrdiff_t block_cols,
                 const float* steps, const std::uint8_t* levels, std::uint8_t* plane) {
  const std::ptrdiff_t stride = block_cols * kBlock;
  for (std::ptrdiff_t block_row = 0; block_row < block_rows; ++block_row) {
    for (std::ptrdiff_t block_col = 0; block_col < block_cols; ++block_col) {
      const float* step = steps + *levels++ * kCoefficients;
      float scaled[kCoefficients];
      for (int k = 0; k < kCoefficients; ++k) scaled[k] = static_cast<float>(quantized[k]) * step[k];
      Lanes x[kBlock];
      load(scaled, kBlock, x);
      inverse_columns(x);
      transpose(x);
      inverse_columns(x);
      transpose(x);
      float samples[kCoefficients];
      store(x, samples);
      std::uint8_t* out = plane + block_row * kBlock * stride + block_col * kBlock;
      for (int i = 0; i < kBlock; ++i)
        for (int j = 0; j < kBlock; ++j) {
          // Clipped before the conversion: a hostile file's sums do not fit an int.
          const float sample = std::min(std::max(samples[i * kBlock + j] + 128.5f, 0.0f), 255.0f);
          out[i * stride + j] = static_cast<std::uint8_t>(static_cast<int>(sample));
        }
      quantized += kCoefficients;
    }
  }
}

}  // namespace rjpeg
