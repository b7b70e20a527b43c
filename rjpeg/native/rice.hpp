// Rice codes (Rice and Plaunt 1971) of the region marker's refinements.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace rjpeg {

// Gaps, at least 0, by the best of 16 parameters, which comes first in four bits, each followed by its difference, not 0:
// sign, then magnitude in unary. Ends with ones up to a whole byte.
std::string rice_encode(const std::int64_t* gaps, const std::int64_t* differences, std::ptrdiff_t count);

}  // namespace rjpeg
