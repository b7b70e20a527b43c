// From quantized blocks to the picture in one pass.
#pragma once

#include <cstddef>
#include <cstdint>

#include "transform.hpp"

namespace rjpeg {

struct QuantizedPlane {
  const std::int16_t* blocks = nullptr;  // rows * cols * 64, natural order
  std::ptrdiff_t rows = 0, cols = 0;
  const float* steps = nullptr;  // 64 for every level
  RegionLevels levels;
  bool four = false;  // 2x2 blocks a region
};

// Dequantizes y, cb and cr, transforms them back (inverse DCT, + 128, rounded and clipped to 0..255) and writes
// (height, width, 3) BGR pixels, rows without padding, in OpenCV's integers. half: chroma has half the size, rounded
// up, and is enlarged linearly between the centers of samples, as by OpenCV's INTER_LINEAR.
void picture_of(const QuantizedPlane planes[3], bool half, std::ptrdiff_t height, std::ptrdiff_t width,
                std::uint8_t* bgr);

// The samples of one component, as above, without padding: blocks of 8x8 in rows of plane.cols * 8 samples.
void samples_of(const QuantizedPlane& plane, std::uint8_t* samples);

// Rows and columns of pixels, the last ones excluded.
struct Part {
  std::ptrdiff_t top = 0, bottom = 0, left = 0, right = 0;
};

// Writes those of the (height, width, 3) BGR pixels of three planes that lie in a part of the picture, as `picture_of`
// makes them. strides: samples from row to row.
void bgr_of(const std::uint8_t* const planes[3], const std::ptrdiff_t strides[3], bool half, std::ptrdiff_t height,
            std::ptrdiff_t width, const Part& part, std::uint8_t* bgr);

}  // namespace rjpeg
