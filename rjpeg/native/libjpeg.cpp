#include "libjpeg.hpp"

#include <algorithm>
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

// Bytes that hold no codes: what some cameras fill a scan up with.
bool is_filler(const std::uint8_t* begin, const std::uint8_t* end) {
  return std::all_of(begin, end, [](std::uint8_t byte) { return byte == 0x00 || byte == 0xFF; });
}

// Whether what libjpeg passed over before a marker, `count` bytes of it, can be missed. After a scan it can't, unless it
// is filler: else the codes went out of step, and the picture is wrong from there on, or from long before.
bool can_be_passed_over(const j_common_ptr info, Errors& errors, int count) {
  if (!errors.in_scan) {
    errors.noise_in_header = true;
    return true;
  }
  const std::uint8_t* next = reinterpret_cast<j_decompress_ptr>(info)->src->next_input_byte;
  // At the end of the file libjpeg reads a marker of its own.
  if (next < errors.data || next > errors.end) next = errors.end;
  return next - errors.data >= count && is_filler(next - count, next);
}

// Sorts all of libjpeg's warnings into those after which the picture is whole, and those that tell of lost data: there
// libjpeg goes on and shows garbage, which is worse for a machine than an error. docs/security.md has the list.
bool is_harmless(const j_common_ptr info, Errors& errors) {
  switch (info->err->msg_code) {
    case JWRN_JFIF_MAJOR:     // nothing of JFIF but the density of pixels is used
    case JWRN_ADOBE_XFORM:    // taken for YCbCr, as by everybody
    case JWRN_NOT_SEQUENTIAL:  // Ss, Se, Ah, Al, which say nothing in a sequential file, are not as they should be
      return true;
    case JWRN_JPEG_EOF:
      // If codes are missing besides, JWRN_HIT_MARKER follows. If scans are, `check_scans` tells.
      errors.no_end = true;
      return true;
    case JWRN_EXTRANEOUS_DATA:
      return can_be_passed_over(info, errors, info->err->msg_parm.i[0]);
    default:
      // JWRN_HIT_MARKER, JWRN_HUFF_BAD_CODE, JWRN_MUST_RESYNC, JWRN_BOGUS_PROGRESSION, JWRN_ARITH_BAD_CODE, new ones
      return false;
  }
}

void on_message(j_common_ptr info, int level) {
  auto* errors = reinterpret_cast<Errors*>(info->err);
  if (level < 0 && !is_harmless(info, *errors)) fail(info);
  if (info->err->msg_code == JTRC_SOS) errors->in_scan = true;
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
  errors.data = errors.end = nullptr;
  errors.in_scan = errors.noise_in_header = errors.no_end = false;
  return manager;
}

[[noreturn]] void fail_saying(Reader& reader, const char* text) {
  std::snprintf(reader.errors.text, sizeof reader.errors.text, "%s", text);
  std::longjmp(reader.errors.escape, 1);
}

// What was passed over in the header may have been the Huffman tables: libjpeg then takes those of motion JPEG.
void check_tables(Reader& reader) {
  const auto& info = reader.info;
  if (!reader.errors.noise_in_header || info.arith_code) return;
  const auto is_missing = [](JHUFF_TBL* const* tables, int number) {
    return number < 0 || number >= NUM_HUFF_TBLS || tables[number] == nullptr;
  };
  for (int c = 0; c < info.comps_in_scan; ++c) {
    const jpeg_component_info& component = *info.cur_comp_info[c];
    if (is_missing(info.dc_huff_tbl_ptrs, component.dc_tbl_no) ||
        (!info.progressive_mode && is_missing(info.ac_huff_tbl_ptrs, component.ac_tbl_no)))
      fail_saying(reader, "extraneous bytes in the header, and a Huffman table is missing");
  }
}

// Called when all scans of a file of several were read: they have to tell of every component, and if the end of the
// file is missing, all that there is to tell.
void check_scans(Reader& reader) {
  for (int c = 0; c < reader.info.num_components; ++c) {
    if (reader.info.comp_info[c].quant_table == nullptr) fail_saying(reader, "no scan holds one of the components");
    if (!reader.info.progressive_mode || reader.info.coef_bits == nullptr) continue;
    const int* bits = reader.info.coef_bits[c];
    if (bits[0] < 0) fail_saying(reader, "no scan holds one of the components");
    if (reader.errors.no_end && std::any_of(bits, bits + DCTSIZE2, [](int missing) { return missing != 0; }))
      fail_saying(reader, "premature end of a progressive JPEG");
  }
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
  // Some cameras begin their files twice; libjpeg would refuse the second beginning.
  while (size >= 4 && std::memcmp(data, "\xFF\xD8\xFF\xD8", 4) == 0) data += 2, size -= 2;
  reader.errors.data = data;
  reader.errors.end = data + size;
  if (setjmp(reader.errors.escape)) return false;
  jpeg_create_decompress(&reader.info);
  reader.info.progress = &reader.progress;
  jpeg_mem_src(&reader.info, const_cast<unsigned char*>(data), static_cast<unsigned long>(size));
  if (segment_code != 0) jpeg_save_markers(&reader.info, segment_code, 0xFFFF);
  jpeg_read_header(&reader.info, TRUE);
  check_tables(reader);
  return true;
}

bool read_coefficients(Reader& reader, jvirt_barray_ptr*& arrays) {
  if (setjmp(reader.errors.escape)) return false;
  const bool several = jpeg_has_multiple_scans(&reader.info) != FALSE;
  arrays = jpeg_read_coefficients(&reader.info);
  if (several) check_scans(reader);
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
  if (jpeg_has_multiple_scans(&reader.info)) check_scans(reader);
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
