// Color conversion.
#pragma once

#include <cstddef>
#include <cstdint>

namespace rjpeg {

// BGR pixels to full-range YCbCr planes (JFIF, T.871) in OpenCV's integers. half: cb and cr have the mean of every 2x2
// samples, where an odd last row or column stands for two. Planes have rows without padding.
void planes_from_bgr(const std::uint8_t* bgr, std::ptrdiff_t height, std::ptrdiff_t width, std::ptrdiff_t stride,
                     bool half, std::uint8_t* y, std::uint8_t* cb, std::uint8_t* cr);

}  // namespace rjpeg
