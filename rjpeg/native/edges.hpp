// Smooths what quantization leaves at the edges of blocks.
#pragma once

#include <cstddef>
#include <cstdint>

namespace rjpeg {

// Smooths the edges of 8x8 blocks in a plane of (rows, cols) regions of 16x16 samples, in place: first those between
// columns, then those between rows. Samples change only in regions that are sent. reach: by region, the difference
// across an edge from which it belongs to the picture; across the edge of two regions it is that of the later one, if
// that is sent.
void smooth_edges(std::uint8_t* plane, const std::uint8_t* sent, const std::uint8_t* reach, std::ptrdiff_t rows,
                  std::ptrdiff_t cols);

}  // namespace rjpeg
