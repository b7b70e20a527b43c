// Bindings: NumPy arrays in, NumPy arrays or bytes out. Shapes are checked here, values by the Python callers.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "jpeg_file.hpp"
#include "transform.hpp"

namespace py = pybind11;

namespace {

template <typename T>
using Array = py::array_t<T, py::array::c_style | py::array::forcecast>;

void expect(bool condition, const char* message) {
  if (!condition) throw py::value_error(message);
}

template <typename Blocks>
void expect_blocks(const Blocks& blocks, const Array<float>& steps, const Array<std::uint8_t>& levels) {
  expect(blocks.ndim() == 3 && blocks.shape(2) == rjpeg::kCoefficients, "blocks: expected shape (rows, cols, 64)");
  expect(steps.ndim() == 2 && steps.shape(1) == rjpeg::kCoefficients, "steps: expected shape (levels, 64)");
  expect(levels.ndim() == 2 && levels.shape(0) == blocks.shape(0) && levels.shape(1) == blocks.shape(1),
         "levels: expected one level a block");
  const std::uint8_t* level = levels.data();
  for (py::ssize_t i = 0; i < levels.size(); ++i) expect(level[i] < steps.shape(0), "levels: level without steps");
}

py::array_t<float> forward_dct(const py::array_t<std::uint8_t, py::array::forcecast>& plane, py::ssize_t block_rows,
                               py::ssize_t block_cols) {
  expect(plane.ndim() == 2 && plane.shape(0) > 0 && plane.shape(1) > 0, "plane: expected shape (height, width)");
  expect(plane.strides(1) == 1, "plane: expected contiguous rows");
  expect(block_rows > 0 && block_cols > 0, "blocks: expected at least one");
  py::array_t<float> coefficients({block_rows, block_cols, static_cast<py::ssize_t>(rjpeg::kCoefficients)});
  const std::uint8_t* source = plane.data();
  const py::ssize_t height = plane.shape(0), width = plane.shape(1), stride = plane.strides(0);
  float* target = coefficients.mutable_data();
  py::gil_scoped_release unlocked;
  rjpeg::forward_dct(source, height, width, stride, block_rows, block_cols, target);
  return coefficients;
}

py::array_t<std::int16_t> quantize(const Array<float>& coefficients, const Array<float>& steps,
                                   const Array<std::uint8_t>& levels, float dead_zone) {
  expect_blocks(coefficients, steps, levels);
  py::array_t<std::int16_t> quantized({coefficients.shape(0), coefficients.shape(1), coefficients.shape(2)});
  const float* source = coefficients.data();
  const py::ssize_t blocks = coefficients.shape(0) * coefficients.shape(1);
  const float* step = steps.data();
  const std::uint8_t* level = levels.data();
  std::int16_t* target = quantized.mutable_data();
  py::gil_scoped_release unlocked;
  rjpeg::quantize(source, blocks, step, level, dead_zone, target);
  return quantized;
}

py::array_t<std::uint8_t> inverse_dct(const Array<std::int16_t>& quantized, const Array<float>& steps,
                                      const Array<std::uint8_t>& levels) {
  expect_blocks(quantized, steps, levels);
  py::array_t<std::uint8_t> plane({quantized.shape(0) * rjpeg::kBlock, quantized.shape(1) * rjpeg::kBlock});
  const std::int16_t* source = quantized.data();
  const py::ssize_t block_rows = quantized.shape(0), block_cols = quantized.shape(1);
  const float* step = steps.data();
  const std::uint8_t* level = levels.data();
  std::uint8_t* target = plane.mutable_data();
  py::gil_scoped_release unlocked;
  rjpeg::inverse_dct(source, block_rows, block_cols, step, level, target);
  return plane;
}

py::dict to_dict(rjpeg::JpegFile& file, bool with_blocks) {
  py::list segments, sampling, tables, blocks;
  for (const auto& segment : file.segments) segments.append(py::make_tuple(segment.code, py::bytes(segment.data)));
  for (const auto& component : file.components) {
    sampling.append(py::make_tuple(component.h, component.v));
    if (!with_blocks) continue;
    tables.append(py::array_t<std::uint16_t>(static_cast<py::ssize_t>(component.table.size()),
                                             component.table.data()));
    blocks.append(py::array_t<std::int16_t>(
        {component.block_rows, component.block_cols, static_cast<std::ptrdiff_t>(rjpeg::kCoefficients)},
        component.blocks.data()));
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
  auto pixels = std::make_unique<std::vector<std::uint8_t>>();
  {
    py::gil_scoped_release unlocked;
    *pixels = rjpeg::decode_plain(reinterpret_cast<const std::uint8_t*>(data.data()), data.size(), max_pixels, height,
                                  width);
  }
  auto* owned = pixels.release();
  py::capsule owner(owned, [](void* memory) { delete static_cast<std::vector<std::uint8_t>*>(memory); });
  return py::array_t<std::uint8_t>({static_cast<py::ssize_t>(height), static_cast<py::ssize_t>(width), py::ssize_t{3}},
                                   owned->data(), owner);
}

py::bytes write_file(int width, int height, const std::vector<Array<std::int16_t>>& blocks,
                     const std::vector<Array<std::uint16_t>>& tables, const std::vector<std::pair<int, int>>& sampling,
                     const std::vector<std::pair<int, py::bytes>>& segments) {
  expect(!blocks.empty() && blocks.size() == tables.size() && blocks.size() == sampling.size(),
         "components: expected blocks, table and sampling for each");
  rjpeg::JpegFile file;
  file.width = width;
  file.height = height;
  int most_h = 1, most_v = 1;
  for (const auto& [h, v] : sampling) {
    expect(h >= 1 && h <= 4 && v >= 1 && v <= 4, "sampling: expected factors 1..4");
    most_h = std::max(most_h, h);
    most_v = std::max(most_v, v);
  }
  for (std::size_t c = 0; c < blocks.size(); ++c) {
    const auto& array = blocks[c];
    const auto [h, v] = sampling[c];
    const py::ssize_t rows = (static_cast<py::ssize_t>(height) * v + 8 * most_v - 1) / (8 * most_v);
    const py::ssize_t cols = (static_cast<py::ssize_t>(width) * h + 8 * most_h - 1) / (8 * most_h);
    expect(array.ndim() == 3 && array.shape(0) == rows && array.shape(1) == cols && array.shape(2) == 64,
           "blocks: expected the shape that width, height and sampling give");
    expect(tables[c].ndim() == 1 && tables[c].size() == 64, "tables: expected 64 steps each");
    rjpeg::Component component;
    component.h = h;
    component.v = v;
    component.block_rows = rows;
    component.block_cols = cols;
    component.table.assign(tables[c].data(), tables[c].data() + 64);
    component.blocks.assign(array.data(), array.data() + array.size());
    file.components.push_back(std::move(component));
  }
  for (const auto& [code, data] : segments) file.segments.push_back({code, data});
  std::string written;
  {
    py::gil_scoped_release unlocked;
    written = rjpeg::write_file(file);
  }
  return py::bytes(written);
}

}  // namespace

PYBIND11_MODULE(_native, module) {
  module.doc() = "8x8 transforms, regional quantization, and libjpeg-turbo's files";
  py::register_exception_translator([](std::exception_ptr pointer) {
    try {
      if (pointer) std::rethrow_exception(pointer);
    } catch (const rjpeg::JpegFailure& failure) {
      PyErr_SetString(py::module_::import("rjpeg.errors").attr("JpegError").ptr(), failure.what());
    }
  });
  module.def("forward_dct", &forward_dct, py::arg("plane"), py::arg("block_rows"), py::arg("block_cols"));
  module.def("quantize", &quantize, py::arg("coefficients"), py::arg("steps"), py::arg("levels"),
             py::arg("dead_zone"));
  module.def("inverse_dct", &inverse_dct, py::arg("quantized"), py::arg("steps"), py::arg("levels"));
  module.def("read_file", &read_file, py::arg("jpeg"), py::arg("max_pixels"), py::arg("segment_code"),
             py::arg("with_blocks"));
  module.def("decode_plain", &decode_plain, py::arg("jpeg"), py::arg("max_pixels"));
  module.def("write_file", &write_file, py::arg("width"), py::arg("height"), py::arg("blocks"), py::arg("tables"),
             py::arg("sampling"), py::arg("segments"));
}
