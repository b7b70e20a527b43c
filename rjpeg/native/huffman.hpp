// What baseline Huffman coding (T.81, F.1.2) makes of quantized blocks: which symbols, how often, at what length.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

namespace rjpeg {

// Uses of every symbol: for AC run << 4 | size (0x00 end of block, 0xF0 sixteen zeros), for DC the size.
using Histogram = std::array<std::int64_t, 256>;

// Adds the AC symbols of `blocks` blocks of 64 in natural order.
void count_ac(const std::int16_t* quantized, std::ptrdiff_t blocks, Histogram& histogram);

// Adds the DC symbols of a component as a scan of this component alone would have them.
void count_dc(const std::int16_t* quantized, std::ptrdiff_t blocks, Histogram& histogram);

// Whether one table for the symbols of both takes fewer bits than a table for each, at the symbols' entropy and with the
// tables themselves (T.81, B.2.4.2).
bool better_shared(const Histogram& a, const Histogram& b);

}  // namespace rjpeg
