// Rice codes (Rice and Plaunt 1971) of the region marker's refinements.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace rjpeg {

// Gaps, at least 0, by the best of 16 parameters, which comes first in four bits, each followed by its difference, not 0:
// sign, then magnitude in unary. Ends with ones up to a whole byte.
std::string rice_encode(const std::int64_t* gaps, const std::int64_t* differences, std::ptrdiff_t count);

struct Differences {
  std::vector<std::int64_t> positions;  // rising, below `size`
  std::vector<std::int64_t> values;     // not 0
};

// What `rice_encode` wrote; positions are the sums of the gaps, each plus one. Throws std::invalid_argument for data that
// end within a code, go beyond `size` or have more than `most` differences.
Differences rice_decode(std::string_view data, std::int64_t size, std::size_t most);

}  // namespace rjpeg
