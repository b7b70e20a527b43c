#include "tiles.hpp"

#include <algorithm>
#include <cstring>
#include <iterator>
#include <vector>

#include "clones.hpp"
#include "edges.hpp"
#include "memory.hpp"
#include "picture.hpp"

namespace rjpeg {
namespace {

constexpr std::ptrdiff_t kRegionSide = 16;

// Calls `work` for every tile, with where its first byte is in the plane and among the tiles.
template <typename Work>
void each_tile(const std::uint8_t* sent, std::ptrdiff_t rows, std::ptrdiff_t cols, TileSize size,
               std::ptrdiff_t tile_cols, const Work& work) {
  std::ptrdiff_t number = 0;
  for (std::ptrdiff_t region = 0; region < rows * cols; ++region) {
    if (sent[region] == 0) continue;
    work((region / cols * size.height * cols + region % cols) * size.width,
         (number / tile_cols * size.height * tile_cols + number % tile_cols) * size.width);
    ++number;
  }
}

std::ptrdiff_t side_of(const Tiles& tiles, int plane) {
  return tiles.half && plane > 0 ? kRegionSide / 2 : kRegionSide;
}

// Writes the pixels of sent regions. The planes hold the regions already. Pixels beside a region change, too, if chroma
// is enlarged from both. See `bgr_of`.
void put_pixels(const Tiles& tiles, const std::uint8_t* const planes[3], const std::ptrdiff_t strides[3],
                std::ptrdiff_t height, std::ptrdiff_t width, std::uint8_t* bgr) {
  const std::ptrdiff_t beside = tiles.half ? 1 : 0;
  const auto edge = [](std::ptrdiff_t at, std::ptrdiff_t end) {
    return std::min(std::max<std::ptrdiff_t>(at, 0), end);
  };
  for (std::ptrdiff_t row = 0; row < tiles.rows; ++row) {
    const std::uint8_t* of_row = tiles.sent + row * tiles.cols;
    for (std::ptrdiff_t col = 0; col < tiles.cols; ++col) {
      if (of_row[col] == 0) continue;
      const std::ptrdiff_t first = col;
      while (col < tiles.cols && of_row[col] != 0) ++col;
      bgr_of(planes, strides, tiles.half, height, width,
             {edge(kRegionSide * row - beside, height), edge(kRegionSide * (row + 1) + beside, height),
              edge(kRegionSide * first - beside, width), edge(kRegionSide * col + beside, width)},
             bgr);
    }
  }
}

}  // namespace

void take_tiles(const std::uint8_t* plane, const std::uint8_t* sent, std::ptrdiff_t rows, std::ptrdiff_t cols,
                TileSize size, std::ptrdiff_t tile_cols, std::uint8_t* tiles) {
  each_tile(sent, rows, cols, size, tile_cols, [&](std::ptrdiff_t in_plane, std::ptrdiff_t in_tiles) {
    for (std::ptrdiff_t i = 0; i < size.height; ++i)
      std::memcpy(tiles + in_tiles + i * tile_cols * size.width, plane + in_plane + i * cols * size.width,
                  static_cast<std::size_t>(size.width));
  });
}

void put_tiles(const std::uint8_t* tiles, std::ptrdiff_t tile_cols, TileSize size, const std::uint8_t* sent,
               std::ptrdiff_t rows, std::ptrdiff_t cols, std::uint8_t* plane) {
  each_tile(sent, rows, cols, size, tile_cols, [&](std::ptrdiff_t in_plane, std::ptrdiff_t in_tiles) {
    for (std::ptrdiff_t i = 0; i < size.height; ++i)
      std::memcpy(plane + in_plane + i * cols * size.width, tiles + in_tiles + i * tile_cols * size.width,
                  static_cast<std::size_t>(size.width));
  });
}

void lay_tiles(const Tiles& tiles, std::uint8_t* const planes[3]) {
  for (int plane = 0; plane < 3; ++plane) {
    const std::ptrdiff_t side = side_of(tiles, plane);
    put_tiles(tiles.planes[plane], tiles.tile_cols, {side, side}, tiles.sent, tiles.rows, tiles.cols, planes[plane]);
  }
  if (tiles.reach == 0) return;
  const std::vector<std::uint8_t> reach(static_cast<std::size_t>(tiles.rows * tiles.cols), tiles.reach);
  smooth_edges(planes[0], tiles.sent, reach.data(), tiles.rows, tiles.cols);
}

void lay_pixels(const Tiles& tiles, const std::uint8_t* const planes[3], std::ptrdiff_t height, std::ptrdiff_t width,
                std::uint8_t* bgr) {
  const auto is_sent = [](std::uint8_t flag) { return flag != 0; };
  const std::uint8_t* const end = tiles.sent + tiles.rows * tiles.cols;
  const std::uint8_t* const first_sent = std::find_if(tiles.sent, end, is_sent);
  if (first_sent == end) return;
  const auto last_sent = std::find_if(std::make_reverse_iterator(end), std::make_reverse_iterator(tiles.sent), is_sent);
  const std::ptrdiff_t first = std::max<std::ptrdiff_t>((first_sent - tiles.sent) / tiles.cols - 1, 0);
  const std::ptrdiff_t past = std::min((last_sent.base() - 1 - tiles.sent) / tiles.cols + 2, tiles.rows);

  Tiles part = tiles;
  part.sent += first * tiles.cols;
  part.rows = past - first;
  Buffer<std::uint8_t> copies[3];
  std::uint8_t* samples[3];
  std::ptrdiff_t strides[3];
  for (int plane = 0; plane < 3; ++plane) {
    const std::ptrdiff_t side = side_of(tiles, plane);
    strides[plane] = tiles.cols * side;
    const std::ptrdiff_t count = part.rows * side * strides[plane];
    copies[plane] = Buffer<std::uint8_t>(static_cast<std::size_t>(count));
    samples[plane] = copies[plane].data();
    std::copy_n(planes[plane] + first * side * strides[plane], count, samples[plane]);
  }
  lay_tiles(part, samples);
  const std::ptrdiff_t top = first * kRegionSide;
  put_pixels(part, samples, strides, std::min(height - top, part.rows * kRegionSide), width, bgr + 3 * top * width);
}

RJPEG_WIDE
void shift(const std::uint8_t* plane, std::ptrdiff_t height, std::ptrdiff_t width, int down, int right,
           std::uint8_t* out) {
  constexpr std::ptrdiff_t eighths = 8;
  const auto whole = [](std::ptrdiff_t position) {
    return position >= 0 ? position / eighths : ~(~position / eighths);
  };
  const auto within = [](std::ptrdiff_t index, std::ptrdiff_t size) {
    return std::min(std::max<std::ptrdiff_t>(index, 0), size - 1);
  };
  const int part_x = -right & 7, part_y = -down & 7;
  std::vector<std::ptrdiff_t> left(static_cast<std::size_t>(width)), beside(static_cast<std::size_t>(width));
  for (std::ptrdiff_t x = 0; x < width; ++x) {
    const std::ptrdiff_t at = whole(eighths * x - right);
    left[static_cast<std::size_t>(x)] = within(at, width);
    beside[static_cast<std::size_t>(x)] = within(at + 1, width);
  }
  for (std::ptrdiff_t y = 0; y < height; ++y, out += width) {
    const std::ptrdiff_t at = whole(eighths * y - down);
    const std::uint8_t *above = plane + within(at, height) * width, *below = plane + within(at + 1, height) * width;
    for (std::ptrdiff_t x = 0; x < width; ++x) {
      const std::ptrdiff_t i = left[static_cast<std::size_t>(x)], j = beside[static_cast<std::size_t>(x)];
      const int upper = above[i] * (8 - part_x) + above[j] * part_x;
      const int lower = below[i] * (8 - part_x) + below[j] * part_x;
      out[x] = static_cast<std::uint8_t>((upper * (8 - part_y) + lower * part_y + 32) >> 6);
    }
  }
}

}  // namespace rjpeg
