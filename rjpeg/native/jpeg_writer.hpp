// Baseline JPEG files of quantized blocks.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "jpeg_file.hpp"
#include "sparse.hpp"

namespace rjpeg {

struct WrittenComponent {
  Blocks blocks;                         // those that hold samples, without padding to whole MCUs
  int h = 1, v = 1;                      // sampling factors
  const std::uint16_t* table = nullptr;  // 64 steps, natural order, 1..255
};

// A baseline YCbCr (three components) or gray (one) file with Huffman tables optimized for it, in one segment and shared
// between luma and chroma where that is smaller, and no JFIF segment. Throws JpegFailure.
std::string write_file(int width, int height, const std::vector<WrittenComponent>& components,
                       const std::vector<Segment>& segments);

}  // namespace rjpeg
