#include "jpeg_file.hpp"

#include <algorithm>

#include "libjpeg.hpp"

namespace rjpeg {

JpegFile read_file(const std::uint8_t* data, std::size_t size, std::int64_t max_pixels, int segment_code, Read what) {
  Reader reader;
  if (!read_header(reader, data, size, segment_code)) fail_with("not a readable JPEG", reader.errors);
  check_size(reader, max_pixels);
  check_kind(reader);
  JpegFile file;
  file.width = static_cast<int>(reader.info.image_width);
  file.height = static_cast<int>(reader.info.image_height);
  file.progressive = reader.info.progressive_mode != FALSE;
  file.ycc = reader.info.num_components == 3 && reader.info.jpeg_color_space == JCS_YCbCr;
  for (jpeg_saved_marker_ptr marker = reader.info.marker_list; marker != nullptr; marker = marker->next)
    file.segments.push_back(
        {marker->marker, std::string(reinterpret_cast<const char*>(marker->data), marker->data_length)});
  file.components.resize(static_cast<std::size_t>(reader.info.num_components));
  for (std::size_t c = 0; c < file.components.size(); ++c) {
    file.components[c].h = reader.info.comp_info[c].h_samp_factor;
    file.components[c].v = reader.info.comp_info[c].v_samp_factor;
  }
  if (what == Read::kHeader) return file;

  jvirt_barray_ptr* arrays = nullptr;
  if (!read_coefficients(reader, arrays)) fail_with("damaged JPEG", reader.errors);
  for (std::size_t c = 0; c < file.components.size(); ++c) {
    Component& component = file.components[c];
    const jpeg_component_info& source = reader.info.comp_info[c];
    if (source.quant_table == nullptr) throw JpegFailure("damaged JPEG: a component has no quantization table");
    component.table.assign(source.quant_table->quantval, source.quant_table->quantval + DCTSIZE2);
    if (std::count(component.table.begin(), component.table.end(), 0) != 0)
      throw JpegFailure("damaged JPEG: a quantization step is 0, expected 1 or more");
    component.block_rows = static_cast<std::ptrdiff_t>(source.height_in_blocks);
    component.block_cols = static_cast<std::ptrdiff_t>(source.width_in_blocks);
    component.blocks =
        Buffer<std::int16_t>(static_cast<std::size_t>(component.block_rows * component.block_cols) * DCTSIZE2);
    if (!copy_rows(reader, arrays[c], component.block_rows, component.block_cols, component.blocks.data()))
      fail_with("damaged JPEG", reader.errors);
  }
  if (!finish_reading(reader)) fail_with("damaged JPEG", reader.errors);
  return file;
}

Buffer<std::uint8_t> decode_plain(const std::uint8_t* data, std::size_t size, std::int64_t max_pixels, int& height,
                                  int& width) {
  Reader reader;
  if (!read_header(reader, data, size, 0)) fail_with("not a readable JPEG", reader.errors);
  check_size(reader, max_pixels);
  check_kind(reader);
  if (!start_decoding(reader)) fail_with("damaged JPEG", reader.errors);
  height = static_cast<int>(reader.info.output_height);
  width = static_cast<int>(reader.info.output_width);
  const std::size_t stride = static_cast<std::size_t>(width) * 3;
  Buffer<std::uint8_t> pixels(stride * static_cast<std::size_t>(height));
  if (!decode_rows(reader, pixels.data(), stride)) fail_with("damaged JPEG", reader.errors);
  return pixels;
}

}  // namespace rjpeg
