#include "jpeg_file.hpp"

#include <algorithm>
#include <array>
#include <csetjmp>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include <jpeglib.h>
#include <jerror.h>

#include "huffman.hpp"

namespace rjpeg {
namespace {

// A progressive file may repeat scans without end; real ones have about ten.
constexpr int kMostScans = 100;
// Application segments and comments. A file may have millions of them, of four bytes each.
constexpr int kMostSegments = 1000;

struct Errors {
  jpeg_error_mgr manager;
  std::jmp_buf escape;
  char text[JMSG_LENGTH_MAX];
  int segments;
};

[[noreturn]] void fail(j_common_ptr info) {
  auto* errors = reinterpret_cast<Errors*>(info->err);
  (*info->err->format_message)(info, errors->text);
  std::longjmp(errors->escape, 1);
}

// libjpeg goes on after damaged data and shows garbage; for a machine that is worse than an error.
void on_message(j_common_ptr info, int level) {
  const bool harmless = info->err->msg_code == JWRN_EXTRANEOUS_DATA || info->err->msg_code == JWRN_JFIF_MAJOR ||
                        info->err->msg_code == JWRN_ADOBE_XFORM;
  if (level < 0 && !harmless) fail(info);
  auto* errors = reinterpret_cast<Errors*>(info->err);
  // What libjpeg tells of each.
  if (info->err->msg_code == JTRC_MISC_MARKER && ++errors->segments > kMostSegments) {
    std::snprintf(errors->text, sizeof errors->text, "more than %d application segments", kMostSegments);
    std::longjmp(errors->escape, 1);
  }
}

void ignore_output(j_common_ptr) {}

void limit_scans(j_common_ptr info) {
  auto* reader = reinterpret_cast<j_decompress_ptr>(info);
  if (reader->input_scan_number > kMostScans) {
    auto* errors = reinterpret_cast<Errors*>(info->err);
    std::snprintf(errors->text, sizeof errors->text, "more than %d scans", kMostScans);
    std::longjmp(errors->escape, 1);
  }
}

jpeg_error_mgr* prepare(Errors& errors) {
  jpeg_error_mgr* manager = jpeg_std_error(&errors.manager);
  manager->error_exit = [](j_common_ptr info) { fail(info); };
  manager->emit_message = on_message;
  manager->output_message = ignore_output;
  errors.text[0] = '\0';
  errors.segments = 0;
  return manager;
}

// Plain data only between setjmp and longjmp, so that no destructor is skipped:
// what lives longer is owned by Reader, outside of the jumping functions.
struct Reader {
  Errors errors;
  jpeg_decompress_struct info;
  jpeg_progress_mgr progress;

