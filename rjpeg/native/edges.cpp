#include "edges.hpp"

#include <cstring>

#include "clones.hpp"

namespace rjpeg {
namespace {

constexpr std::ptrdiff_t kBlockSide = 8, kRegionSide = 16;
constexpr int kAcross = 6;

// Where an edge lies, and who may change beside it.
struct Edge {
  std::ptrdiff_t across = 1;  // from sample to sample across the edge
  std::ptrdiff_t along = 1;   // the same along the edge
  int reach = 0;
  bool before = false, after = false;
};

// Six samples across an edge, sixteen times: three before it and three after it. The middle four may change.
using Samples = std::uint8_t[kAcross][kRegionSide];

// Sixteen lanes that the compiler maps to whatever vectors the machine has.
using Bytes = std::uint8_t __attribute__((vector_size(kRegionSide)));
using Lanes = std::int16_t __attribute__((vector_size(2 * kRegionSide)));

RJPEG_INLINE Lanes load(const std::uint8_t* samples) {
  Bytes bytes;
  std::memcpy(&bytes, samples, sizeof bytes);
  return __builtin_convertvector(bytes, Lanes);
}

RJPEG_INLINE void store(Lanes values, std::uint8_t* samples) {
  const Bytes bytes = __builtin_convertvector(values, Bytes);
  std::memcpy(samples, &bytes, sizeof bytes);
}

RJPEG_INLINE Lanes below(Lanes a, Lanes b, Lanes limit) { return (a - b < limit) & (b - a < limit); }

RJPEG_INLINE void smooth(Samples& samples, const Edge& edge) {
  const Lanes reach = Lanes{} + static_cast<std::int16_t>(edge.reach);
  const Lanes flat = Lanes{} + static_cast<std::int16_t>(3 * edge.reach / 10);  // a surface has steps below that
  const Lanes p2 = load(samples[0]), p1 = load(samples[1]), p0 = load(samples[2]);
  const Lanes q0 = load(samples[3]), q1 = load(samples[4]), q2 = load(samples[5]);
  const Lanes smooths =
      below(p0, q0, reach) & below(p1, p0, flat) & below(q1, q0, flat) & below(p2, p1, flat) & below(q2, q1, flat);
  if (edge.before) {
    store(smooths ? (p2 + p1 + p0 + q0 + 2) >> 2 : p1, samples[1]);
    store(smooths ? (p2 + 2 * (p1 + p0 + q0) + q1 + 4) >> 3 : p0, samples[2]);
  }
  if (edge.after) {
    store(smooths ? (p1 + 2 * (p0 + q0 + q1) + q2 + 4) >> 3 : q0, samples[3]);
    store(smooths ? (p0 + q0 + q1 + q2 + 2) >> 2 : q1, samples[4]);
  }
}

// Takes the samples out and puts them back: sixteen that lie along the edge are one vector.
RJPEG_INLINE void smooth_at(std::uint8_t* first_after, const Edge& edge) {
  Samples samples;
  std::uint8_t* const first = first_after - 3 * edge.across;
  if (edge.along == 1) {
    for (int k = 0; k < kAcross; ++k) std::memcpy(samples[k], first + k * edge.across, kRegionSide);
    smooth(samples, edge);
    for (int k = 1; k + 1 < kAcross; ++k) std::memcpy(first + k * edge.across, samples[k], kRegionSide);
    return;
  }
  for (std::ptrdiff_t i = 0; i < kRegionSide; ++i)
    for (int k = 0; k < kAcross; ++k) samples[k][i] = first[i * edge.along + k];
  smooth(samples, edge);
  for (std::ptrdiff_t i = 0; i < kRegionSide; ++i)
    for (int k = 1; k + 1 < kAcross; ++k) first[i * edge.along + k] = samples[k][i];
}

// The two edges of a region's blocks: the one that it begins with, beside the region before it, and the one within.
RJPEG_INLINE void smooth_region(std::uint8_t* region, Edge edge, const std::uint8_t* sent, const std::uint8_t* reach,
                                std::ptrdiff_t before, bool has_before) {
  if (has_before && (sent[0] || sent[-before])) {
    edge.reach = sent[0] ? reach[0] : reach[-before];
    edge.before = sent[-before] != 0;
    edge.after = sent[0] != 0;
    smooth_at(region, edge);
  }
  if (sent[0]) {
    edge.reach = reach[0];
    edge.before = edge.after = true;
    smooth_at(region + kBlockSide * edge.across, edge);
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
