#include "picture.hpp"

#include <algorithm>

#include "clones.hpp"
#include "memory.hpp"

namespace rjpeg {
namespace {

// Samples of one row of blocks.
RJPEG_INLINE void inverse_row(const QuantizedPlane& plane, std::ptrdiff_t block_row, std::uint8_t* out) {
  const std::ptrdiff_t stride = plane.cols * kBlock;
  const int across = plane.four ? 1 : 0;
  const std::uint8_t* levels = plane.levels.values + (block_row >> across) * plane.levels.cols * 2;
  const std::int16_t* block = plane.blocks + block_row * plane.cols * kCoefficients;
  for (std::ptrdiff_t col = 0; col < plane.cols; ++col, block += kCoefficients)
    inverse_block(block, plane.steps + levels[(col >> across) * 2] * kCoefficients, out + col * kBlock, stride);
}

// A row of chroma at twice its width, in quarters: what it adds where it is the nearer of two rows, and the farther.
RJPEG_INLINE void widen(const std::uint8_t* __restrict row, std::ptrdiff_t width, std::uint16_t* __restrict near,
                        std::uint16_t* __restrict far) {
  const auto put = [&](std::ptrdiff_t at, int own, int beside) {
    const int sum = 3 * own + beside;
    near[at] = static_cast<std::uint16_t>(3 * sum >> 2);
    far[at] = static_cast<std::uint16_t>(sum >> 2);
  };
  put(0, row[0], row[0]);
  for (std::ptrdiff_t i = 0; i + 1 < width; ++i) {
    put(2 * i + 1, row[i], row[i + 1]);
    put(2 * i + 2, row[i + 1], row[i]);
  }
  put(2 * width - 1, row[width - 1], row[width - 1]);
}

RJPEG_INLINE void mix(const std::uint16_t* __restrict near, const std::uint16_t* __restrict far, std::ptrdiff_t width,
                      std::uint8_t* __restrict out) {
  for (std::ptrdiff_t i = 0; i < width; ++i) out[i] = static_cast<std::uint8_t>((near[i] + far[i] + 2) >> 2);
}

// In 1/16384: how much of Cr is in red, of both in green, and of Cb in blue.
constexpr int kShift = 14, kHalf = 1 << (kShift - 1);
constexpr int kRed = 22987, kGreenRed = -11698, kGreenBlue = -5636, kBlue = 29049;

// rows: room for three rows of the width; what is woven from them at last is fast so on all vectors.
RJPEG_INLINE void join(const std::uint8_t* __restrict y, const std::uint8_t* __restrict cb,
                       const std::uint8_t* __restrict cr, std::ptrdiff_t width, std::uint8_t* __restrict rows,
                       std::uint8_t* __restrict bgr) {
  const auto byte_of = [](int value) { return static_cast<std::uint8_t>(std::min(std::max(value, 0), 255)); };
  for (std::ptrdiff_t i = 0; i < width; ++i) {
    const int luma = y[i], blue = cb[i] - 128, red = cr[i] - 128;
    rows[i] = byte_of(luma + ((blue * kBlue + kHalf) >> kShift));
    rows[width + i] = byte_of(luma + ((blue * kGreenBlue + red * kGreenRed + kHalf) >> kShift));
    rows[2 * width + i] = byte_of(luma + ((red * kRed + kHalf) >> kShift));
  }
  for (std::ptrdiff_t i = 0; i < width; ++i)
    for (int color = 0; color < 3; ++color) bgr[3 * i + color] = rows[color * width + i];
}

std::size_t product(std::ptrdiff_t rows, std::ptrdiff_t cols) {
  return static_cast<std::size_t>(rows) * static_cast<std::size_t>(cols);
}

// Rows of samples of a component, one after another, from blocks that are transformed when their first row is wanted.
class TransformedRows {
 public:
  explicit TransformedRows(const QuantizedPlane& plane)
      : plane_(plane), samples_(product(kBlock, plane.cols * kBlock)) {}
  RJPEG_INLINE const std::uint8_t* row(std::ptrdiff_t at) {
    if (at % kBlock == 0) inverse_row(plane_, at / kBlock, samples_.data());
    return samples_.data() + at % kBlock * plane_.cols * kBlock;
  }

