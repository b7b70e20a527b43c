// Regions that are sent: what a region's change is worth, and how tiles get to their places.
#pragma once

#include <cstddef>
#include <cstdint>

#include "sparse.hpp"

namespace rjpeg {

// What a region and a tile take in a plane, which may hold samples or blocks: `height` rows of `width` bytes.
struct TileSize {
  std::ptrdiff_t height, width;
};

// Writes the regions of a plane that are sent, row by row, as tiles in rows of `tile_cols`. The plane has rows * cols
// regions and no padding.
void take_tiles(const std::uint8_t* plane, const std::uint8_t* sent, std::ptrdiff_t rows, std::ptrdiff_t cols,
                TileSize size, std::ptrdiff_t tile_cols, std::uint8_t* tiles);

// Writes tiles back to the regions that are sent.
void put_tiles(const std::uint8_t* tiles, std::ptrdiff_t tile_cols, TileSize size, const std::uint8_t* sent,
               std::ptrdiff_t rows, std::ptrdiff_t cols, std::uint8_t* plane);

// What a follower sends: three planes of tiles in rows of `tile_cols`, and the (rows, cols) regions of a picture that
// they are. reach: see `smooth_edges`; 0 smooths none.
struct Tiles {
  const std::uint8_t* planes[3]{};
  std::ptrdiff_t tile_cols = 0;
  const std::uint8_t* sent = nullptr;
  std::ptrdiff_t rows = 0, cols = 0;
  std::uint8_t reach = 0;
  bool half = false;  // chroma has half the size
};

// Writes tiles to three planes of whole regions, in place, and smooths their edges.
void lay_tiles(const Tiles& tiles, std::uint8_t* const planes[3]);

// Writes the BGR pixels of tiles over those of planes of whole regions, which stay as they are, in place. Only the rows
// of regions that are sent are looked at, with one more on either side.
void lay_pixels(const Tiles& tiles, const std::uint8_t* const planes[3], std::ptrdiff_t height, std::ptrdiff_t width,
                std::uint8_t* bgr);

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
