#include "transform.hpp"

#include <algorithm>
#include <cstring>

namespace rjpeg {
namespace {

// Eight lanes that the compiler maps to whatever vectors the machine has.
typedef float Lanes __attribute__((vector_size(kBlock * sizeof(float))));

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

inline void transpose(Lanes x[kBlock]) {
  float flat[kBlock][kBlock];
  std::memcpy(flat, x, sizeof flat);
  float turned[kBlock][kBlock];
  for (int i = 0; i < kBlock; ++i)
    for (int j = 0; j < kBlock; ++j) turned[j][i] = flat[i][j];
  std::memcpy(x, turned, sizeof turned);
}

inline void forward_columns(Lanes x[kBlock]) {
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

inline void inverse_columns(Lanes x[kBlock]) {
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

}  // namespace

void forward_dct(const std::uint8_t* plane, std::ptrdiff_t height, std::ptrdiff_t width, std::ptrdiff_t stride,
                 std::ptrdiff_t block_rows, std::ptrdiff_t block_cols, float* coefficients) {
  for (std::ptrdiff_t block_row = 0; block_row < block_rows; ++block_row) {
    const std::uint8_t* rows[kBlock];
    for (int i = 0; i < kBlock; ++i)
      rows[i] = plane + std::min(block_row * kBlock + i, height - 1) * stride;
    for (std::ptrdiff_t block_col = 0; block_col < block_cols; ++block_col) {
      const std::ptrdiff_t left = block_col * kBlock;
      Lanes x[kBlock];
      for (int i = 0; i < kBlock; ++i) {
        float row[kBlock];
        if (left + kBlock <= width) {
          for (int j = 0; j < kBlock; ++j) row[j] = static_cast<float>(rows[i][left + j]) - 128.0f;
        } else {
          for (int j = 0; j < kBlock; ++j)
            row[j] = static_cast<float>(rows[i][std::min(left + j, width - 1)]) - 128.0f;
        }
        std::memcpy(&x[i], row, sizeof row);
      }
      forward_columns(x);
      transpose(x);
      forward_columns(x);
      transpose(x);
      std::memcpy(coefficients, x, sizeof x);
      coefficients += kCoefficients;
    }
  }
}

void quantize(const float* coefficients, std::ptrdiff_t blocks, const float* steps, const std::uint8_t* levels,
              float dead_zone, std::int16_t* quantized) {
  float offsets[kCoefficients];
  std::fill(offsets, offsets + kCoefficients, 0.5f - dead_zone);
  offsets[0] = 0.5f;
  for (std::ptrdiff_t block = 0; block < blocks; ++block) {
    const float* step = steps + levels[block] * kCoefficients;
    for (int k = 0; k < kCoefficients; ++k) {
      const float c = coefficients[k];
      const float magnitude = c < 0.0f ? -c : c;
      const float index = magnitude / step[k] + offsets[k];
      const int q = static_cast<int>(index < kLargestQuantized ? index : kLargestQuantized);
      quantized[k] = static_cast<std::int16_t>(c < 0.0f ? -q : q);
    }
    coefficients += kCoefficients;
    quantized += kCoefficients;
  }
}

void inverse_dct(const std::int16_t* quantized, std::ptrdiff_t block_rows, std::ptrdiff_t block_cols,
                 const float* steps, const std::uint8_t* levels, std::uint8_t* plane) {
  const std::ptrdiff_t stride = block_cols * kBlock;
  for (std::ptrdiff_t block_row = 0; block_row < block_rows; ++block_row) {
    for (std::ptrdiff_t block_col = 0; block_col < block_cols; ++block_col) {
      const float* step = steps + *levels++ * kCoefficients;
      float scaled[kCoefficients];
      for (int k = 0; k < kCoefficients; ++k) scaled[k] = static_cast<float>(quantized[k]) * step[k];
      Lanes x[kBlock];
      std::memcpy(x, scaled, sizeof x);
      inverse_columns(x);
      transpose(x);
      inverse_columns(x);
      transpose(x);
      float samples[kCoefficients];
      std::memcpy(samples, x, sizeof samples);
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
