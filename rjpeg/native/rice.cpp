#include "rice.hpp"

#include <cstdlib>
#include <stdexcept>
#include <utility>

namespace rjpeg {
namespace {

class Bits {
 public:
  // The low `length` bits of a value, at most 32.
  void put(std::uint64_t value, int length) {
    held_ = held_ << length | (value & ((std::uint64_t{1} << length) - 1));
    count_ += length;
    for (; count_ >= 8; count_ -= 8) bytes_.push_back(static_cast<char>(held_ >> (count_ - 8)));
  }
  // So many ones, and a zero.
  void put_unary(std::int64_t value) {
    for (; value >= 31; value -= 31) put(0x7FFFFFFF, 31);
    put((std::uint64_t{2} << value) - 2, static_cast<int>(value) + 1);
  }
  std::string finish() {
    if (count_ != 0) put(0xFF, 8 - count_);
    return std::move(bytes_);
  }

 private:
  std::string bytes_;
  std::uint64_t held_ = 0;
  int count_ = 0;  // bits of held_ that are not in bytes_ yet, fewer than 8
};

class BitReader {
 public:
  explicit BitReader(std::string_view data) : data_(data), end_(8 * data.size()) {}
  bool done() const { return at_ >= end_; }
  bool next() {
    if (done()) throw std::invalid_argument("are cut short");
    const bool bit = static_cast<unsigned char>(data_[at_ / 8]) >> (7 - at_ % 8) & 1;
    ++at_;
    return bit;
  }
  std::int64_t binary(int length) {
    std::int64_t value = 0;
    for (; length > 0; --length) value = value << 1 | static_cast<std::int64_t>(next());
    return value;
  }

 private:
  std::string_view data_;
  std::size_t at_ = 0, end_;
};

}  // namespace

std::optional<std::string> rice_encode(const std::uint8_t* before, const std::uint8_t* after, std::ptrdiff_t regions,
                                       std::size_t most) {
  struct Change {
    std::int64_t gap;
    int difference;
  };
  std::vector<Change> changes;
  std::int64_t gap = 0;
  for (int channel = 0; channel < 2; ++channel)
    for (std::ptrdiff_t i = channel; i < 2 * regions; i += 2, ++gap) {
      if (before[i] == after[i]) continue;
      if (changes.size() == most) return std::nullopt;
      changes.push_back({gap, after[i] - before[i]});
      gap = -1;
    }
  if (changes.empty()) return std::string();
  int parameter = 0;
  std::int64_t least = 0;
  for (int k = 0; k < 16; ++k) {
    std::int64_t length = k * static_cast<std::int64_t>(changes.size());
    for (const Change& change : changes) length += change.gap >> k;
    if (k == 0 || length < least) {
      least = length;
      parameter = k;
    }
  }
  Bits bits;
  bits.put(static_cast<std::uint64_t>(parameter), 4);
  for (const Change& change : changes) {
    bits.put_unary(change.gap >> parameter);
    bits.put(static_cast<std::uint64_t>(change.gap), parameter);
    bits.put(change.difference < 0, 1);
    bits.put_unary(std::abs(change.difference) - 1);
  }
  return bits.finish();
}

Differences rice_decode(std::string_view data, std::int64_t size, std::size_t most) {
  Differences found;
  if (data.empty()) return found;
  BitReader bits(data);
  const auto parameter = static_cast<int>(bits.binary(4));
  std::int64_t position = -1;
  for (;;) {
    std::int64_t quotient = 0;
    for (;;) {
      if (bits.done()) return found;  // ones up to a whole byte
      if (!bits.next()) break;
      ++quotient;
    }
    position += 1 + (quotient << parameter) + bits.binary(parameter);
    const bool negative = bits.next();
    std::int64_t magnitude = 1;
    while (bits.next()) ++magnitude;
    if (position >= size || found.positions.size() >= most)
      throw std::invalid_argument("go beyond the map's " + std::to_string(size) + " levels");
    found.positions.push_back(position);
    found.values.push_back(negative ? -magnitude : magnitude);
  }
}

}  // namespace rjpeg
