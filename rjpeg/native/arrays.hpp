// NumPy arrays at the border: their shapes are checked here, values by the Python callers.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <memory>
#include <utility>
#include <vector>

#include "memory.hpp"
#include "picture.hpp"
#include "sparse.hpp"

namespace rjpeg {

namespace py = pybind11;

template <typename T>
using Array = py::array_t<T, py::array::c_style | py::array::forcecast>;

// Never a copy: for what is written to, or reused from frame to frame.
template <typename T>
using Exact = py::array_t<T, py::array::c_style>;

inline void expect(bool condition, const char* message) {
  if (!condition) throw py::value_error(message);
}

template <typename Values>
bool is_blocks(const Values& blocks, py::ssize_t rows, py::ssize_t cols) {
  return blocks.ndim() == 3 && blocks.shape(0) == rows && blocks.shape(1) == cols && blocks.shape(2) == kCoefficients;
}

// A component has one block a region, or 2x2 of them of which the last row and column may lack one.
inline bool covers(py::ssize_t blocks, py::ssize_t regions, bool same) {
  return same ? blocks == regions : (blocks + 1) / 2 == regions;
}

inline Blocks blocks_with_masks(const Exact<std::int16_t>& values, const Exact<Mask>& masks) {
  expect(values.ndim() == 3 && values.shape(2) == kCoefficients, "blocks: expected shape (rows, cols, 64)");
  expect(masks.ndim() == 2 && masks.shape(0) == values.shape(0) && masks.shape(1) == values.shape(1),
         "masks: expected one mask a block");
  return {values.data(), masks.data(), values.shape(0), values.shape(1)};
}

// What owns a buffer on behalf of arrays of its values.
template <typename T>
py::capsule owner_of(Buffer<T>&& buffer) {
  auto owned = std::make_unique<Buffer<T>>(std::move(buffer));
  py::capsule owner(owned.get(), [](void* memory) { delete static_cast<Buffer<T>*>(memory); });
  owned.release();
  return owner;
}

// An array of the buffer's values, which lives as long as the array does.
template <typename T>
py::array_t<T> array_of(Buffer<T>&& buffer, const std::vector<py::ssize_t>& shape) {
  T* const values = buffer.data();
  return py::array_t<T>(shape, values, owner_of(std::move(buffer)));
}

}  // namespace rjpeg
