#include "rice.hpp"

#include <cstdlib>
#include <stdexcept>
#include <utility>

namespace rjpeg {
namespace {

class Bits {
 public:
  void put(bool bit) {
    if (held_ == 0) bytes_.push_back('\0');
    if (bit) bytes_.back() = static_cast<char>(static_cast<unsigned char>(bytes_.back()) | 0x80 >> held_);
    held_ = (held_ + 1) % 8;
  }
  void put_unary(std::int64_t value) {
    for (; value > 0; --value) put(true);
    put(false);
  }
  void put_binary(std::int64_t value, int length) {
    for (int bit = length - 1; bit >= 0; --bit) put(value >> bit & 1);
  }
  std::string finish() {
    while (held_ != 0) put(true);
    return std::move(bytes_);
  }

 private:
  std::string bytes_;
  int held_ = 0;
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

std::string rice_encode(const std::int64_t* gaps, const std::int64_t* differences, std::ptrdiff_t count) {
  int parameter = 0;
  std::int64_t least = 0;
  for (int k = 0; k < 16; ++k) {
    std::int64_t length = k * count;
    for (std::ptrdiff_t i = 0; i < count; ++i) length += gaps[i] >> k;
    if (k == 0 || length < least) {
      least = length;
      parameter = k;
    }
  }
  Bits bits;
  bits.put_binary(parameter, 4);
  for (std::ptrdiff_t i = 0; i < count; ++i) {
    bits.put_unary(gaps[i] >> parameter);
    bits.put_binary(gaps[i], parameter);
    bits.put(differences[i] < 0);
    bits.put_unary(std::llabs(differences[i]) - 1);
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
