// How many bits of a file each region takes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace rjpeg {

// Bits of the entropy-coded data that code the coefficients of each region of `region` x `region` pixels, row by row:
// codes by the file's own Huffman tables and the bits that follow them. A block that lies in several regions counts for
// them in equal parts, one beyond the picture that fills an MCU for the nearest region. What is left of the data is up
// to seven bits before each marker, and the zero bytes after 0xFF. For baseline and extended sequential files of one
// scan; one that is coded in more symbols than it needs (a zero run before the end of a block) counts as if it were
// not. Throws JpegFailure, also for other files.
std::vector<double> region_bits(const std::uint8_t* data, std::size_t size, std::int64_t max_pixels, int region,
                                std::ptrdiff_t& rows, std::ptrdiff_t& cols);

}  // namespace rjpeg
