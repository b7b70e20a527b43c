#include "tiles.hpp"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <iterator>
#include <vector>

#include "clones.hpp"
#include "edges.hpp"
#include "lanes.hpp"
#include "memory.hpp"
#include "picture.hpp"

namespace rjpeg {
namespace {

constexpr std::ptrdiff_t kRegionSide = 16;

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
