#include "libjpeg.hpp"

#include <cstring>
#include <string>

#include <jerror.h>

#include "jpeg_file.hpp"

namespace rjpeg {
namespace {

// A progressive file may repeat scans without end; real ones have about ten.
constexpr int kMaxScans = 100;
// Application segments and comments. A file may have millions of them, of four bytes each.
constexpr int kMaxSegments = 1000;

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
  if (info->err->msg_code == JTRC_MISC_MARKER && ++errors->segments > kMaxSegments) {
    std::snprintf(errors->text, sizeof errors->text, "more than %d application segments", kMaxSegments);
    std::longjmp(errors->escape, 1);
  }
}

void ignore_output(j_common_ptr /*info*/) {}

void limit_scans(j_common_ptr info) {
  auto* reader = reinterpret_cast<j_decompress_ptr>(info);
  if (reader->input_scan_number > kMaxScans) {
    auto* errors = reinterpret_cast<Errors*>(info->err);
    std::snprintf(errors->text, sizeof errors->text, "more than %d scans", kMaxScans);
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

}  // namespace

Reader::Reader() {
  std::memset(&info, 0, sizeof info);
  std::memset(&progress, 0, sizeof progress);
  info.err = prepare(errors);
  progress.progress_monitor = limit_scans;
}

Reader::~Reader() { jpeg_destroy_decompress(&info); }

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

// Blocks of one row of MCUs, for each component its `v` rows of blocks.
bool access_mcu_row(Reader& reader, jvirt_barray_ptr* arrays, std::ptrdiff_t mcu_row, JBLOCKARRAY* blocks) {
  if (setjmp(reader.errors.escape)) return false;
  for (int c = 0; c < reader.info.num_components; ++c) {
    const int v = reader.info.num_components == 1 ? 1 : reader.info.comp_info[c].v_samp_factor;
    blocks[c] =
        (*reader.info.mem->access_virt_barray)(reinterpret_cast<j_common_ptr>(&reader.info), arrays[c],
                                               static_cast<JDIMENSION>(mcu_row * v), static_cast<JDIMENSION>(v), FALSE);
  }
  return true;
}

bool has_one_scan(Reader& reader) {
  if (setjmp(reader.errors.escape)) return false;
  return !jpeg_has_multiple_scans(&reader.info);
}

[[noreturn]] void fail_with(const char* what, const Errors& errors) {
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

}  // namespace rjpeg
