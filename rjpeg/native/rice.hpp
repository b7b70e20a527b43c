// Rice codes (Rice and Plaunt 1971) of the region marker's refinements.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace rjpeg {

// What turns the levels `before` into `after`, both two channels a region; nothing where they differ in more than
// `most` places, and no bytes where in none. In the order of the channels and then of the regions every place has the
// gap of equal levels before it, by the best of 16 parameters, which comes first in four bits, and its difference:
// sign, then magnitude in unary. Ends with ones up to a whole byte.
std::optional<std::string> rice_encode(const std::uint8_t* before, const std::uint8_t* after, std::ptrdiff_t regions,
                                       std::size_t most);

struct Differences {
  std::vector<std::int64_t> positions;  // rising, below `size`
  std::vector<std::int64_t> values;     // not 0
};

// What `rice_encode` wrote; positions are the sums of the gaps, each plus one. Throws std::invalid_argument for data
// that end within a code, go beyond `size` or have more than `most` differences.
Differences rice_decode(std::string_view data, std::int64_t size, std::size_t most);

}  // namespace rjpeg
