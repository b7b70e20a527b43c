#include "transform.hpp"

#include "clones.hpp"
#include "lanes.hpp"

#include <algorithm>
#include <vector>

namespace rjpeg {
namespace {

// Largest coefficient that baseline Huffman coding holds (T.81, F.1.2.2: AC categories up to 10).
constexpr float kLargestQuantized = 1023.0f;

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

}  // namespace rjpeg
