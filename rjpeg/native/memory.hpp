// Large buffers that are used again, since fresh memory from the system costs more than what is done in it. Arrays that
// Python gets are such buffers, too.
#pragma once

#include <cstddef>
#include <utility>

namespace rjpeg {

// Memory of arbitrary contents. What is given up is kept for the next one of its size, 64 MB in all. Any thread may take
// and give up. Throws std::bad_alloc.
void* take_memory(std::size_t bytes);
void give_memory(void* memory, std::size_t bytes) noexcept;

template <typename T>
class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(std::size_t count) : bytes_(count * sizeof(T)), values_(static_cast<T*>(take_memory(bytes_))) {}
  Buffer(Buffer&& other) noexcept
      : bytes_(std::exchange(other.bytes_, 0)), values_(std::exchange(other.values_, nullptr)) {}
  Buffer& operator=(Buffer&& other) noexcept {
    std::swap(bytes_, other.bytes_);
    std::swap(values_, other.values_);
    return *this;
  }
  ~Buffer() {
    if (values_ != nullptr) give_memory(values_, bytes_);
  }
  T* data() { return values_; }
  const T* data() const { return values_; }

 private:
  std::size_t bytes_ = 0;
  T* values_ = nullptr;
};

}  // namespace rjpeg
