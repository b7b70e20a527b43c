// The 8x8 transform and the regional quantization, on whole planes.
#pragma once

#include <cstddef>
#include <cstdint>

namespace rjpeg {

constexpr int kBlock = 8;
constexpr int kCoefficients = kBlock * kBlock;

// Orthonormal 8x8 DCT-II of (sample - 128), one block after another, in natural (row-major) order.
// The plane is continued by its last row and column up to block_rows x block_cols blocks.
void forward_dct(const std::uint8_t* plane, std::ptrdiff_t height, std::ptrdiff_t width, std::ptrdiff_t stride,
                 std::ptrdiff_t block_rows, std::ptrdiff_t block_cols, float* coefficients);

// q = sign(c) * floor(|c| / step + 0.5 - dead_zone) with the block's own row of `steps`; DC has no dead zone.
void quantize(const float* coefficients, std::ptrdiff_t blocks, const float* steps, const std::uint8_t* levels,
              float dead_zone, std::int16_t* quantized);

// Dequantization with the block's own row of `steps`, inverse DCT, + 128, rounding and clipping to 0..255.
void inverse_dct(const std::int16_t* quantized, std::ptrdiff_t block_rows, std::ptrdiff_t block_cols,
                 const float* steps, const std::uint8_t* levels, std::uint8_t* plane);

}  // namespace rjpeg
