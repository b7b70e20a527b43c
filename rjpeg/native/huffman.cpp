#include "huffman.hpp"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <functional>
#include <queue>
#include <utility>

namespace rjpeg {

namespace {

constexpr double kBitsPerSymbol = 8;        // in the table
constexpr double kBitsPerTable = 17 * 8;    // class, id and sixteen counts

double entropy_term(std::uint32_t n) { return n > 0 ? n * std::log2(n) : 0; }

double coded_bits(const Histogram& histogram) {
  std::uint32_t total = 0;
  double bits = kBitsPerTable;
  for (const std::uint32_t uses : histogram)
    if (uses > 0) {
      total += uses;
      bits += kBitsPerSymbol - entropy_term(uses);
    }
  return bits + entropy_term(total);
}

}  // namespace

Histogram sum(const Histogram& a, const Histogram& b) {
  Histogram both = a;
  for (std::size_t symbol = 0; symbol < both.size(); ++symbol) both[symbol] += b[symbol];
  return both;
}

void count_dc(const Blocks& blocks, Histogram& histogram) {
  int before = 0;
  const std::int16_t* value = blocks.values;
  for (std::ptrdiff_t block = 0; block < blocks.rows * blocks.cols; ++block, value += 64) {
    ++histogram[static_cast<std::size_t>(size_of(std::abs(*value - before)))];
    before = *value;
  }
}

bool better_shared(const Histogram& a, const Histogram& b) {
  return coded_bits(sum(a, b)) <= coded_bits(a) + coded_bits(b);
}

HuffmanTable best_table(const Histogram& histogram) {
  // A symbol that is never used takes the code of ones alone, which no symbol may have.
  constexpr int kReserved = 256;
  struct Tree {
    std::uint64_t uses;
    int symbol;
    // The least used comes first, of equals the later one.
    bool operator<(const Tree& other) const { return uses != other.uses ? uses > other.uses : symbol < other.symbol; }
  };
  std::vector<Tree> used;
  used.reserve(kReserved + 1);
  for (int symbol = 0; symbol < kReserved; ++symbol)
    if (histogram[static_cast<std::size_t>(symbol)] > 0)
      used.push_back({histogram[static_cast<std::size_t>(symbol)], symbol});
  used.push_back({1, kReserved});
  std::priority_queue<Tree, std::vector<Tree>, std::less<>> trees(std::less<>(), std::move(used));

  std::array<int, kReserved + 1> length{}, next;
  next.fill(-1);
  while (trees.size() > 1) {
    const Tree first = trees.top();
    trees.pop();
    int one = first.symbol, other = trees.top().symbol;
    const std::uint64_t uses = first.uses + trees.top().uses;
    trees.pop();
    trees.push({uses, first.symbol});
    for (++length[static_cast<std::size_t>(one)]; next[static_cast<std::size_t>(one)] >= 0;)
      ++length[static_cast<std::size_t>(one = next[static_cast<std::size_t>(one)])];
    next[static_cast<std::size_t>(one)] = other;
    for (; other >= 0; other = next[static_cast<std::size_t>(other)]) ++length[static_cast<std::size_t>(other)];
  }

  // T.81, figure K.3: codes beyond 16 bits take the place of shorter ones.
  std::array<int, kReserved + 2> count{};
  for (const int bits : length)
    if (bits > 0) ++count[static_cast<std::size_t>(bits)];
  for (std::size_t bits = count.size() - 1; bits > 16; --bits)
    while (count[bits] > 0) {
      std::size_t shorter = bits - 2;
      while (count[shorter] == 0) --shorter;
      count[bits] -= 2;
      ++count[bits - 1];
      count[shorter + 1] += 2;
      --count[shorter];
    }
  std::size_t longest = 16;
  while (count[longest] == 0) --longest;
  --count[longest];

  HuffmanTable table;
  for (std::size_t bits = 1; bits <= 16; ++bits) table.lengths[bits] = static_cast<std::uint8_t>(count[bits]);
  for (int symbol = 0; symbol < kReserved; ++symbol)
    if (length[static_cast<std::size_t>(symbol)] > 0) table.symbols.push_back(static_cast<std::uint8_t>(symbol));
  std::stable_sort(table.symbols.begin(), table.symbols.end(),
                   [&length](std::uint8_t a, std::uint8_t b) { return length[a] < length[b]; });
  return table;
}

}  // namespace rjpeg
