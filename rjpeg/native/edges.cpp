#include "edges.hpp"

#include <cstdlib>

#include "clones.hpp"

namespace rjpeg {
namespace {

constexpr std::ptrdiff_t kBlockSide = 8, kRegionSide = 16;

// Six samples across an edge, of which the middle four may change: those before it, and those after it.
struct Edge {
  std::ptrdiff_t across = 1;  // from sample to sample across the edge
  std::ptrdiff_t along = 1;   // from one six to the next
  int reach = 0;
  bool before = false, after = false;
};

RJPEG_INLINE void smooth(std::uint8_t* first_after, const Edge& edge) {
  const int flat = 3 * edge.reach / 10;  // on either side, a surface has steps below that
  const std::ptrdiff_t a = edge.across;
  for (std::ptrdiff_t i = 0; i < kRegionSide; ++i) {
    std::uint8_t* const q = first_after + i * edge.along;
    const int p2 = q[-3 * a], p1 = q[-2 * a], p0 = q[-a], q0 = q[0], q1 = q[a], q2 = q[2 * a];
    const bool smooths = (std::abs(p0 - q0) < edge.reach) & (std::abs(p1 - p0) < flat) & (std::abs(q1 - q0) < flat) &
                         (std::abs(p2 - p1) < flat) & (std::abs(q2 - q1) < flat);
    const bool before = smooths & edge.before, after = smooths & edge.after;
    q[-2 * a] = static_cast<std::uint8_t>(before ? (p2 + p1 + p0 + q0 + 2) >> 2 : p1);
    q[-a] = static_cast<std::uint8_t>(before ? (p2 + 2 * (p1 + p0 + q0) + q1 + 4) >> 3 : p0);
    q[0] = static_cast<std::uint8_t>(after ? (p1 + 2 * (p0 + q0 + q1) + q2 + 4) >> 3 : q0);
    q[a] = static_cast<std::uint8_t>(after ? (p0 + q0 + q1 + q2 + 2) >> 2 : q1);
  }
}

// The two edges of a region's blocks: the one that it begins with, beside the region before it, and the one within.
RJPEG_INLINE void smooth_region(std::uint8_t* region, Edge edge, const std::uint8_t* sent, const std::uint8_t* reach,
                                std::ptrdiff_t before, bool has_before) {
  if (has_before && (sent[0] || sent[-before])) {
    edge.reach = sent[0] ? reach[0] : reach[-before];
    edge.before = sent[-before] != 0;
    edge.after = sent[0] != 0;
    smooth(region, edge);
  }
  if (sent[0]) {
    edge.reach = reach[0];
    edge.before = edge.after = true;
    smooth(region + kBlockSide * edge.across, edge);
  }
}

}  // namespace

RJPEG_WIDE
void smooth_edges(std::uint8_t* plane, const std::uint8_t* sent, const std::uint8_t* reach, std::ptrdiff_t rows,
                  std::ptrdiff_t cols) {
  const std::ptrdiff_t stride = cols * kRegionSide;
  for (std::ptrdiff_t row = 0; row < rows; ++row)
    for (std::ptrdiff_t col = 0; col < cols; ++col) {
      const std::ptrdiff_t at = row * cols + col;
      smooth_region(plane + (row * stride + col) * kRegionSide, {1, stride}, sent + at, reach + at, 1, col > 0);
    }
  for (std::ptrdiff_t row = 0; row < rows; ++row)
    for (std::ptrdiff_t col = 0; col < cols; ++col) {
      const std::ptrdiff_t at = row * cols + col;
      smooth_region(plane + (row * stride + col) * kRegionSide, {stride, 1}, sent + at, reach + at, cols, row > 0);
    }
}

}  // namespace rjpeg
