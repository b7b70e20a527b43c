// What a file of a stream costs, region by region: how far it is from the picture, and about how many bits it takes.
#pragma once

#include <cstddef>
#include <cstdint>

#include "sparse.hpp"

namespace rjpeg {

// Adds the squared differences of every region, of `side` x `side` samples, between two planes of whole regions.
void add_squared_differences(const std::uint8_t* a, std::ptrdiff_t a_stride, const std::uint8_t* b,
                             std::ptrdiff_t b_stride, std::ptrdiff_t rows, std::ptrdiff_t cols, std::ptrdiff_t side,
                             float weight, float* errors);

// Adds, for every region of a component with `across` x `across` blocks a region: to `errors` the squared error that
// quantization leaves, times `weight`, and to `bits` about how many bits the blocks take. The length of a symbol is
// that of a typical Huffman code (T.81, annex K.3).
void add_costs(const float* coefficients, const Blocks& quantized, const float* steps, std::ptrdiff_t across,
               float weight, float* errors, float* bits);

// Gives each block of a region that is kept the DC term of the block before it in the scan, if that is at most `bound`
// from its own: it then takes the fewest bits. A component has `across` x `across` blocks a region, of which the last
// row and column of blocks may be missing.
void level_kept(std::int16_t* blocks, std::ptrdiff_t block_rows, std::ptrdiff_t block_cols, std::ptrdiff_t across,
                const std::uint8_t* kept, std::ptrdiff_t rows, std::ptrdiff_t cols, int bound);

// Makes smaller, or zero, each AC coefficient whose bits are worth more than the squared error that this adds. A
// component has `across` x `across` blocks a region. prices: the error that one bit is worth in each region, in rows of
// `cols`. Masks are kept right.
void trim(const float* coefficients, std::ptrdiff_t block_rows, std::ptrdiff_t block_cols, const float* steps,
          std::ptrdiff_t across, const float* prices, std::ptrdiff_t cols, std::int16_t* quantized, Mask* masks);

}  // namespace rjpeg
