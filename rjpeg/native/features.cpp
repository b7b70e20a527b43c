#include "features.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <vector>

#include "clones.hpp"
#include "sparse.hpp"
#include "transform.hpp"

namespace rjpeg {
namespace {

constexpr double kStepsPerOctave = 12;
constexpr double kLowest = -128, kHighest = 127;
constexpr double kMiddleRate = 64;

std::uint32_t bits_of(float x) {
  std::uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  return bits;
}

std::int8_t within_int8(int value) { return static_cast<std::int8_t>(std::min(std::max(value, -128), 127)); }

// The four blocks of a region, row by row; where the last row or column has only one, it stands for both.
struct FourBlocks {
  std::ptrdiff_t at[4];
  FourBlocks(std::ptrdiff_t row, std::ptrdiff_t col, std::ptrdiff_t block_rows, std::ptrdiff_t block_cols) {
    const std::ptrdiff_t below = std::min(2 * row + 1, block_rows - 1), right = std::min(2 * col + 1, block_cols - 1);
    at[0] = 2 * row * block_cols + 2 * col;
    at[1] = 2 * row * block_cols + right;
    at[2] = below * block_cols + 2 * col;
    at[3] = below * block_cols + right;
  }
};

}  // namespace

std::int8_t Quantization::of(double value) const {
  return static_cast<std::int8_t>(std::min(std::max(std::floor(value / scale + 0.5) + zero_point, kLowest), kHighest));
}

Companding::Companding(double scale) {
  for (int n = 0; n < 256; ++n) {
    const double exact = n == 0 ? 1.0 : std::exp2((n - 0.5) * scale / kStepsPerOctave);
    const double most = std::numeric_limits<float>::max();
    auto x = static_cast<float>(std::min(exact, most));
    if (x < exact) x = std::nextafter(x, std::numeric_limits<float>::infinity());
    from_.push_back(x);
  }
  from_.push_back(std::numeric_limits<float>::infinity());
  least_.reserve(kOctaves << kMantissaBits);
  std::size_t result = 0;
  for (std::uint32_t i = 0; i < kOctaves << kMantissaBits; ++i) {
    const std::uint32_t bits = bits_of(1.0f) + (i << (23 - kMantissaBits));
    float x;
    std::memcpy(&x, &bits, sizeof x);
    while (x >= from_[result + 1]) ++result;
    least_.push_back(static_cast<std::uint8_t>(result));
  }
}

int Companding::of(float x) const {
  const std::uint32_t at = (bits_of(x) - bits_of(1.0f)) >> (23 - kMantissaBits);
  if (at >= least_.size()) return 255;
  int result = least_[at];
  while (x >= from_[static_cast<std::size_t>(result) + 1]) ++result;
  return result;
}

namespace {

// Making one takes as long as all else for a small frame, and a model has one scale.
const Companding& companding_for(double scale) {
  thread_local double of = 0;
  thread_local std::unique_ptr<const Companding> kept;
  if (kept == nullptr || of != scale) {
    kept = std::make_unique<const Companding>(scale);
    of = scale;
  }
  return *kept;
}

}  // namespace

RJPEG_WIDE
void generator_input(const float* y, std::ptrdiff_t block_rows, std::ptrdiff_t block_cols, const float* cb,
                     const float* cr, std::ptrdiff_t rows, std::ptrdiff_t cols, int rate, const Quantization& to,
                     std::int8_t* input) {
  const Companding& companding = companding_for(to.scale);
  const std::int8_t rate_value = to.of(rate - kMiddleRate);
  const auto put = [&](const float* block, int frequencies) {
    *input++ = to.of(std::min(std::max(static_cast<double>(block[0] / kBlock), kLowest), kHighest));
    for (int k = 1; k < frequencies; ++k) {
      const float c = block[kZigzag[k]];
      const int size = companding.of(1.0f + std::fabs(c));
      const int negative = -static_cast<int>(bits_of(c) >> 31);
      *input++ = within_int8((size ^ negative) - negative + to.zero_point);
    }
  };
  for (std::ptrdiff_t row = 0; row < rows; ++row)
    for (std::ptrdiff_t col = 0; col < cols; ++col) {
      for (const std::ptrdiff_t at : FourBlocks(row, col, block_rows, block_cols).at)
        put(y + at * kCoefficients, kLumaFrequencies);
      for (const float* chroma : {cb, cr}) put(chroma + (row * cols + col) * kCoefficients, kChromaFrequencies);
      *input++ = rate_value;
    }
}

void predictor_input(const std::int32_t* y, std::ptrdiff_t block_rows, std::ptrdiff_t block_cols,
                     const std::int32_t* cb, const std::int32_t* cr, bool whole_chroma, int rate,
                     const Quantization& to, std::int8_t* input) {
  const std::ptrdiff_t rows = (block_rows + 1) / 2, cols = (block_cols + 1) / 2;
  const std::int8_t rate_value = to.of(rate - kMiddleRate);
  // Sums of four integers over powers of two: no rounding but that of the input.
  const auto put = [&](double dc) { *input++ = to.of(std::min(std::max(dc / kBlock, kLowest), kHighest)); };
  for (std::ptrdiff_t row = 0; row < rows; ++row)
    for (std::ptrdiff_t col = 0; col < cols; ++col) {
      const FourBlocks four(row, col, block_rows, block_cols);
      for (const std::ptrdiff_t at : four.at) put(y[at]);
      for (const std::int32_t* chroma : {cb, cr}) {
        double dc = 0;
        if (whole_chroma) {
          for (const std::ptrdiff_t at : four.at) dc += chroma[at];
          dc /= 4;
        } else {
          dc = chroma[row * cols + col];
        }
        put(dc);
      }
      *input++ = rate_value;
    }
}

void levels_from_output(const std::int8_t* output, std::ptrdiff_t rows, std::ptrdiff_t cols, std::ptrdiff_t window,
                        double factor, const double offsets[2], int most, std::uint8_t* levels) {
  // Sums over all regions above and to the left (Crow, "Summed-area tables", 1984).
  const std::ptrdiff_t stride = 2 * (cols + 1), half = window / 2;
  std::vector<std::int64_t> sums((rows + 1) * stride);
  for (std::ptrdiff_t row = 0; row < rows; ++row)
    for (std::ptrdiff_t i = 0; i < 2 * cols; ++i) {
      std::int64_t* sum = &sums[(row + 1) * stride + i + 2];
      sum[0] = output[2 * row * cols + i] + sum[-2] + sum[-stride] - sum[-stride - 2];
    }
  for (std::ptrdiff_t row = 0; row < rows; ++row) {
    const std::ptrdiff_t top = std::max<std::ptrdiff_t>(row - half, 0), bottom = std::min(row + half + 1, rows);
    for (std::ptrdiff_t col = 0; col < cols; ++col) {
      const std::ptrdiff_t left = std::max<std::ptrdiff_t>(col - half, 0), right = std::min(col + half + 1, cols);
      const std::int64_t count = (bottom - top) * (right - left);
      for (int channel = 0; channel < 2; ++channel) {
        const auto above_left = [&](std::ptrdiff_t y, std::ptrdiff_t x) { return sums[y * stride + 2 * x + channel]; };
        const std::int64_t sum =
            above_left(bottom, right) - above_left(top, right) - above_left(bottom, left) + above_left(top, left);
        const std::int64_t centered = *output++ * count - sum;
        const double octaves = static_cast<double>(centered) * factor / static_cast<double>(count);
        const double level = std::floor(octaves + offsets[channel]);
        *levels++ = static_cast<std::uint8_t>(std::min(std::max(level, 0.0), static_cast<double>(most)));
      }
    }
  }
}

}  // namespace rjpeg
