// The 8x8 transform and the regional quantization, on whole planes.
#pragma once

#include <cstddef>
#include <cstdint>

#include "lanes.hpp"
#include "sparse.hpp"

namespace rjpeg {

// Orthonormal 8x8 DCT-II of (sample - 128), one block after another, in natural (row-major) order.
// The plane is continued by its last row and column up to block_rows x block_cols blocks.
void forward_dct(const std::uint8_t* plane, std::ptrdiff_t height, std::ptrdiff_t width, std::ptrdiff_t stride,
                 std::ptrdiff_t block_rows, std::ptrdiff_t block_cols, float* coefficients);

// One channel of a quality map: a level for every region, two bytes apart.
struct RegionLevels {
  const std::uint8_t* values = nullptr;
  std::ptrdiff_t rows = 0, cols = 0;
};

// q = sign(c) * floor(|c| / step + 0.5 - dead_zone) with the row of `steps` that is of the level of the block's region,
// and the masks of what that gives; DC has no dead zone. A component has one block a region or 2x2 of them. With
// `before`, laid out as the levels, blocks of a region whose level is the same are left as they are.
void quantize_regions(const float* coefficients, std::ptrdiff_t block_rows, std::ptrdiff_t block_cols,
                      const float* steps, const RegionLevels& levels, const std::uint8_t* before, float dead_zone,
                      std::int16_t* quantized, Mask* masks);

// `forward_dct` and `quantize_regions` at once, for a picture that is quantized only once.
void transform_and_quantize(const std::uint8_t* plane, std::ptrdiff_t height, std::ptrdiff_t width,
                            std::ptrdiff_t stride, std::ptrdiff_t block_rows, std::ptrdiff_t block_cols,
                            const float* steps, const RegionLevels& levels, float dead_zone, std::int16_t* quantized,
                            Mask* masks);

// The DC terms that `quantize_regions` gives, times their step.
void dequantized_dc(const float* coefficients, std::ptrdiff_t blocks, int step, std::int32_t* dc);

}  // namespace rjpeg
