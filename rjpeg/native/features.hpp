// What the networks see, as their int8 inputs: rjpeg/_features.py followed by runtime.quantize_input.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace rjpeg {

constexpr int kLumaFrequencies = 15, kChromaFrequencies = 6;
constexpr int kGeneratorChannels = 4 * kLumaFrequencies + 2 * kChromaFrequencies + 1;
constexpr int kPredictorChannels = 7;

// Of an integer tensor: value = (integer - zero_point) * scale.
struct Quantization {
  double scale = 1;
  int zero_point = 0;

  // floor(value / scale + 0.5) + zero_point within int8.
  std::int8_t of(double value) const;
};

// round(12 * log2(x) / scale) for x >= 1, at most 255, by looking it up.
class Companding {
 public:
  explicit Companding(double scale);
  int of(float x) const;

 private:
  static constexpr int kMantissaBits = 7, kOctaves = 12;
  std::vector<std::uint8_t> least_;     // of the smallest x with the same leading bits
  std::vector<float> from_;             // smallest x of every result, then infinity
};

// y: (block_rows, block_cols, 64) coefficients, cb and cr: (rows, cols, 64); input: (rows, cols, 73).
void generator_input(const float* y, std::ptrdiff_t block_rows, std::ptrdiff_t block_cols, const float* cb,
                     const float* cr, std::ptrdiff_t rows, std::ptrdiff_t cols, int rate, const Quantization& to,
                     std::int8_t* input);

// Dequantized DC terms, y: (block_rows, block_cols), cb and cr: (rows, cols), or as y, where a region has the mean of
// its blocks; input: (rows, cols, 7).
void predictor_input(const std::int32_t* y, std::ptrdiff_t block_rows, std::ptrdiff_t block_cols,
                     const std::int32_t* cb, const std::int32_t* cr, bool whole_chroma, int rate,
                     const Quantization& to, std::int8_t* input);

// Levels of both channels from an int8 answer (rows, cols, 2): floor((value * count - sum) * factor / count + offset)
// within 0..most, where count and sum are of the window x window regions around each, as far as there are any.
// Exact but for one rounding of each operation, the same on every machine.
void levels_from_output(const std::int8_t* output, std::ptrdiff_t rows, std::ptrdiff_t cols, std::ptrdiff_t window,
                        double factor, const double offsets[2], int most, std::uint8_t* levels);

}  // namespace rjpeg
