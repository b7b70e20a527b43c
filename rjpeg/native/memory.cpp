#include "memory.hpp"

#include <cstdlib>
#include <mutex>
#include <new>
#include <vector>

namespace rjpeg {
namespace {

constexpr std::size_t kMaxKept = std::size_t{64} << 20;

struct Kept {
  void* memory;
  std::size_t bytes;
};

struct Shelf {
  std::mutex lock;
  std::vector<Kept> kept;
  std::size_t bytes = 0;
};

// Never destroyed: arrays may outlive whatever is destroyed at the end of a process.
Shelf& shelf() {
  static Shelf& only = *new Shelf;
  return only;
}

}  // namespace

void* take_memory(std::size_t bytes) {
  Shelf& from = shelf();
  {
    const std::scoped_lock held(from.lock);
    for (auto at = from.kept.rbegin(); at != from.kept.rend(); ++at)
      if (at->bytes == bytes) {
        void* memory = at->memory;
        from.kept.erase(std::next(at).base());
        from.bytes -= bytes;
        return memory;
      }
  }
  void* memory = std::malloc(bytes > 0 ? bytes : 1);
  if (memory == nullptr) throw std::bad_alloc();
  return memory;
}

void give_memory(void* memory, std::size_t bytes) noexcept {
  Shelf& to = shelf();
  std::vector<void*> old;
  try {
    const std::scoped_lock held(to.lock);
    if (bytes <= kMaxKept) {
      // What was not asked for again for the longest time goes first.
      while (to.bytes + bytes > kMaxKept) {
        old.push_back(to.kept.front().memory);
        to.bytes -= to.kept.front().bytes;
        to.kept.erase(to.kept.begin());
      }
      to.kept.push_back({memory, bytes});
      to.bytes += bytes;
      memory = nullptr;
    }
  } catch (const std::bad_alloc&) {  // NOLINT(bugprone-empty-catch): then it is not kept
  }
  std::free(memory);
  for (void* other : old) std::free(other);
}

}  // namespace rjpeg
