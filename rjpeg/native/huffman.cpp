#include "huffman.hpp"

#include <cmath>
#include <cstdlib>

namespace rjpeg {

namespace {

// Natural-order index of every zigzag position (T.81, figure A.6).
constexpr std::array<std::uint8_t, 64> kZigzag = {
    0,  1,  8,  16, 9,  2,  3,  10, 17, 24, 32, 25, 18, 11, 4,  5,  12, 19, 26, 33, 40, 48,
    41, 34, 27, 20, 13, 6,  7,  14, 21, 28, 35, 42, 49, 56, 57, 50, 43, 36, 29, 22, 15, 23,
    30, 37, 44, 51, 58, 59, 52, 45, 38, 31, 39, 46, 53, 60, 61, 54, 47, 55, 62, 63};

constexpr double kBitsPerSymbol = 8;        // in the table
constexpr double kBitsPerTable = 17 * 8;    // class, id and sixteen counts

double total_of(const Histogram& histogram) {
  double total = 0;
  for (const std::int64_t uses : histogram) total += static_cast<double>(uses);
  return total;
}

// Bits that hold a magnitude: T.81, tables F.1 and F.2.
int size_of(int magnitude) {
  int size = 0;
  for (; magnitude; magnitude >>= 1) ++size;
  return size;
}

double coded_bits(const Histogram& histogram) {
  const double total = total_of(histogram);
  double bits = kBitsPerTable;
  for (const std::int64_t uses : histogram)
    if (uses > 0) bits += static_cast<double>(uses) * std::log2(total / static_cast<double>(uses)) + kBitsPerSymbol;
  return bits;
}

Histogram sum(const Histogram& a, const Histogram& b) {
  Histogram both = a;
  for (std::size_t symbol = 0; symbol < both.size(); ++symbol) both[symbol] += b[symbol];
  return both;
}

}  // namespace

void count_ac(const std::int16_t* quantized, std::ptrdiff_t blocks, Histogram& histogram) {
  for (std::ptrdiff_t block = 0; block < blocks; ++block, quantized += 64) {
    int run = 0;
    for (int k = 1; k < 64; ++k) {
      const int value = quantized[kZigzag[static_cast<std::size_t>(k)]];
      if (value == 0) {
        ++run;
        continue;
      }
      for (; run > 15; run -= 16) ++histogram[0xF0];
      ++histogram[static_cast<std::size_t>(run << 4 | size_of(std::abs(value)))];
      run = 0;
    }
    if (run > 0) ++histogram[0];
  }
}

void count_dc(const std::int16_t* quantized, std::ptrdiff_t blocks, Histogram& histogram) {
  int before = 0;
  for (std::ptrdiff_t block = 0; block < blocks; ++block, quantized += 64) {
    ++histogram[static_cast<std::size_t>(size_of(std::abs(quantized[0] - before)))];
    before = quantized[0];
  }
}

bool better_shared(const Histogram& a, const Histogram& b) {
  return coded_bits(sum(a, b)) <= coded_bits(a) + coded_bits(b);
}

}  // namespace rjpeg
