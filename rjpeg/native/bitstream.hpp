// Baseline JPEG files of quantized blocks.
//
// libjpeg-turbo reads files here, but does not write them. `jpeg_write_coefficients` takes a copy of all blocks, walks
// over all 64 coefficients of each twice, and gives luma and chroma Huffman tables of their own. This writer visits the
// coefficients that are not zero, once, and shares a table if that makes the file smaller. It took 0.42 ms where
// libjpeg took 2.35 ms (docs/speed.md, stage "write").
#pragma once

#include <string>
#include <vector>

#include "entropy.hpp"
#include "jpeg_file.hpp"

namespace rjpeg {

// A baseline YCbCr (three components) or gray (one) file with Huffman tables optimized for it, in one segment and
// shared between luma and chroma where that is smaller, and no JFIF segment. Throws JpegFailure.
std::string write_file(int width, int height, const std::vector<WrittenComponent>& components,
                       const std::vector<Segment>& segments);

}  // namespace rjpeg