  Reader() {
    std::memset(&info, 0, sizeof info);
    std::memset(&progress, 0, sizeof progress);
    info.err = prepare(errors);
    progress.progress_monitor = limit_scans;
  }
  ~Reader() { jpeg_destroy_decompress(&info); }
  Reader(const Reader&) = delete;
  Reader& operator=(const Reader&) = delete;
};

bool read_header(Reader& reader, const std::uint8_t* data, std::size_t size, int segment_code) {
  if (setjmp(reader.errors.escape)) return false;
  jpeg_create_decompress(&reader.info);
  reader.info.progress = &reader.progress;
  jpeg_mem_src(&reader.info, const_cast<unsigned char*>(data), static_cast<unsigned long>(size));
  if (segment_code != 0) jpeg_save_markers(&reader.info, segment_code, 0xFFFF);
  jpeg_read_header(&reader.info, TRUE);
  return true;
}

bool read_coefficients(Reader& reader, jvirt_barray_ptr*& arrays) {
  if (setjmp(reader.errors.escape)) return false;
  arrays = jpeg_read_coefficients(&reader.info);
  return true;
}

bool copy_rows(Reader& reader, jvirt_barray_ptr array, std::ptrdiff_t block_rows, std::ptrdiff_t block_cols,
               std::int16_t* out) {
  if (setjmp(reader.errors.escape)) return false;
  for (std::ptrdiff_t row = 0; row < block_rows; ++row) {
    JBLOCKARRAY blocks = (*reader.info.mem->access_virt_barray)(reinterpret_cast<j_common_ptr>(&reader.info), array,
                                                               static_cast<JDIMENSION>(row), 1, FALSE);
    std::memcpy(out + row * block_cols * DCTSIZE2, blocks[0], static_cast<std::size_t>(block_cols) * sizeof(JBLOCK));
  }
  return true;
}

bool finish_reading(Reader& reader) {
  if (setjmp(reader.errors.escape)) return false;
  jpeg_finish_decompress(&reader.info);
  return true;
}

bool start_decoding(Reader& reader) {
  if (setjmp(reader.errors.escape)) return false;
  reader.info.out_color_space = JCS_EXT_BGR;
  jpeg_start_decompress(&reader.info);
  return true;
}

bool decode_rows(Reader& reader, std::uint8_t* out, std::size_t stride) {
  if (setjmp(reader.errors.escape)) return false;
  while (reader.info.output_scanline < reader.info.output_height) {
    JSAMPROW row = out + reader.info.output_scanline * stride;
    jpeg_read_scanlines(&reader.info, &row, 1);
  }
  jpeg_finish_decompress(&reader.info);
  return true;
}

[[noreturn]] void raise(const char* what, const Errors& errors) {
  throw JpegFailure(std::string(what) + ": " + errors.text);
}

void check_size(const Reader& reader, std::int64_t max_pixels) {
  const auto pixels = static_cast<std::int64_t>(reader.info.image_width) * reader.info.image_height;
  if (pixels > max_pixels)
    throw JpegFailure("picture of " + std::to_string(reader.info.image_width) + "x" +
                      std::to_string(reader.info.image_height) + " pixels is larger than the limit of " +
                      std::to_string(max_pixels) + " pixels");
}

void check_kind(const Reader& reader) {
  const auto& info = reader.info;
  // Where data are missing libjpeg's arithmetic decoder reads zeros, without a word.
  if (info.arith_code) throw JpegFailure("JPEG is arithmetic coded, expected Huffman codes");
  if (info.num_components != 1 && info.num_components != 3)
    throw JpegFailure("JPEG has " + std::to_string(info.num_components) +
                      " color components (CMYK?), expected 1 (gray) or 3");
}

// Blocks of one row of MCUs, for each component its `v` rows of blocks.
bool access_mcu_row(Reader& reader, jvirt_barray_ptr* arrays, std::ptrdiff_t mcu_row, JBLOCKARRAY* blocks) {
  if (setjmp(reader.errors.escape)) return false;
  for (int c = 0; c < reader.info.num_components; ++c) {
    const int v = reader.info.num_components == 1 ? 1 : reader.info.comp_info[c].v_samp_factor;
    blocks[c] = (*reader.info.mem->access_virt_barray)(reinterpret_cast<j_common_ptr>(&reader.info), arrays[c],
                                                       static_cast<JDIMENSION>(mcu_row * v),
                                                       static_cast<JDIMENSION>(v), FALSE);
  }
  return true;
}

bool has_one_scan(Reader& reader) {
  if (setjmp(reader.errors.escape)) return false;
  return !jpeg_has_multiple_scans(&reader.info);
}

// A component's Huffman codes: bits of every symbol, 0 for those that have none.
struct CodeLengths {
  std::array<std::uint8_t, 256> dc{}, ac{};
};

void fill_lengths(const JHUFF_TBL* table, std::array<std::uint8_t, 256>& lengths) {
  if (table == nullptr) throw JpegFailure("damaged JPEG: a component has no Huffman table");
  std::size_t at = 0;
  for (int length = 1; length <= 16; ++length)
    for (int n = 0; n < table->bits[length] && at < 256; ++n)
      lengths[table->huffval[at++]] = static_cast<std::uint8_t>(length);
}

int bits_of_symbol(const std::array<std::uint8_t, 256>& lengths, int symbol) {
  const int length = lengths[static_cast<std::size_t>(symbol & 0xFF)];
  if (length == 0) throw JpegFailure("JPEG is coded in other symbols than its coefficients need: bits of regions can't be told");
  return length + (symbol & 15);
}

// T.81, F.1.2: what a block takes after one of DC term `before`.
int bits_of_block(const JCOEF* block, int before, const CodeLengths& lengths) {
  int bits = bits_of_symbol(lengths.dc, size_of(std::abs(block[0] - before)));
  int run = 0;
  for (std::size_t k = 1; k < DCTSIZE2; ++k) {
    const int value = block[kZigzag[k]];
    if (value == 0) {
      ++run;
      continue;
    }
    for (; run > 15; run -= 16) bits += bits_of_symbol(lengths.ac, 0xF0);
    bits += bits_of_symbol(lengths.ac, run << 4 | size_of(std::abs(value)));
    run = 0;
  }
  return run > 0 ? bits + bits_of_symbol(lengths.ac, 0) : bits;
}

// Adds `bits` in equal parts to the regions that pixels [top, bottom) x [left, right) lie in, or to the nearest.
void share_out(double bits, std::ptrdiff_t top, std::ptrdiff_t bottom, std::ptrdiff_t left, std::ptrdiff_t right,
               int region, std::ptrdiff_t rows, std::ptrdiff_t cols, std::vector<double>& regions) {
  const std::ptrdiff_t first_row = std::min(top / region, rows - 1), first_col = std::min(left / region, cols - 1);
  const std::ptrdiff_t last_row = std::min((bottom - 1) / region, rows - 1);
  const std::ptrdiff_t last_col = std::min((right - 1) / region, cols - 1);
  const double each = bits / static_cast<double>((last_row - first_row + 1) * (last_col - first_col + 1));
  for (std::ptrdiff_t row = first_row; row <= last_row; ++row)
    for (std::ptrdiff_t col = first_col; col <= last_col; ++col)
      regions[static_cast<std::size_t>(row * cols + col)] += each;
}

}  // namespace

JpegFile read_file(const std::uint8_t* data, std::size_t size, std::int64_t max_pixels, int segment_code, Read what) {
  Reader reader;
  if (!read_header(reader, data, size, segment_code)) raise("not a readable JPEG", reader.errors);
  check_size(reader, max_pixels);
  check_kind(reader);
  JpegFile file;
  file.width = static_cast<int>(reader.info.image_width);
  file.height = static_cast<int>(reader.info.image_height);
  file.progressive = reader.info.progressive_mode != FALSE;
  file.ycc = reader.info.num_components == 3 && reader.info.jpeg_color_space == JCS_YCbCr;
  for (jpeg_saved_marker_ptr marker = reader.info.marker_list; marker != nullptr; marker = marker->next)
    file.segments.push_back({marker->marker, std::string(reinterpret_cast<const char*>(marker->data),
                                                         marker->data_length)});
  file.components.resize(static_cast<std::size_t>(reader.info.num_components));
  for (std::size_t c = 0; c < file.components.size(); ++c) {
    file.components[c].h = reader.info.comp_info[c].h_samp_factor;
    file.components[c].v = reader.info.comp_info[c].v_samp_factor;
  }
  if (what == Read::kHeader) return file;

  jvirt_barray_ptr* arrays = nullptr;
  if (!read_coefficients(reader, arrays)) raise("damaged JPEG", reader.errors);
  for (std::size_t c = 0; c < file.components.size(); ++c) {
    Component& component = file.components[c];
    const jpeg_component_info& source = reader.info.comp_info[c];
    if (source.quant_table == nullptr) throw JpegFailure("damaged JPEG: a component has no quantization table");
    component.table.assign(source.quant_table->quantval, source.quant_table->quantval + DCTSIZE2);
    if (std::count(component.table.begin(), component.table.end(), 0) != 0)
      throw JpegFailure("damaged JPEG: a quantization step is 0, expected 1 or more");
    component.block_rows = static_cast<std::ptrdiff_t>(source.height_in_blocks);
    component.block_cols = static_cast<std::ptrdiff_t>(source.width_in_blocks);
    component.blocks.resize(static_cast<std::size_t>(component.block_rows * component.block_cols) * DCTSIZE2);
    if (!copy_rows(reader, arrays[c], component.block_rows, component.block_cols, component.blocks.data()))
      raise("damaged JPEG", reader.errors);
  }
  if (!finish_reading(reader)) raise("damaged JPEG", reader.errors);
  return file;
}

std::vector<std::uint8_t> decode_plain(const std::uint8_t* data, std::size_t size, std::int64_t max_pixels,
                                       int& height, int& width) {
  Reader reader;
  if (!read_header(reader, data, size, 0)) raise("not a readable JPEG", reader.errors);
  check_size(reader, max_pixels);
  check_kind(reader);
  if (!start_decoding(reader)) raise("damaged JPEG", reader.errors);
  height = static_cast<int>(reader.info.output_height);
  width = static_cast<int>(reader.info.output_width);
  const std::size_t stride = static_cast<std::size_t>(width) * 3;
  std::vector<std::uint8_t> pixels(stride * static_cast<std::size_t>(height));
  if (!decode_rows(reader, pixels.data(), stride)) raise("damaged JPEG", reader.errors);
  return pixels;
}

std::vector<double> region_bits(const std::uint8_t* data, std::size_t size, std::int64_t max_pixels, int region,
                                std::ptrdiff_t& rows, std::ptrdiff_t& cols) {
  Reader reader;
  if (!read_header(reader, data, size, 0)) raise("not a readable JPEG", reader.errors);
  check_size(reader, max_pixels);
  check_kind(reader);
  const auto& info = reader.info;
  if (info.progressive_mode || info.arith_code || !has_one_scan(reader))
    throw JpegFailure("bits of regions can be told of JPEGs with Huffman codes in one scan, not of progressive ones");
  const auto count = static_cast<std::size_t>(info.num_components);
  jvirt_barray_ptr* arrays = nullptr;
  if (!read_coefficients(reader, arrays)) raise("damaged JPEG", reader.errors);
  // After reading: libjpeg fills in the tables that motion JPEG leaves out.
  std::vector<CodeLengths> lengths(count);
  std::ptrdiff_t mcu_rows = 1, mcu_cols = 1;
  std::array<std::ptrdiff_t, 3> h{1, 1, 1}, v{1, 1, 1};
  for (std::size_t c = 0; c < count; ++c) {
    const jpeg_component_info& component = info.comp_info[c];
    fill_lengths(info.dc_huff_tbl_ptrs[component.dc_tbl_no], lengths[c].dc);
    fill_lengths(info.ac_huff_tbl_ptrs[component.ac_tbl_no], lengths[c].ac);
    // A component alone is not interleaved: its MCU is one block whatever its factors.
    if (count > 1) {
      h[c] = component.h_samp_factor;
      v[c] = component.v_samp_factor;
    }
    mcu_rows = std::max(mcu_rows, (static_cast<std::ptrdiff_t>(component.height_in_blocks) + v[c] - 1) / v[c]);
    mcu_cols = std::max(mcu_cols, (static_cast<std::ptrdiff_t>(component.width_in_blocks) + h[c] - 1) / h[c]);
  }
  const std::ptrdiff_t most_h = count > 1 ? info.max_h_samp_factor : 1, most_v = count > 1 ? info.max_v_samp_factor : 1;
  rows = (static_cast<std::ptrdiff_t>(info.image_height) + region - 1) / region;
  cols = (static_cast<std::ptrdiff_t>(info.image_width) + region - 1) / region;
  std::vector<double> regions(static_cast<std::size_t>(rows * cols));
  std::array<int, 3> dc{};
  std::ptrdiff_t mcu = 0;
  for (std::ptrdiff_t mcu_row = 0; mcu_row < mcu_rows; ++mcu_row) {
    std::array<JBLOCKARRAY, 3> blocks{};
    if (!access_mcu_row(reader, arrays, mcu_row, blocks.data())) raise("damaged JPEG", reader.errors);
    for (std::ptrdiff_t mcu_col = 0; mcu_col < mcu_cols; ++mcu_col, ++mcu) {
      if (info.restart_interval > 0 && mcu % static_cast<std::ptrdiff_t>(info.restart_interval) == 0) dc = {};
      for (std::size_t c = 0; c < count; ++c)
        for (std::ptrdiff_t row = 0; row < v[c]; ++row)
          for (std::ptrdiff_t col = mcu_col * h[c]; col < (mcu_col + 1) * h[c]; ++col) {
            const JCOEF* block = blocks[c][row][col];
            const int bits = bits_of_block(block, dc[c], lengths[c]);
            dc[c] = block[0];
            const std::ptrdiff_t block_row = mcu_row * v[c] + row;
            share_out(bits, block_row * 8 * most_v / v[c], (block_row + 1) * 8 * most_v / v[c], col * 8 * most_h / h[c],
                      (col + 1) * 8 * most_h / h[c], region, rows, cols, regions);
          }
    }
  }
  return regions;
}

}  // namespace rjpeg
