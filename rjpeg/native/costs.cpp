#include "costs.hpp"

#include <algorithm>
#include <cmath>
#include <cstdlib>

#include "clones.hpp"
#include "lanes.hpp"

namespace rjpeg {
namespace {

int size_of_value(int magnitude) { return magnitude == 0 ? 0 : 32 - __builtin_clz(static_cast<unsigned>(magnitude)); }

// About the bits of a run of zeros and the value behind it: its code, which grows with both, and the value's own bits.
float bits_of_pair(int run, int size) {
  const int sixteens = run / 16, longest = std::min(run, 15);
  return 11.0f * static_cast<float>(sixteens) + 1.0f + 1.44f * std::sqrt(static_cast<float>(longest)) +
         2.6f * static_cast<float>(size);
}

struct PairBits {
  float of[64][12]{};
  PairBits() noexcept {
    for (int run = 0; run < 64; ++run)
      for (int size = 0; size < 12; ++size) of[run][size] = bits_of_pair(run, size);
  }
};

const PairBits kPairBits;

// The nonzero AC coefficients of a block, last first, each weighed against its bits.
RJPEG_INLINE Mask trimmed(const float* coefficients, const float* steps, float price, std::int16_t* block, Mask mask) {
  Mask left = mask & ~Mask{1};
  int next = 64, next_size = 0;  // the coefficient behind, if there is one
  while (left != 0) {
    const int k = 63 - __builtin_clzll(left);
    left &= ~(Mask{1} << k);
    const int before = left != 0 ? 63 - __builtin_clzll(left) : 0;
    const int at = kZigzag[k], value = block[at], magnitude = std::abs(value), size = size_of_value(magnitude);
    const float c = std::fabs(coefficients[at]), step = steps[at];
    const float error = c - static_cast<float>(magnitude) * step;
    const float own = kPairBits.of[k - before - 1][size];
    const float behind = next < 64 ? kPairBits.of[next - k - 1][next_size] : 0.0f;
    const float joined = next < 64 ? kPairBits.of[next - before - 1][next_size] : 0.0f;
    const float saved = own + behind - joined, added = c * c - error * error;
    if (added < price * saved) {
      block[at] = 0;
      mask &= ~(Mask{1} << k);
      continue;
    }
    const int smaller = magnitude - 1;
    int kept_size = size;
    if (smaller > 0 && size_of_value(smaller) < size) {
      const float left_over = c - static_cast<float>(smaller) * step;
      const float less = own - kPairBits.of[k - before - 1][size - 1];
      if (left_over * left_over - error * error < price * less) {
        block[at] = static_cast<std::int16_t>(value < 0 ? -smaller : smaller);
        kept_size = size - 1;
      }
    }
    next = k;
    next_size = kept_size;
  }
  return mask;
}

float bits_of_block(const std::int16_t* block, Mask mask, int dc_before) {
  constexpr float end_of_block = 3.0f, dc_code = 2.5f;
  float bits = dc_code + static_cast<float>(size_of_value(std::abs(block[0] - dc_before)));
  int before = 0;
  for (mask &= ~Mask{1}; mask; mask &= mask - 1) {
    const int k = __builtin_ctzll(mask);
    bits += kPairBits.of[k - before - 1][size_of_value(std::abs(block[kZigzag[k]]))];
    before = k;
  }
  return before < 63 ? bits + end_of_block : bits;
}

}  // namespace

RJPEG_WIDE
void add_squared_differences(const std::uint8_t* a, std::ptrdiff_t a_stride, const std::uint8_t* b,
                             std::ptrdiff_t b_stride, std::ptrdiff_t rows, std::ptrdiff_t cols, std::ptrdiff_t side,
                             float weight, float* errors) {
  for (std::ptrdiff_t row = 0; row < rows; ++row)
    for (std::ptrdiff_t col = 0; col < cols; ++col) {
      std::int32_t sum = 0;
      for (std::ptrdiff_t i = 0; i < side; ++i) {
        const std::uint8_t* p = a + (row * side + i) * a_stride + col * side;
        const std::uint8_t* q = b + (row * side + i) * b_stride + col * side;
        for (std::ptrdiff_t j = 0; j < side; ++j) {
          const std::int32_t difference = static_cast<std::int32_t>(p[j]) - q[j];
          sum += difference * difference;
        }
      }
      errors[row * cols + col] += weight * static_cast<float>(sum);
    }
}

RJPEG_WIDE
void add_costs(const float* coefficients, const Blocks& quantized, const float* steps, std::ptrdiff_t across,
               float weight, float* errors, float* bits) {
  const std::ptrdiff_t cols = quantized.cols / across;
  int dc = 0;
  for (std::ptrdiff_t row = 0; row < quantized.rows; ++row)
    for (std::ptrdiff_t col = 0; col < quantized.cols; ++col) {
      const std::ptrdiff_t at = row * quantized.cols + col;
      const float* c = coefficients + at * kCoefficients;
      const std::int16_t* q = quantized.values + at * kCoefficients;
      float error = 0;
      for (int k = 0; k < kCoefficients; ++k) {
        const float left = c[k] - static_cast<float>(q[k]) * steps[k];
        error += left * left;
      }
      const std::ptrdiff_t region = row / across * cols + col / across;
      errors[region] += weight * error;
      bits[region] += bits_of_block(q, quantized.masks[at], dc);
      dc = q[0];
    }
}

void level_kept(std::int16_t* blocks, std::ptrdiff_t block_rows, std::ptrdiff_t block_cols, std::ptrdiff_t across,
                const std::uint8_t* kept, std::ptrdiff_t rows, std::ptrdiff_t cols, int bound) {
  int before = 0;
  for (std::ptrdiff_t region = 0; region < rows * cols; ++region)
    for (std::ptrdiff_t i = 0; i < across * across; ++i) {
      const std::ptrdiff_t row = region / cols * across + i / across, col = region % cols * across + i % across;
      if (row >= block_rows || col >= block_cols) continue;
      std::int16_t& dc = blocks[(row * block_cols + col) * kCoefficients];
      if (kept[region] != 0 && std::abs(dc - before) <= bound) dc = static_cast<std::int16_t>(before);
      before = dc;
    }
}

void trim(const float* coefficients, std::ptrdiff_t block_rows, std::ptrdiff_t block_cols, const float* steps,
          std::ptrdiff_t across, const float* prices, std::ptrdiff_t cols, std::int16_t* quantized, Mask* masks) {
  for (std::ptrdiff_t row = 0; row < block_rows; ++row)
    for (std::ptrdiff_t col = 0; col < block_cols; ++col) {
      const std::ptrdiff_t at = row * block_cols + col;
      masks[at] = trimmed(coefficients + at * kCoefficients, steps, prices[row / across * cols + col / across],
                          quantized + at * kCoefficients, masks[at]);
    }
}

}  // namespace rjpeg
