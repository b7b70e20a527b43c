// Bindings: NumPy arrays in, NumPy arrays or bytes out. `arrays.hpp` has the checks.
#include <pybind11/stl.h>

#include <algorithm>
#include <cstdlib>
#include <optional>

#include "arrays.hpp"
#include "bitstream.hpp"
#include "color.hpp"
#include "costs.hpp"
#include "edges.hpp"
#include "features.hpp"
#include "jpeg_file.hpp"
#include "kept.hpp"
#include "memory.hpp"
#include "picture.hpp"
#include "region_bits.hpp"
#include "rice.hpp"
#include "tiles.hpp"
#include "transform.hpp"

namespace py = pybind11;

namespace {

using rjpeg::Array, rjpeg::array_of, rjpeg::blocks_with_masks, rjpeg::covers, rjpeg::Exact, rjpeg::expect,
    rjpeg::is_blocks;

// An array with arbitrary contents, in memory that is used again: see memory.hpp.
py::array empty(const std::vector<py::ssize_t>& shape, const py::dtype& dtype) {
  auto bytes = static_cast<std::size_t>(dtype.itemsize());
  for (const py::ssize_t side : shape) {
    expect(side >= 0, "shape: expected sides of 0 or more");
    bytes *= static_cast<std::size_t>(side);
  }
  rjpeg::Buffer<unsigned char> buffer(bytes);
  unsigned char* const values = buffer.data();
  return {dtype, shape, {}, values, rjpeg::owner_of(std::move(buffer))};
}

void planes_from_bgr(const py::array_t<std::uint8_t>& frame, Exact<std::uint8_t>& y, Exact<std::uint8_t>& cb,
                     Exact<std::uint8_t>& cr) {
  expect(frame.ndim() == 3 && frame.shape(2) == 3 && frame.strides(2) == 1 && frame.strides(1) == 3,
         "frame: expected shape (height, width, 3) and contiguous rows");
  const py::ssize_t height = frame.shape(0), width = frame.shape(1), stride = frame.strides(0);
  expect(y.ndim() == 2 && y.shape(0) == height && y.shape(1) == width, "y: expected the size of the frame");
  expect(cb.ndim() == 2 && cr.ndim() == 2 && cb.shape(0) == cr.shape(0) && cb.shape(1) == cr.shape(1),
         "cb, cr: expected two of a size");
  const bool whole = cb.shape(0) == height && cb.shape(1) == width;
  // A frame of one pixel is whole and half at once.
  expect(whole || (cb.shape(0) == (height + 1) / 2 && cb.shape(1) == (width + 1) / 2),
         "cb, cr: expected the size of the frame or half of it");
  const std::uint8_t* source = frame.data();
  std::uint8_t *luma = y.mutable_data(), *blue = cb.mutable_data(), *red = cr.mutable_data();
  {
    py::gil_scoped_release unlocked;
    rjpeg::planes_from_bgr(source, height, width, stride, !whole, luma, blue, red);
  }
}

py::array_t<float> forward_dct(const py::array_t<std::uint8_t, py::array::forcecast>& plane, py::ssize_t block_rows,
                               py::ssize_t block_cols, const std::optional<Exact<float>>& out) {
  expect(plane.ndim() == 2 && plane.shape(0) > 0 && plane.shape(1) > 0, "plane: expected shape (height, width)");
  expect(plane.strides(1) == 1, "plane: expected contiguous rows");
  expect(block_rows > 0 && block_cols > 0, "blocks: expected at least one");
  Exact<float> coefficients =
      out ? *out : Exact<float>({block_rows, block_cols, static_cast<py::ssize_t>(rjpeg::kCoefficients)});
  expect(is_blocks(coefficients, block_rows, block_cols), "out: expected shape (block_rows, block_cols, 64)");
  const std::uint8_t* source = plane.data();
  const py::ssize_t height = plane.shape(0), width = plane.shape(1), stride = plane.strides(0);
  float* target = coefficients.mutable_data();
  {
    // It ends before the return, which makes another array of this one.
    py::gil_scoped_release unlocked;
    rjpeg::forward_dct(source, height, width, stride, block_rows, block_cols, target);
  }
  return coefficients;
}

py::dict to_dict(rjpeg::JpegFile& file, bool with_blocks) {
  py::list segments, sampling, tables, blocks;
  for (const auto& segment : file.segments) segments.append(py::make_tuple(segment.code, py::bytes(segment.data)));
  for (auto& component : file.components) {
    sampling.append(py::make_tuple(component.h, component.v));
    if (!with_blocks) continue;
    tables.append(py::array_t<std::uint16_t>(static_cast<py::ssize_t>(component.table.size()), component.table.data()));
    blocks.append(array_of(std::move(component.blocks),
                           {component.block_rows, component.block_cols, py::ssize_t{rjpeg::kCoefficients}}));
  }
  py::dict facts;
  facts["width"] = file.width;
  facts["height"] = file.height;
  facts["progressive"] = file.progressive;
  facts["ycc"] = file.ycc;
  facts["segments"] = segments;
  facts["sampling"] = sampling;
  facts["tables"] = tables;
  facts["blocks"] = blocks;
  return facts;
}

py::dict read_file(const py::bytes& jpeg, std::int64_t max_pixels, int segment_code, bool with_blocks) {
  const std::string_view data = jpeg;
  rjpeg::JpegFile file;
  {
    py::gil_scoped_release unlocked;
    file = rjpeg::read_file(reinterpret_cast<const std::uint8_t*>(data.data()), data.size(), max_pixels, segment_code,
                            with_blocks ? rjpeg::Read::kCoefficients : rjpeg::Read::kHeader);
  }
  return to_dict(file, with_blocks);
}

py::array_t<std::uint8_t> decode_plain(const py::bytes& jpeg, std::int64_t max_pixels) {
  const std::string_view data = jpeg;
  int height = 0, width = 0;
  rjpeg::Buffer<std::uint8_t> pixels;
  {
    py::gil_scoped_release unlocked;
    pixels =
        rjpeg::decode_plain(reinterpret_cast<const std::uint8_t*>(data.data()), data.size(), max_pixels, height, width);
  }
  return array_of(std::move(pixels), {height, width, py::ssize_t{3}});
}

py::array_t<double> region_bits(const py::bytes& jpeg, std::int64_t max_pixels, int region) {
  expect(region > 0, "region: expected at least one pixel");
  const std::string_view data = jpeg;
  std::ptrdiff_t rows = 0, cols = 0;
  std::vector<double> bits;
  {
    py::gil_scoped_release unlocked;
    bits = rjpeg::region_bits(reinterpret_cast<const std::uint8_t*>(data.data()), data.size(), max_pixels, region, rows,
                              cols);
  }
  return py::array_t<double>({rows, cols}, bits.data());
}

rjpeg::RegionLevels checked_levels(const Exact<std::int16_t>& quantized, const Exact<rjpeg::Mask>& masks,
                                   const Exact<float>& steps, const Exact<std::uint8_t>& levels, int channel) {
  const rjpeg::Blocks blocks = blocks_with_masks(quantized, masks);
  expect(steps.ndim() == 2 && steps.shape(1) == rjpeg::kCoefficients, "steps: expected shape (levels, 64)");
  expect(levels.ndim() == 3 && levels.shape(2) == 2 && (channel == 0 || channel == 1),
         "levels: expected shape (rows, cols, 2)");
  const bool same = blocks.rows == levels.shape(0) && blocks.cols == levels.shape(1);
  expect(covers(blocks.rows, levels.shape(0), same) && covers(blocks.cols, levels.shape(1), same),
         "levels: expected one or four blocks a region");
  const std::uint8_t* level = levels.data();
  for (py::ssize_t i = channel; i < levels.size(); i += 2)
    expect(level[i] < steps.shape(0), "levels: level without steps");
  return {level + channel, levels.shape(0), levels.shape(1)};
}

void quantize_regions(const std::vector<Exact<float>>& coefficients, const std::pair<Exact<float>, Exact<float>>& steps,
                      const Exact<std::uint8_t>& levels, const std::optional<Exact<std::uint8_t>>& before,
                      float dead_zone, std::vector<Exact<std::int16_t>>& quantized,
                      std::vector<Exact<rjpeg::Mask>>& masks) {
  expect(coefficients.size() == quantized.size() && masks.size() == quantized.size(),
         "coefficients, quantized, masks: expected those of each component");
  expect(!before || (before->ndim() == 3 && before->shape(0) == levels.shape(0) &&
                     before->shape(1) == levels.shape(1) && before->shape(2) == 2),
         "before: expected the shape of the levels");
  for (std::size_t c = 0; c < quantized.size(); ++c) {
    const int channel = c > 0;
    const Exact<float>& of_channel = channel ? steps.second : steps.first;
    const rjpeg::RegionLevels regions = checked_levels(quantized[c], masks[c], of_channel, levels, channel);
    const py::ssize_t rows = quantized[c].shape(0), cols = quantized[c].shape(1);
    expect(is_blocks(coefficients[c], rows, cols), "coefficients: expected shape (rows, cols, 64)");
    const std::uint8_t* levels_before = before ? before->data() + channel : nullptr;
    const float *source = coefficients[c].data(), *step = of_channel.data();
    std::int16_t* target = quantized[c].mutable_data();
    rjpeg::Mask* target_masks = masks[c].mutable_data();
    {
      py::gil_scoped_release unlocked;
      rjpeg::quantize_regions(source, rows, cols, step, regions, levels_before, dead_zone, target, target_masks);
    }
  }
}

void transform_and_quantize(const py::array_t<std::uint8_t>& plane, const Exact<float>& steps,
                            const Exact<std::uint8_t>& levels, int channel, float dead_zone,
                            Exact<std::int16_t>& quantized, Exact<rjpeg::Mask>& masks) {
  expect(plane.ndim() == 2 && plane.shape(0) > 0 && plane.shape(1) > 0 && plane.strides(1) == 1,
         "plane: expected shape (height, width) and contiguous rows");
  const rjpeg::RegionLevels regions = checked_levels(quantized, masks, steps, levels, channel);
  const std::uint8_t* source = plane.data();
  const py::ssize_t height = plane.shape(0), width = plane.shape(1), stride = plane.strides(0);
  const py::ssize_t rows = quantized.shape(0), cols = quantized.shape(1);
  const float* step = steps.data();
  std::int16_t* target = quantized.mutable_data();
  rjpeg::Mask* target_masks = masks.mutable_data();
  {
    py::gil_scoped_release unlocked;
    rjpeg::transform_and_quantize(source, height, width, stride, rows, cols, step, regions, dead_zone, target,
                                  target_masks);
  }
}

py::array_t<std::uint8_t> picture_of(const std::vector<Exact<std::int16_t>>& blocks,
                                     const std::vector<Exact<float>>& steps, const Exact<std::uint8_t>& levels,
                                     bool half, py::ssize_t height, py::ssize_t width) {
  expect(blocks.size() == 3 && steps.size() == 3, "blocks, steps: expected three components");
  expect(levels.ndim() == 3 && levels.shape(2) == 2, "levels: expected shape (rows, cols, 2)");
  expect(height > 0 && width > 0, "size: expected at least 1x1");
  rjpeg::QuantizedPlane planes[3];
  for (int c = 0; c < 3; ++c) {
    const int channel = std::min(c, 1);
    const py::ssize_t samples_high = half && c > 0 ? (height + 1) / 2 : height;
    const py::ssize_t samples_wide = half && c > 0 ? (width + 1) / 2 : width;
    const py::ssize_t rows = (samples_high + 7) / 8, cols = (samples_wide + 7) / 8;
    const bool four = !half || c == 0;
    expect(is_blocks(blocks[c], rows, cols), "blocks: expected the shape that size and sampling give");
    expect(covers(rows, levels.shape(0), !four) && covers(cols, levels.shape(1), !four),
           "levels: expected one for every region");
    expect(steps[c].ndim() == 2 && steps[c].shape(1) == rjpeg::kCoefficients, "steps: expected shape (levels, 64)");
    const std::uint8_t* level = levels.data();
    for (py::ssize_t i = channel; i < levels.size(); i += 2)
      expect(level[i] < steps[c].shape(0), "levels: level without steps");
    planes[c] = {
        blocks[c].data(), rows, cols, steps[c].data(), {level + channel, levels.shape(0), levels.shape(1)}, four};
  }
  rjpeg::Buffer<std::uint8_t> pixels(static_cast<std::size_t>(height) * static_cast<std::size_t>(width) * 3);
  {
    py::gil_scoped_release unlocked;
    rjpeg::picture_of(planes, half, height, width, pixels.data());
  }
  return array_of(std::move(pixels), {height, width, py::ssize_t{3}});
}

// The samples of a component that has one or four blocks a region, (rows * 8, cols * 8).
py::array_t<std::uint8_t> samples_of(const Exact<std::int16_t>& blocks, const Exact<float>& steps,
                                     const Exact<std::uint8_t>& levels, int channel) {
  expect(blocks.ndim() == 3 && blocks.shape(2) == rjpeg::kCoefficients, "blocks: expected shape (rows, cols, 64)");
  expect(steps.ndim() == 2 && steps.shape(1) == rjpeg::kCoefficients, "steps: expected shape (levels, 64)");
  expect(levels.ndim() == 3 && levels.shape(2) == 2 && (channel == 0 || channel == 1),
         "levels: expected shape (rows, cols, 2)");
  const py::ssize_t rows = blocks.shape(0), cols = blocks.shape(1);
  const bool same = rows == levels.shape(0) && cols == levels.shape(1);
  expect(covers(rows, levels.shape(0), same) && covers(cols, levels.shape(1), same),
         "levels: expected one or four blocks a region");
  const std::uint8_t* level = levels.data();
  for (py::ssize_t i = channel; i < levels.size(); i += 2)
    expect(level[i] < steps.shape(0), "levels: level without steps");
  const rjpeg::QuantizedPlane plane{
      blocks.data(), rows, cols, steps.data(), {level + channel, levels.shape(0), levels.shape(1)}, !same};
  rjpeg::Buffer<std::uint8_t> samples(static_cast<std::size_t>(blocks.size()));
  {
    py::gil_scoped_release unlocked;
    rjpeg::samples_of(plane, samples.data());
  }
  return array_of(std::move(samples), {rows * rjpeg::kBlock, cols * rjpeg::kBlock});
}

struct SamplePlanes {
  const std::uint8_t* samples[3]{};
  std::ptrdiff_t strides[3]{};
};

SamplePlanes checked_planes(const std::vector<Exact<std::uint8_t>>& planes, bool half, py::ssize_t height,
                            py::ssize_t width) {
  expect(planes.size() == 3, "planes: expected three");
  expect(height > 0 && width > 0, "size: expected at least 1x1");
  SamplePlanes checked;
  for (std::size_t c = 0; c < 3; ++c) {
    const bool halved = half && c > 0;
    const py::ssize_t high = halved ? (height + 1) / 2 : height, wide = halved ? (width + 1) / 2 : width;
    expect(planes[c].ndim() == 2 && planes[c].shape(0) >= high && planes[c].shape(1) >= wide,
           "planes: expected at least the size that height, width and sampling give");
    checked.samples[c] = planes[c].data();
    checked.strides[c] = planes[c].shape(1);
  }
  return checked;
}

py::array_t<std::uint8_t> bgr_of(const std::vector<Exact<std::uint8_t>>& planes, bool half, py::ssize_t height,
                                 py::ssize_t width) {
  const SamplePlanes checked = checked_planes(planes, half, height, width);
  rjpeg::Buffer<std::uint8_t> pixels(static_cast<std::size_t>(height) * static_cast<std::size_t>(width) * 3);
  {
    py::gil_scoped_release unlocked;
    rjpeg::bgr_of(checked.samples, checked.strides, half, height, width, {0, height, 0, width}, pixels.data());
  }
  return array_of(std::move(pixels), {height, width, py::ssize_t{3}});
}

// Smooths the edges of blocks in the regions of a plane that are sent, in place.
void smooth_edges(Exact<std::uint8_t>& plane, const Exact<std::uint8_t>& sent, const Exact<std::uint8_t>& reach) {
  expect(plane.ndim() == 2 && sent.ndim() == 2 && reach.ndim() == 2, "plane, sent, reach: expected shape (rows, cols)");
  const py::ssize_t rows = sent.shape(0), cols = sent.shape(1);
  expect(reach.shape(0) == rows && reach.shape(1) == cols, "reach: expected one for every region");
  expect(plane.shape(0) == rows * 16 && plane.shape(1) == cols * 16, "plane: expected 16x16 samples a region");
  std::uint8_t* const samples = plane.mutable_data();
  const std::uint8_t *flags = sent.data(), *reaches = reach.data();
  {
    py::gil_scoped_release unlocked;
    rjpeg::smooth_edges(samples, flags, reaches, rows, cols);
  }
}

// What a region takes in a plane of (rows, cols) `sent`, which chooses as many as there are tiles.
rjpeg::TileSize checked_size(const Exact<std::uint8_t>& plane, const Exact<std::uint8_t>& sent, py::ssize_t tiles) {
  const rjpeg::TileSize size{plane.shape(0) / sent.shape(0), plane.shape(1) / sent.shape(1)};
  expect(size.height > 0 && size.width > 0 && plane.shape(0) == sent.shape(0) * size.height &&
             plane.shape(1) == sent.shape(1) * size.width,
         "plane: expected whole regions");
  expect(std::count(sent.data(), sent.data() + sent.size(), 0) == sent.size() - tiles,
         "tiles: expected as many as are sent");
  return size;
}

// The regions of a plane that are sent, as one small plane of (rows, cols) tiles. Planes of blocks are given as bytes.
py::array_t<std::uint8_t> take_tiles(const Exact<std::uint8_t>& plane, const Exact<std::uint8_t>& sent,
                                     py::ssize_t rows, py::ssize_t cols) {
  expect(plane.ndim() == 2 && sent.ndim() == 2 && sent.size() > 0, "plane, sent: expected shape (rows, cols)");
  expect(rows > 0 && cols > 0, "shape: expected at least one tile");
  const rjpeg::TileSize size = checked_size(plane, sent, rows * cols);
  rjpeg::Buffer<std::uint8_t> tiles(static_cast<std::size_t>(rows * cols * size.height * size.width));
  {
    py::gil_scoped_release unlocked;
    rjpeg::take_tiles(plane.data(), sent.data(), sent.shape(0), sent.shape(1), size, cols, tiles.data());
  }
  return array_of(std::move(tiles), {rows * size.height, cols * size.width});
}

// Writes tiles to the regions of a plane that are sent, in place.
void put_tiles(const Exact<std::uint8_t>& tiles, const Exact<std::uint8_t>& sent, Exact<std::uint8_t>& plane) {
  expect(tiles.ndim() == 2 && plane.ndim() == 2 && sent.ndim() == 2 && sent.size() > 0,
         "tiles, sent, plane: expected shape (rows, cols)");
  const py::ssize_t height = plane.shape(0) / sent.shape(0), width = plane.shape(1) / sent.shape(1);
  expect(height > 0 && width > 0 && tiles.shape(0) % height == 0 && tiles.shape(1) % width == 0,
         "tiles: expected whole ones");
  const py::ssize_t across = tiles.shape(1) / width;
  const rjpeg::TileSize size = checked_size(plane, sent, tiles.shape(0) / height * across);
  std::uint8_t* target = plane.mutable_data();
  py::gil_scoped_release unlocked;
  rjpeg::put_tiles(tiles.data(), across, size, sent.data(), sent.shape(0), sent.shape(1), target);
}

// Whether three planes are of (rows, cols) regions of luma with as many samples of chroma as `half` says.
bool are_planes_of(const std::vector<Exact<std::uint8_t>>& planes, py::ssize_t rows, py::ssize_t cols, bool half) {
  for (std::size_t c = 0; c < planes.size(); ++c) {
    const py::ssize_t side = half && c > 0 ? 8 : 16;
    if (planes[c].ndim() != 2 || planes[c].shape(0) != rows * side || planes[c].shape(1) != cols * side) return false;
  }
  return planes.size() == 3;
}

rjpeg::Tiles checked_tiles(const std::vector<Exact<std::uint8_t>>& tiles, const Exact<std::uint8_t>& sent, int reach,
                           const std::vector<Exact<std::uint8_t>>& planes) {
  expect(sent.ndim() == 2 && sent.size() > 0, "sent: expected shape (rows, cols)");
  expect(reach >= 0 && reach <= 255, "reach: expected 0..255");
  const py::ssize_t rows = sent.shape(0), cols = sent.shape(1);
  const bool half = !are_planes_of(planes, rows, cols, false);
  expect(!half || are_planes_of(planes, rows, cols, true), "planes: expected three of whole regions");
  expect(!tiles.empty() && tiles[0].ndim() == 2, "tiles: expected three planes");
  const py::ssize_t tile_rows = tiles[0].shape(0) / 16, tile_cols = tiles[0].shape(1) / 16;
  expect(are_planes_of(tiles, tile_rows, tile_cols, half), "tiles: expected three planes of whole tiles");
  expect(std::count(sent.data(), sent.data() + sent.size(), 0) == sent.size() - tile_rows * tile_cols,
         "tiles: expected as many as are sent");
  return {{tiles[0].data(), tiles[1].data(), tiles[2].data()},
          tile_cols,
          sent.data(),
          rows,
          cols,
          static_cast<std::uint8_t>(reach),
          half};
}

// Writes tiles to the regions of planes that are sent, in place, and smooths the edges of their blocks.
void lay_tiles(const std::vector<Exact<std::uint8_t>>& tiles, const Exact<std::uint8_t>& sent, int reach,
               std::vector<Exact<std::uint8_t>>& planes) {
  const rjpeg::Tiles checked = checked_tiles(tiles, sent, reach, planes);
  std::uint8_t* const samples[3] = {planes[0].mutable_data(), planes[1].mutable_data(), planes[2].mutable_data()};
  py::gil_scoped_release unlocked;
  rjpeg::lay_tiles(checked, samples);
}

// The picture of planes with tiles over them. picture: that of the planes, which stay as they are.
py::array_t<std::uint8_t> picture_with_tiles(const std::vector<Exact<std::uint8_t>>& tiles,
                                             const Exact<std::uint8_t>& sent, int reach,
                                             const std::vector<Exact<std::uint8_t>>& planes,
                                             const Exact<std::uint8_t>& picture) {
  const rjpeg::Tiles checked = checked_tiles(tiles, sent, reach, planes);
  expect(picture.ndim() == 3 && picture.shape(2) == 3, "picture: expected shape (height, width, 3)");
  const py::ssize_t height = picture.shape(0), width = picture.shape(1);
  expect((height + 15) / 16 == checked.rows && (width + 15) / 16 == checked.cols,
         "picture: expected the size of the planes");
  const std::uint8_t* const samples[3] = {planes[0].data(), planes[1].data(), planes[2].data()};
  rjpeg::Buffer<std::uint8_t> pixels(static_cast<std::size_t>(picture.size()));
  {
    py::gil_scoped_release unlocked;
    std::copy_n(picture.data(), picture.size(), pixels.data());
    rjpeg::lay_pixels(checked, samples, height, width, pixels.data());
  }
  return array_of(std::move(pixels), {height, width, py::ssize_t{3}});
}

py::bytes encode_flags(const Exact<std::uint8_t>& flags) {
  expect(flags.ndim() == 2, "flags: expected shape (rows, cols)");
  return {rjpeg::encode_flags(flags.data(), flags.shape(0), flags.shape(1))};
}

py::array_t<std::uint8_t> decode_flags(const py::bytes& data, py::ssize_t rows, py::ssize_t cols) {
  expect(rows > 0 && cols > 0, "size: expected at least one row and column");
  py::array_t<std::uint8_t> flags({rows, cols});
  rjpeg::decode_flags(data, rows, cols, flags.mutable_data());
  return flags;
}

// (rows, cols) squared differences of two planes of whole regions, added to `errors`.
void add_squared_differences(const Exact<std::uint8_t>& a, const Exact<std::uint8_t>& b, float weight,
                             Exact<float>& errors) {
  expect(errors.ndim() == 2 && errors.shape(0) > 0 && errors.shape(1) > 0, "errors: expected shape (rows, cols)");
  expect(a.ndim() == 2 && b.ndim() == 2 && a.shape(0) == b.shape(0) && a.shape(1) == b.shape(1),
         "a, b: expected two planes of a size");
  const py::ssize_t rows = errors.shape(0), cols = errors.shape(1), side = a.shape(0) / rows;
  expect(a.shape(0) == rows * side && a.shape(1) == cols * side, "a, b: expected planes of whole regions");
  py::gil_scoped_release unlocked;
  rjpeg::add_squared_differences(a.data(), cols * side, b.data(), cols * side, rows, cols, side, weight,
                                 errors.mutable_data());
}

py::array_t<std::uint8_t> shifted(const Exact<std::uint8_t>& plane, int down, int right) {
  expect(plane.ndim() == 2 && plane.size() > 0, "plane: expected shape (height, width)");
  constexpr int most = 1 << 16;
  expect(std::abs(down) < most && std::abs(right) < most, "shift: expected fewer than 8192 samples");
  const py::ssize_t height = plane.shape(0), width = plane.shape(1);
  rjpeg::Buffer<std::uint8_t> moved(static_cast<std::size_t>(plane.size()));
  {
    py::gil_scoped_release unlocked;
    rjpeg::shift(plane.data(), height, width, down, right, moved.data());
  }
  return array_of(std::move(moved), {height, width});
}

void level_kept(Exact<std::int16_t>& blocks, const Exact<std::uint8_t>& kept, int bound) {
  expect(blocks.ndim() == 3 && blocks.shape(2) == rjpeg::kCoefficients, "blocks: expected shape (rows, cols, 64)");
  expect(kept.ndim() == 2, "kept: expected shape (rows, cols)");
  const py::ssize_t rows = kept.shape(0), cols = kept.shape(1);
  const bool same = blocks.shape(0) == rows && blocks.shape(1) == cols;
  expect(covers(blocks.shape(0), rows, same) && covers(blocks.shape(1), cols, same),
         "blocks: expected one or four blocks a region");
  rjpeg::level_kept(blocks.mutable_data(), blocks.shape(0), blocks.shape(1), same ? 1 : 2, kept.data(), rows, cols,
                    bound);
}

// Coefficients that are not worth their bits, made smaller in place. prices: (rows, cols), a bit's squared error.
void trim(const Exact<float>& coefficients, Exact<std::int16_t>& quantized, Exact<rjpeg::Mask>& masks,
          const Exact<float>& steps, const Exact<float>& prices) {
  const rjpeg::Blocks blocks = blocks_with_masks(quantized, masks);
  expect(is_blocks(coefficients, blocks.rows, blocks.cols), "coefficients: expected the shape of the blocks");
  expect(steps.ndim() == 1 && steps.shape(0) == rjpeg::kCoefficients, "steps: expected 64");
  expect(prices.ndim() == 2 && prices.shape(0) > 0, "prices: expected shape (rows, cols)");
  const py::ssize_t rows = prices.shape(0), cols = prices.shape(1);
  const bool same = blocks.rows == rows && blocks.cols == cols;
  expect(covers(blocks.rows, rows, same) && covers(blocks.cols, cols, same),
         "blocks: expected one or four blocks a region");
  std::int16_t* values = quantized.mutable_data();
  rjpeg::Mask* target_masks = masks.mutable_data();
  py::gil_scoped_release unlocked;
  rjpeg::trim(coefficients.data(), blocks.rows, blocks.cols, steps.data(), same ? 1 : 2, prices.data(), cols, values,
              target_masks);
}

// Error and bits of every region of a component, added to `errors` and `bits`.
void add_costs(const Exact<float>& coefficients, const Exact<std::int16_t>& quantized, const Exact<rjpeg::Mask>& masks,
               const Exact<float>& steps, float weight, Exact<float>& errors, Exact<float>& bits) {
  const rjpeg::Blocks blocks = blocks_with_masks(quantized, masks);
  expect(is_blocks(coefficients, blocks.rows, blocks.cols), "coefficients: expected the shape of the blocks");
  expect(steps.ndim() == 1 && steps.shape(0) == rjpeg::kCoefficients, "steps: expected 64");
  expect(errors.ndim() == 2 && bits.ndim() == 2 && errors.shape(0) == bits.shape(0) &&
             errors.shape(1) == bits.shape(1) && errors.shape(0) > 0,
         "errors, bits: expected two of shape (rows, cols)");
  const py::ssize_t across = blocks.rows / errors.shape(0);
  expect(across >= 1 && blocks.rows == across * errors.shape(0) && blocks.cols == across * errors.shape(1),
         "blocks: expected as many for every region");
  py::gil_scoped_release unlocked;
  rjpeg::add_costs(coefficients.data(), blocks, steps.data(), across, weight, errors.mutable_data(),
                   bits.mutable_data());
}

py::array_t<std::int32_t> dequantized_dc(const Exact<float>& coefficients, int step) {
  expect(coefficients.ndim() == 3 && coefficients.shape(2) == rjpeg::kCoefficients,
         "coefficients: expected shape (rows, cols, 64)");
  py::array_t<std::int32_t> dc({coefficients.shape(0), coefficients.shape(1)});
  rjpeg::dequantized_dc(coefficients.data(), dc.size(), step, dc.mutable_data());
  return dc;
}

py::array_t<std::int8_t> generator_input(const Exact<float>& y, const Exact<float>& cb, const Exact<float>& cr,
                                         int rate, double scale, int zero_point) {
  const py::ssize_t rows = cb.shape(0), cols = cb.shape(1);
  expect(is_blocks(cb, rows, cols) && is_blocks(cr, rows, cols), "chroma: expected shape (rows, cols, 64)");
  expect(y.ndim() == 3 && y.shape(2) == rjpeg::kCoefficients && covers(y.shape(0), rows, false) &&
             covers(y.shape(1), cols, false),
         "luma: expected four blocks a region");
  expect(scale > 0, "scale: expected above 0");
  py::array_t<std::int8_t> input({py::ssize_t{1}, rows, cols, py::ssize_t{rjpeg::kGeneratorChannels}});
  const float *luma = y.data(), *blue = cb.data(), *red = cr.data();
  const py::ssize_t block_rows = y.shape(0), block_cols = y.shape(1);
  std::int8_t* target = input.mutable_data();
  {
    py::gil_scoped_release unlocked;
    rjpeg::generator_input(luma, block_rows, block_cols, blue, red, rows, cols, rate, {scale, zero_point}, target);
  }
  return input;
}

py::array_t<std::int8_t> predictor_input(const Array<std::int32_t>& y, const Array<std::int32_t>& cb,
                                         const Array<std::int32_t>& cr, int rate, double scale, int zero_point) {
  expect(y.ndim() == 2 && cb.ndim() == 2 && cr.ndim() == 2, "dc: expected shape (rows, cols)");
  const py::ssize_t rows = (y.shape(0) + 1) / 2, cols = (y.shape(1) + 1) / 2;
  const bool half = cb.shape(0) == rows && cb.shape(1) == cols;
  expect(cb.shape(0) == cr.shape(0) && cb.shape(1) == cr.shape(1) &&
             (half || (cb.shape(0) == y.shape(0) && cb.shape(1) == y.shape(1))),
         "chroma: expected one block a region, or as many as luma");
  expect(scale > 0, "scale: expected above 0");
  py::array_t<std::int8_t> input({py::ssize_t{1}, rows, cols, py::ssize_t{rjpeg::kPredictorChannels}});
  rjpeg::predictor_input(y.data(), y.shape(0), y.shape(1), cb.data(), cr.data(), !half, rate, {scale, zero_point},
                         input.mutable_data());
  return input;
}

py::array_t<std::uint8_t> levels_from_output(const Array<std::int8_t>& output, py::ssize_t window, double factor,
                                             const std::pair<double, double>& offsets, int most) {
  expect(output.ndim() == 3 && output.shape(2) == 2, "output: expected shape (rows, cols, 2)");
  expect(window > 0 && window % 2 == 1, "window: expected an odd number above 0");
  expect(most >= 0 && most <= 255, "most: expected 0..255");
  py::array_t<std::uint8_t> levels({output.shape(0), output.shape(1), output.shape(2)});
  const double of_channels[2] = {offsets.first, offsets.second};
  rjpeg::levels_from_output(output.data(), output.shape(0), output.shape(1), window, factor, of_channels, most,
                            levels.mutable_data());
  return levels;
}

py::array_t<std::int32_t> count_nonzero(const std::vector<Exact<std::int16_t>>& blocks,
                                        const std::vector<Exact<rjpeg::Mask>>& masks, py::ssize_t rows,
                                        py::ssize_t cols) {
  expect(blocks.size() == masks.size(), "masks: expected those of each component");
  py::array_t<std::int32_t> counts({rows, cols});
  std::fill_n(counts.mutable_data(), counts.size(), 0);
  for (std::size_t c = 0; c < blocks.size(); ++c) {
    const rjpeg::Blocks component = blocks_with_masks(blocks[c], masks[c]);
    const bool same = component.rows == rows && component.cols == cols;
    expect(covers(component.rows, rows, same) && covers(component.cols, cols, same),
           "blocks: expected one or four blocks a region");
    rjpeg::count_nonzero(component, rows, cols, counts.mutable_data());
  }
  return counts;
}

py::object refined(const Exact<std::uint8_t>& predicted, const Exact<std::uint8_t>& wanted,
                   const std::vector<Exact<std::int16_t>>& blocks, const std::vector<Exact<rjpeg::Mask>>& masks,
                   const Exact<double>& losses, double bits) {
  expect(predicted.ndim() == 3 && predicted.shape(2) == 2 && wanted.ndim() == 3 && wanted.size() == predicted.size(),
         "predicted, wanted: expected two of shape (rows, cols, 2)");
  expect(losses.ndim() == 2 && losses.shape(0) == losses.shape(1), "losses: expected shape (levels, levels)");
  expect(!blocks.empty() && blocks.size() == masks.size(), "masks: expected those of each component");
  const py::ssize_t rows = predicted.shape(0), cols = predicted.shape(1), count = losses.shape(0);
  for (const auto* map : {&predicted, &wanted})
    expect(std::all_of(map->data(), map->data() + map->size(), [&](std::uint8_t level) { return level < count; }),
           "predicted, wanted: level without losses");
  const auto luma = static_cast<std::ptrdiff_t>(1), all = static_cast<std::ptrdiff_t>(blocks.size());
  const py::array_t<std::int32_t> of_luma =
      count_nonzero({blocks.begin(), blocks.begin() + luma}, {masks.begin(), masks.begin() + luma}, rows, cols);
  const py::array_t<std::int32_t> of_chroma = count_nonzero({blocks.begin() + luma, blocks.begin() + all},
                                                            {masks.begin() + luma, masks.begin() + all}, rows, cols);
  const std::int32_t* nonzero[2] = {of_luma.data(), of_chroma.data()};
  py::array_t<std::uint8_t> levels({rows, cols, py::ssize_t{2}});
  const bool any = rjpeg::refine(predicted.data(), wanted.data(), nonzero, rows * cols, losses.data(), count, bits,
                                 levels.mutable_data());
  if (any) return std::move(levels);
  return py::none();
}

py::array_t<rjpeg::Mask> find_masks(const Exact<std::int16_t>& blocks) {
  expect(blocks.ndim() == 3 && blocks.shape(2) == rjpeg::kCoefficients, "blocks: expected shape (rows, cols, 64)");
  py::array_t<rjpeg::Mask> masks({blocks.shape(0), blocks.shape(1)});
  const std::int16_t* source = blocks.data();
  const py::ssize_t count = masks.size();
  rjpeg::Mask* target = masks.mutable_data();
  {
    py::gil_scoped_release unlocked;
    rjpeg::find_masks(source, count, target);
  }
  return masks;
}

std::uint32_t checksum(const std::vector<Exact<std::int16_t>>& blocks, const std::vector<Exact<rjpeg::Mask>>& masks,
                       std::uint32_t crc) {
  expect(blocks.size() == masks.size(), "masks: expected those of each component");
  std::vector<rjpeg::Blocks> components;
  components.reserve(blocks.size());
  for (std::size_t c = 0; c < blocks.size(); ++c) components.push_back(blocks_with_masks(blocks[c], masks[c]));
  py::gil_scoped_release unlocked;
  for (const rjpeg::Blocks& component : components) crc = rjpeg::checksum(crc, component);
  return crc;
}

std::optional<py::bytes> rice_encode(const Exact<std::uint8_t>& before, const Exact<std::uint8_t>& after,
                                     std::size_t most) {
  expect(before.ndim() == 3 && before.shape(2) == 2 && after.ndim() == 3 && after.shape(2) == 2 &&
             after.shape(0) == before.shape(0) && after.shape(1) == before.shape(1),
         "before, after: expected two of shape (rows, cols, 2)");
  const std::optional<std::string> coded =
      rjpeg::rice_encode(before.data(), after.data(), before.shape(0) * before.shape(1), most);
  return coded ? std::optional<py::bytes>(*coded) : std::nullopt;
}

py::tuple rice_decode(const py::bytes& data, std::int64_t size, std::size_t most) {
  const rjpeg::Differences found = rjpeg::rice_decode(data, size, most);
  const auto array = [](const std::vector<std::int64_t>& values) {
    return py::array_t<std::int64_t>(static_cast<py::ssize_t>(values.size()), values.data());
  };
  return py::make_tuple(array(found.positions), array(found.values));
}

py::bytes write_file(int width, int height, const std::vector<Exact<std::int16_t>>& blocks,
                     const std::vector<Exact<rjpeg::Mask>>& masks, const std::vector<Array<std::uint16_t>>& tables,
                     const std::vector<std::pair<int, int>>& sampling,
                     const std::vector<std::pair<int, py::bytes>>& segments) {
  expect(!blocks.empty() && blocks.size() == masks.size() && blocks.size() == tables.size() &&
             blocks.size() == sampling.size(),
         "components: expected blocks, masks, table and sampling for each");
  expect(width > 0 && width <= 65500 && height > 0 && height <= 65500, "size: expected sides of 1..65500");
  int most_h = 1, most_v = 1, blocks_in_mcu = 0;
  for (const auto& [h, v] : sampling) {
    expect(h >= 1 && h <= 4 && v >= 1 && v <= 4, "sampling: expected factors 1..4");
    most_h = std::max(most_h, h);
    most_v = std::max(most_v, v);
    blocks_in_mcu += h * v;
  }
  expect(blocks.size() == 1 || blocks_in_mcu <= 10, "sampling: expected at most ten blocks in an MCU");
  std::vector<rjpeg::WrittenComponent> components;
  for (std::size_t c = 0; c < blocks.size(); ++c) {
    const auto [h, v] = sampling[c];
    const py::ssize_t rows = (static_cast<py::ssize_t>(height) * v + 8 * most_v - 1) / (8 * most_v);
    const py::ssize_t cols = (static_cast<py::ssize_t>(width) * h + 8 * most_h - 1) / (8 * most_h);
    expect(is_blocks(blocks[c], rows, cols), "blocks: expected the shape that width, height and sampling give");
    expect(tables[c].ndim() == 1 && tables[c].size() == 64, "tables: expected 64 steps each");
    components.push_back({blocks_with_masks(blocks[c], masks[c]), h, v, tables[c].data()});
  }
  std::vector<rjpeg::Segment> written;
  written.reserve(segments.size());
  for (const auto& [code, data] : segments) written.push_back({code, data});
  std::string file;
  {
    py::gil_scoped_release unlocked;
    file = rjpeg::write_file(width, height, components, written);
  }
  return {file};
}

// What keys and followers need.
void define_streams(py::module_& module) {
  module.def("bgr_of", &bgr_of, py::arg("planes").noconvert(), py::arg("half"), py::arg("height"), py::arg("width"));
  module.def("lay_tiles", &lay_tiles, py::arg("tiles").noconvert(), py::arg("sent").noconvert(), py::arg("reach"),
             py::arg("planes").noconvert());
  module.def("picture_with_tiles", &picture_with_tiles, py::arg("tiles").noconvert(), py::arg("sent").noconvert(),
             py::arg("reach"), py::arg("planes").noconvert(), py::arg("picture").noconvert());
  module.def("smooth_edges", &smooth_edges, py::arg("plane").noconvert(), py::arg("sent").noconvert(),
             py::arg("reach").noconvert());
  module.def("take_tiles", &take_tiles, py::arg("plane").noconvert(), py::arg("sent").noconvert(), py::arg("rows"),
             py::arg("cols"));
  module.def("put_tiles", &put_tiles, py::arg("tiles").noconvert(), py::arg("sent").noconvert(),
             py::arg("plane").noconvert());
  module.def("encode_flags", &encode_flags, py::arg("flags").noconvert());
  module.def("decode_flags", &decode_flags, py::arg("data"), py::arg("rows"), py::arg("cols"));
  module.def("add_squared_differences", &add_squared_differences, py::arg("a").noconvert(), py::arg("b").noconvert(),
             py::arg("weight"), py::arg("errors").noconvert());
  module.def("shifted", &shifted, py::arg("plane").noconvert(), py::arg("down"), py::arg("right"));
  module.def("level_kept", &level_kept, py::arg("blocks").noconvert(), py::arg("kept").noconvert(), py::arg("bound"));
  module.def("trim", &trim, py::arg("coefficients").noconvert(), py::arg("quantized").noconvert(),
             py::arg("masks").noconvert(), py::arg("steps").noconvert(), py::arg("prices").noconvert());
  module.def("add_costs", &add_costs, py::arg("coefficients").noconvert(), py::arg("quantized").noconvert(),
             py::arg("masks").noconvert(), py::arg("steps").noconvert(), py::arg("weight"),
             py::arg("errors").noconvert(), py::arg("bits").noconvert());
}

}  // namespace

