// Regions that are sent: how they get into a file and back to their places, and how the picture below them moves.
#pragma once

#include <cstddef>
#include <cstdint>

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

// A plane whose content is moved down and to the right, by eighths of a sample, between samples by bilinear
// interpolation in whole numbers. What comes in at an edge repeats the edge.
void shift(const std::uint8_t* plane, std::ptrdiff_t height, std::ptrdiff_t width, int down, int right,
           std::uint8_t* out);

}  // namespace rjpeg
