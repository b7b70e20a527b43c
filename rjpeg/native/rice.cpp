#include "rice.hpp"

#include <cstdlib>
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

}  // namespace rjpeg
