#include "huffman.hpp"

#include <algorithm>
#include <cmath>
#include <cstdlib>

namespace rjpeg {

namespace {

constexpr double kBitsPerSymbol = 8;        // in the table
constexpr double kBitsPerTable = 17 * 8;    // class, id and sixteen counts

double coded_bits(const Histogram& histogram) {
  double total = 0;
  for (const std::uint32_t uses : histogram) total += uses;
  double bits = kBitsPerTable;
  for (const std::uint32_t uses : histogram)
    if (uses > 0) bits += uses * std::log2(total / uses) + kBitsPerSymbol;
  return bits;
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
    int symbol;
    std::uint64_t uses;
  };
  std::vector<Tree> trees;
  for (int symbol = 0; symbol < kReserved; ++symbol)
    if (histogram[static_cast<std::size_t>(symbol)] > 0)
      trees.push_back({symbol, histogram[static_cast<std::size_t>(symbol)]});
  trees.push_back({kReserved, 1});

  std::array<int, kReserved + 1> length{}, next;
  next.fill(-1);
  while (trees.size() > 1) {
    // The two least used, of equals the later one first.
    std::size_t first = 0, second = trees.size();
    for (std::size_t i = 1; i < trees.size(); ++i) {
      if (trees[i].uses <= trees[first].uses) {
        second = first;
        first = i;
      } else if (second == trees.size() || trees[i].uses <= trees[second].uses) {
        second = i;
      }
    }
    int one = trees[first].symbol, other = trees[second].symbol;
    trees[first].uses += trees[second].uses;
    trees.erase(trees.begin() + static_cast<std::ptrdiff_t>(second));
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