 private:
  const QuantizedPlane& plane_;
  Buffer<std::uint8_t> samples_;
};

// Rows of samples that are there already.
class PlainRows {
 public:
  PlainRows(const std::uint8_t* samples, std::ptrdiff_t stride) : samples_(samples), stride_(stride) {}
  RJPEG_INLINE const std::uint8_t* row(std::ptrdiff_t at) const { return samples_ + at * stride_; }

 private:
  const std::uint8_t* samples_;
  std::ptrdiff_t stride_;
};

// Joins y, cb and cr within a part of the picture, whose rows are asked for once each and in order (luma's again for each
// row of pixels). A part that does not begin at the top takes rows of samples that are there already.
template <typename Rows>
RJPEG_INLINE void weave(Rows (&planes)[3], bool half, std::ptrdiff_t height, std::ptrdiff_t width, const Part& part,
                        std::uint8_t* bgr) {
  const std::ptrdiff_t columns = part.right - part.left;
  Buffer<std::uint8_t> colors(product(3, columns));
  bgr += 3 * (part.top * width + part.left);
  if (!half) {
    for (std::ptrdiff_t row = part.top; row < part.bottom; ++row, bgr += 3 * width)
      join(planes[0].row(row) + part.left, planes[1].row(row) + part.left, planes[2].row(row) + part.left, columns,
           colors.data(), bgr);
    return;
  }

  const std::ptrdiff_t half_height = (height + 1) / 2, half_width = (width + 1) / 2;
  // Samples of chroma that the part's pixels lie between.
  const std::ptrdiff_t first = std::max<std::ptrdiff_t>(part.left / 2 - 1, 0);
  const std::ptrdiff_t count = std::min(part.right / 2 + 1, half_width) - first;
  const std::ptrdiff_t wide = 2 * count, start = part.left - 2 * first;
  Buffer<std::uint8_t> mixed(product(2, wide));
  // Of each chroma plane the rows around the one in work, widened: row r is at r % 3.
  Buffer<std::uint16_t> widened(product(2 * 3 * 2, wide));
  const auto near = [&](int plane, std::ptrdiff_t row) { return widened.data() + (6 * plane + 2 * (row % 3)) * wide; };
  const auto far = [&](int plane, std::ptrdiff_t row) { return near(plane, row) + wide; };
  const auto beside = [&](std::ptrdiff_t row) {
    return std::min(std::max<std::ptrdiff_t>(row % 2 ? row / 2 + 1 : row / 2 - 1, 0), half_height - 1);
  };
  std::ptrdiff_t next = std::min(part.top / 2, beside(part.top));  // row of chroma that was not widened yet
  for (std::ptrdiff_t row = part.top; row < part.bottom; ++row, bgr += 3 * width) {
    const std::ptrdiff_t nearer = row / 2, farther = beside(row);
    const std::uint8_t* const luma = planes[0].row(row);
    for (; next <= std::max(nearer, farther); ++next)
      for (int plane = 0; plane < 2; ++plane)
        widen(planes[1 + plane].row(next) + first, count, near(plane, next), far(plane, next));
    for (int plane = 0; plane < 2; ++plane)
      mix(near(plane, nearer), far(plane, farther), wide, mixed.data() + plane * wide);
    join(luma + part.left, mixed.data() + start, mixed.data() + wide + start, columns, colors.data(), bgr);
  }
}

}  // namespace

RJPEG_WIDE
void picture_of(const QuantizedPlane planes[3], bool half, std::ptrdiff_t height, std::ptrdiff_t width,
                std::uint8_t* bgr) {
  TransformedRows rows[3]{TransformedRows(planes[0]), TransformedRows(planes[1]), TransformedRows(planes[2])};
  weave(rows, half, height, width, {0, height, 0, width}, bgr);
}

RJPEG_WIDE
void samples_of(const QuantizedPlane& plane, std::uint8_t* samples) {
  for (std::ptrdiff_t row = 0; row < plane.rows; ++row)
    inverse_row(plane, row, samples + row * plane.cols * kCoefficients);
}

RJPEG_WIDE
void bgr_of(const std::uint8_t* const planes[3], const std::ptrdiff_t strides[3], bool half, std::ptrdiff_t height,
            std::ptrdiff_t width, const Part& part, std::uint8_t* bgr) {
  PlainRows rows[3]{{planes[0], strides[0]}, {planes[1], strides[1]}, {planes[2], strides[2]}};
  weave(rows, half, height, width, part, bgr);
}

}  // namespace rjpeg
