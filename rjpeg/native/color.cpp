#include "color.hpp"

#include <algorithm>
#include <vector>

#include "clones.hpp"

namespace rjpeg {
namespace {

// In 1/16384: weights of luma, and what scales B - Y and R - Y.
constexpr int kShift = 14, kHalf = 1 << (kShift - 1);
constexpr int kBlue = 1868, kGreen = 9617, kRed = 4899, kToCb = 9241, kToCr = 11682;
constexpr int kMiddle = (128 << kShift) + kHalf;

RJPEG_INLINE void convert_row(const std::uint8_t* __restrict bgr, std::ptrdiff_t width, std::uint8_t* __restrict y,
                              std::uint8_t* __restrict cb, std::uint8_t* __restrict cr) {
  for (std::ptrdiff_t i = 0; i < width; ++i) {
    const int b = bgr[3 * i], g = bgr[3 * i + 1], r = bgr[3 * i + 2];
    const int luma = (b * kBlue + g * kGreen + r * kRed + kHalf) >> kShift;
    y[i] = static_cast<std::uint8_t>(luma);
    // Of all colors cb is within 1..255 and cr within 0..256.
    cb[i] = static_cast<std::uint8_t>(((b - luma) * kToCb + kMiddle) >> kShift);
    cr[i] = static_cast<std::uint8_t>(std::min(((r - luma) * kToCr + kMiddle) >> kShift, 255));
  }
}

RJPEG_INLINE void halve_rows(const std::uint8_t* __restrict above, const std::uint8_t* __restrict below,
                             std::ptrdiff_t width, std::uint8_t* __restrict half) {
  for (std::ptrdiff_t i = 0; i < width / 2; ++i)
    half[i] = static_cast<std::uint8_t>((above[2 * i] + above[2 * i + 1] + below[2 * i] + below[2 * i + 1] + 2) >> 2);
  if (width % 2) half[width / 2] = static_cast<std::uint8_t>((2 * above[width - 1] + 2 * below[width - 1] + 2) >> 2);
}

}  // namespace

RJPEG_WIDE
void planes_from_bgr(const std::uint8_t* bgr, std::ptrdiff_t height, std::ptrdiff_t width, std::ptrdiff_t stride,
                     bool half, std::uint8_t* y, std::uint8_t* cb, std::uint8_t* cr) {
  if (!half) {
    for (std::ptrdiff_t row = 0; row < height; ++row)
      convert_row(bgr + row * stride, width, y + row * width, cb + row * width, cr + row * width);
    return;
  }
  std::vector<std::uint8_t> rows(static_cast<std::size_t>(4 * width));
  std::uint8_t* const above[2] = {rows.data(), rows.data() + width};
  std::uint8_t* const below[2] = {rows.data() + 2 * width, rows.data() + 3 * width};
  const std::ptrdiff_t half_width = (width + 1) / 2;
  for (std::ptrdiff_t row = 0; row < height; row += 2) {
    convert_row(bgr + row * stride, width, y + row * width, above[0], above[1]);
    const bool odd = row + 1 == height;
    if (!odd) convert_row(bgr + (row + 1) * stride, width, y + (row + 1) * width, below[0], below[1]);
    halve_rows(above[0], odd ? above[0] : below[0], width, cb + row / 2 * half_width);
    halve_rows(above[1], odd ? above[1] : below[1], width, cr + row / 2 * half_width);
  }
}

}  // namespace rjpeg
