// Which regions of a frame a follower sends, as the bytes of its marker.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace rjpeg {

// Binary arithmetic coding of rows * cols flags, 0 or 1, row by row. Five flags that came before are the context of
// each: left, two to the left, above left, above, above right. What a context has seen makes its probability, so no
// table is needed. Zero bytes at the end are left out.
std::string encode_flags(const std::uint8_t* flags, std::ptrdiff_t rows, std::ptrdiff_t cols);

// The flags that such bytes stand for. Any bytes give some flags; what is missing at the end is zero.
void decode_flags(std::string_view data, std::ptrdiff_t rows, std::ptrdiff_t cols, std::uint8_t* flags);

}  // namespace rjpeg
