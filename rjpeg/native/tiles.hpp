// Regions that are sent: what a region's change is worth, and how tiles get to their places.
#pragma once

#include <cstddef>
#include <cstdint>

#include "sparse.hpp"

namespace rjpeg {

// Writes the regions of a plane that are sent, row by row, as tiles in rows of `tile_cols`. Tiles and regions have
// `side` x `side` samples, the plane rows * cols regions and no padding.
void take_tiles(const std::uint8_t* plane, const std::uint8_t* sent, std::ptrdiff_t rows, std::ptrdiff_t cols,
                std::ptrdiff_t side, std::ptrdiff_t tile_cols, std::uint8_t* tiles);

// Writes tiles back to the regions that are sent.
void put_tiles(const std::uint8_t* tiles, std::ptrdiff_t tile_cols, std::ptrdiff_t side, const std::uint8_t* sent,
               std::ptrdiff_t rows, std::ptrdiff_t cols, std::uint8_t* plane);

// Writes the BGR pixels of sent regions over those of a picture of what was there before. The planes hold the regions
// already. Pixels beside a region change, too, where chroma is enlarged from both. See `bgr_of`.
void put_pixels(const std::uint8_t* const planes[3], const std::ptrdiff_t strides[3], bool half,
                const std::uint8_t* sent, std::ptrdiff_t rows, std::ptrdiff_t cols, std::ptrdiff_t height,
                std::ptrdiff_t width, std::uint8_t* bgr);

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

// A plane whose content is moved down and to the right, by eighths of a sample, between samples by bilinear
// interpolation in whole numbers. What comes in at an edge repeats the edge.
void shift(const std::uint8_t* plane, std::ptrdiff_t height, std::ptrdiff_t width, int down, int right,
           std::uint8_t* out);

// Makes smaller, or zero, each AC coefficient whose bits are worth more than the squared error that this adds: `prices`
// is the error that one bit is worth, of each region, in rows of `cols`, of a component with `across` x `across` blocks a region. Masks are
// kept right.
void trim(const float* coefficients, std::ptrdiff_t block_rows, std::ptrdiff_t block_cols, const float* steps,
          std::ptrdiff_t across, const float* prices, std::ptrdiff_t cols, std::int16_t* quantized, Mask* masks);

}  // namespace rjpeg
