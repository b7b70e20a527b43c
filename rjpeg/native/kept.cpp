#include "kept.hpp"

#include <algorithm>
#include <array>

namespace rjpeg {
namespace {

constexpr int kContextFlags = 5, kContexts = 1 << kContextFlags;
constexpr std::uint32_t kOne = 1 << 16;  // probability 1

// The probability that a flag is set, in 1/65536, by what was seen in its context.
class Model {
 public:
  Model() {
    // Before anything was seen: by the number of neighbors that are set. Measured on fixed cameras.
    constexpr std::array<std::uint32_t, kContextFlags + 1> start{1300, 13000, 26000, 39000, 50000, 60000};
    for (std::uint32_t context = 0; context < kContexts; ++context)
      probability_[context] = start[static_cast<std::size_t>(__builtin_popcount(context))];
  }
  std::uint32_t of(std::uint32_t context) const { return probability_[context]; }
  void update(std::uint32_t context, bool flag) {
    constexpr std::uint32_t first = 5, last = 60;
    const std::uint32_t divisor = first + seen_[context];
    if (divisor < last) ++seen_[context];
    std::uint32_t& p = probability_[context];
    p = flag ? p + (kOne - p) / divisor : p - p / divisor;
    p = std::min(std::max(p, kOne / 512), kOne - kOne / 512);
  }

 private:
  std::array<std::uint32_t, kContexts> probability_{};
  std::array<std::uint32_t, kContexts> seen_{};
};

std::uint32_t context_of(const std::uint8_t* flags, std::ptrdiff_t cols, std::ptrdiff_t row, std::ptrdiff_t col) {
  const std::uint8_t* at = flags + row * cols + col;
  const auto flag = [&](bool exists, std::ptrdiff_t offset) {
    return exists && at[offset] != 0 ? std::uint32_t{1} : std::uint32_t{0};
  };
  return flag(col > 0, -1) | flag(row > 0, -cols) << 1 | flag(row > 0 && col > 0, -cols - 1) << 2 |
         flag(row > 0 && col + 1 < cols, -cols + 1) << 3 | flag(col > 1, -2) << 4;
}

// The interval low..high that all flags so far leave, and where it is split for the next one.
struct Interval {
  std::uint32_t low = 0, high = 0xFFFFFFFF;

  std::uint32_t split(std::uint32_t probability) const {
    return low + static_cast<std::uint32_t>(static_cast<std::uint64_t>(high - low) * probability >> 16);
  }
  void take(bool flag, std::uint32_t at) {
    if (flag)
      high = at;
    else
      low = at + 1;
  }
  // Whether the first byte of all that is left is the same; if so, it goes.
  bool shift() {
    if ((low ^ high) >> 24 != 0) return false;
    low <<= 8;
    high = high << 8 | 0xFF;
    return true;
  }
};

// The shortest bytes that lie in the interval, whatever zeros follow.
void put_end(std::string& data, const Interval& interval) {
  for (int bits = 24; bits >= 0; bits -= 8) {
    const std::uint64_t unit = std::uint64_t{1} << bits;
    const std::uint64_t value = (interval.low + unit - 1) / unit * unit;
    if (value > interval.high) continue;
    for (int shift = 24; shift >= bits; shift -= 8) data.push_back(static_cast<char>(value >> shift & 0xFF));
    break;
  }
  while (!data.empty() && data.back() == 0) data.pop_back();
}

}  // namespace

std::string encode_flags(const std::uint8_t* flags, std::ptrdiff_t rows, std::ptrdiff_t cols) {
  Model model;
  Interval interval;
  std::string data;
  for (std::ptrdiff_t row = 0; row < rows; ++row)
    for (std::ptrdiff_t col = 0; col < cols; ++col) {
      const std::uint32_t context = context_of(flags, cols, row, col);
      const bool flag = flags[row * cols + col] != 0;
      interval.take(flag, interval.split(model.of(context)));
      model.update(context, flag);
      for (auto first = static_cast<char>(interval.low >> 24); interval.shift();
           first = static_cast<char>(interval.low >> 24))
        data.push_back(first);
    }
  put_end(data, interval);
  return data;
}

void decode_flags(std::string_view data, std::ptrdiff_t rows, std::ptrdiff_t cols, std::uint8_t* flags) {
  std::size_t at = 0;
  const auto next = [&] { return at < data.size() ? static_cast<std::uint32_t>(data[at++]) & 0xFF : 0; };
  std::uint32_t value = 0;
  for (int i = 0; i < 4; ++i) value = value << 8 | next();
  Model model;
  Interval interval;
  for (std::ptrdiff_t row = 0; row < rows; ++row)
    for (std::ptrdiff_t col = 0; col < cols; ++col) {
      const std::uint32_t context = context_of(flags, cols, row, col);
      const std::uint32_t split = interval.split(model.of(context));
      const bool flag = value <= split;
      flags[row * cols + col] = flag ? 1 : 0;
      interval.take(flag, split);
      model.update(context, flag);
      while (interval.shift()) value = value << 8 | next();
    }
}

}  // namespace rjpeg
