// JPEG files in memory, read by libjpeg-turbo.
#pragma once

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

#include "memory.hpp"

namespace rjpeg {

// The file can't be read or written; becomes rjpeg.JpegError.
struct JpegFailure : std::runtime_error {
  using std::runtime_error::runtime_error;
};

struct Component {
  int h = 1, v = 1;                       // sampling factors
  std::ptrdiff_t block_rows = 0, block_cols = 0;  // blocks that hold samples, without padding to whole MCUs
  std::vector<std::uint16_t> table;       // 64 steps, natural order
  Buffer<std::int16_t> blocks;            // block_rows * block_cols * 64, natural order
};

struct Segment {
  int code = 0;  // 0xE0..0xEF
  std::string data;
};

struct JpegFile {
  int width = 0, height = 0;
  bool progressive = false;
  bool ycc = false;  // three components in YCbCr
  std::vector<Component> components;
  std::vector<Segment> segments;
};

enum class Read { kHeader, kCoefficients };

// Header facts and application segments of `segment_code`; with kCoefficients also tables and blocks.
// Any damage that libjpeg-turbo notices is a failure. Throws JpegFailure.
JpegFile read_file(const std::uint8_t* data, std::size_t size, std::int64_t max_pixels, int segment_code, Read what);

// The picture as libjpeg-turbo decodes it, BGR, rows without padding. Throws JpegFailure.
Buffer<std::uint8_t> decode_plain(const std::uint8_t* data, std::size_t size, std::int64_t max_pixels, int& height,
                                  int& width);

}  // namespace rjpeg
