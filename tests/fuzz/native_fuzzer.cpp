// libFuzzer on the native reader alone: any bytes to read_file, decode_plain and region_bits.
// How it is built and run is in docs/security.md.
#include "../../rjpeg/native/jpeg_file.hpp"
#include "../../rjpeg/native/region_bits.hpp"

#include <cstddef>
#include <cstdint>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  constexpr std::int64_t most_pixels = 1 << 20;
  int height = 0, width = 0;
  std::ptrdiff_t rows = 0, cols = 0;
  try {
    rjpeg::read_file(data, size, most_pixels, 0xEA, rjpeg::Read::kCoefficients);
  } catch (const rjpeg::JpegFailure&) {
  }
  try {
    rjpeg::decode_plain(data, size, most_pixels, height, width);
  } catch (const rjpeg::JpegFailure&) {
  }
  try {
    rjpeg::region_bits(data, size, most_pixels, 16, rows, cols);
  } catch (const rjpeg::JpegFailure&) {
  }
  return 0;
}