PYBIND11_MODULE(_native, module) {
  module.doc() = "8x8 transforms, regional quantization, the networks' inputs, and JPEG files";
  py::register_exception_translator([](std::exception_ptr pointer) {
    try {
      if (pointer) std::rethrow_exception(std::move(pointer));
    } catch (const rjpeg::JpegFailure& failure) {
      PyErr_SetString(py::module_::import("rjpeg.errors").attr("JpegError").ptr(), failure.what());
    }
  });
  module.def("empty", &empty, py::arg("shape"), py::arg("dtype"));
  module.def("planes_from_bgr", &planes_from_bgr, py::arg("frame").noconvert(), py::arg("y").noconvert(),
             py::arg("cb").noconvert(), py::arg("cr").noconvert());
  module.def("forward_dct", &forward_dct, py::arg("plane"), py::arg("block_rows"), py::arg("block_cols"),
             py::arg("out").noconvert() = py::none());
  module.def("read_file", &read_file, py::arg("jpeg"), py::arg("max_pixels"), py::arg("segment_code"),
             py::arg("with_blocks"));
  module.def("decode_plain", &decode_plain, py::arg("jpeg"), py::arg("max_pixels"));
  module.def("region_bits", &region_bits, py::arg("jpeg"), py::arg("max_pixels"), py::arg("region"));
  module.def("quantize_regions", &quantize_regions, py::arg("coefficients").noconvert(), py::arg("steps").noconvert(),
             py::arg("levels").noconvert(), py::arg("before").noconvert(), py::arg("dead_zone"),
             py::arg("quantized").noconvert(), py::arg("masks").noconvert());
  module.def("transform_and_quantize", &transform_and_quantize, py::arg("plane").noconvert(),
             py::arg("steps").noconvert(), py::arg("levels").noconvert(), py::arg("channel"), py::arg("dead_zone"),
             py::arg("quantized").noconvert(), py::arg("masks").noconvert());
  module.def("picture_of", &picture_of, py::arg("blocks").noconvert(), py::arg("steps").noconvert(),
             py::arg("levels").noconvert(), py::arg("half"), py::arg("height"), py::arg("width"));
  module.def("samples_of", &samples_of, py::arg("blocks").noconvert(), py::arg("steps").noconvert(),
             py::arg("levels").noconvert(), py::arg("channel"));
  define_streams(module);
  module.def("dequantized_dc", &dequantized_dc, py::arg("coefficients").noconvert(), py::arg("step"));
  module.def("generator_input", &generator_input, py::arg("y").noconvert(), py::arg("cb").noconvert(),
             py::arg("cr").noconvert(), py::arg("rate"), py::arg("scale"), py::arg("zero_point"));
  module.def("predictor_input", &predictor_input, py::arg("y"), py::arg("cb"), py::arg("cr"), py::arg("rate"),
             py::arg("scale"), py::arg("zero_point"));
  module.def("levels_from_output", &levels_from_output, py::arg("output"), py::arg("window"), py::arg("factor"),
             py::arg("offsets"), py::arg("most"));
  module.def("refined", &refined, py::arg("predicted").noconvert(), py::arg("wanted").noconvert(),
             py::arg("blocks").noconvert(), py::arg("masks").noconvert(), py::arg("losses").noconvert(),
             py::arg("bits"));
  module.def("find_masks", &find_masks, py::arg("blocks").noconvert());
  module.def("checksum", &checksum, py::arg("blocks").noconvert(), py::arg("masks").noconvert(), py::arg("crc"));
  module.def("rice_encode", &rice_encode, py::arg("before").noconvert(), py::arg("after").noconvert(), py::arg("most"));
  module.def("rice_decode", &rice_decode, py::arg("data"), py::arg("size"), py::arg("most"));
  module.def("write_file", &write_file, py::arg("width"), py::arg("height"), py::arg("blocks").noconvert(),
             py::arg("masks").noconvert(), py::arg("tables"), py::arg("sampling"), py::arg("segments"));
}
