#include "jpeg_file.hpp"

#include <csetjmp>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>

#include <jpeglib.h>
#include <jerror.h>

#include "huffman.hpp"

namespace rjpeg {
namespace {

// A progressive file may repeat scans without end; real ones have about ten.
constexpr int kMostScans = 100;

struct Errors {
  jpeg_error_mgr manager;
  std::jmp_buf escape;
  char text[JMSG_LENGTH_MAX];
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
  return manager;
}

// Plain data only between setjmp and longjmp, so that no destructor is skipped:
// what lives longer is owned by Reader/Writer, outside of the jumping functions.
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

struct Writer {
  Errors errors;
  jpeg_compress_struct info;
  unsigned char* buffer = nullptr;
  unsigned long size = 0;

  Writer() {
    std::memset(&info, 0, sizeof info);
    info.err = prepare(errors);
  }
  ~Writer() {
    jpeg_destroy_compress(&info);
    std::free(buffer);
  }
  Writer(const Writer&) = delete;
  Writer& operator=(const Writer&) = delete;
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

void check_colors(const Reader& reader) {
  const auto& info = reader.info;
  if (info.num_components != 1 && info.num_components != 3)
    throw JpegFailure("JPEG has " + std::to_string(info.num_components) +
                      " color components (CMYK?), expected 1 (gray) or 3");
}

// Which of the two kinds of Huffman tables luma and chroma share, since that makes the file smaller.
struct Sharing {
  bool dc = false, ac = false;
};

Sharing best_sharing(const JpegFile& file) {
  if (file.components.size() != 3) return {};
  Histogram dc[2] = {{}, {}}, ac[2] = {{}, {}};
  for (std::size_t c = 0; c < 3; ++c) {
    const Component& component = file.components[c];
    const std::ptrdiff_t blocks = component.block_rows * component.block_cols;
    count_dc(component.blocks.data(), blocks, dc[c > 0]);
    count_ac(component.blocks.data(), blocks, ac[c > 0]);
  }
  return {better_shared(dc[0], dc[1]), better_shared(ac[0], ac[1])};
}

// The file with successive DHT segments made one, which saves four bytes for each (T.81, B.2.4.2).
std::string with_one_dht(const unsigned char* data, std::size_t size) {
  std::string out(reinterpret_cast<const char*>(data), 2);
  std::size_t dht = 0;  // where the open DHT segment starts in `out`
  std::size_t at = 2;
  while (at + 4 <= size) {
    const unsigned char code = data[at + 1];
    const std::size_t length = static_cast<std::size_t>(data[at + 2]) << 8 | data[at + 3];
    const auto* segment = reinterpret_cast<const char*>(data + at);
    constexpr unsigned char kDht = 0xC4, kSos = 0xDA;
    if (code == kSos) break;
    if (code == kDht && dht != 0) {
      out.append(segment + 4, length - 2);
      const std::size_t whole = out.size() - dht - 2;
      out[dht + 2] = static_cast<char>(whole >> 8);
      out[dht + 3] = static_cast<char>(whole & 0xFF);
    } else {
      dht = code == kDht ? out.size() : 0;
      out.append(segment, length + 2);
    }
    at += length + 2;
  }
  return out.append(reinterpret_cast<const char*>(data + at), size - at);
}

bool write_all(Writer& writer, const JpegFile& file, Sharing sharing, jvirt_barray_ptr* arrays) {
  if (setjmp(writer.errors.escape)) return false;
  auto& info = writer.info;
  jpeg_create_compress(&info);
  jpeg_mem_dest(&info, &writer.buffer, &writer.size);
  info.image_width = static_cast<JDIMENSION>(file.width);
  info.image_height = static_cast<JDIMENSION>(file.height);
  info.input_components = static_cast<int>(file.components.size());
  info.in_color_space = info.input_components == 3 ? JCS_YCbCr : JCS_GRAYSCALE;
  jpeg_set_defaults(&info);
  info.optimize_coding = TRUE;
  info.write_JFIF_header = FALSE;
  for (int c = 0; c < info.num_components; ++c) {
    const Component& component = file.components[static_cast<std::size_t>(c)];
    jpeg_component_info& written = info.comp_info[c];
    written.h_samp_factor = component.h;
    written.v_samp_factor = component.v;
    if (sharing.dc) written.dc_tbl_no = 0;
    if (sharing.ac) written.ac_tbl_no = 0;
    // A table that several components share is written once.
    written.quant_tbl_no = 0;
    while (written.quant_tbl_no < c &&
           file.components[static_cast<std::size_t>(written.quant_tbl_no)].table != component.table)
      ++written.quant_tbl_no;
    JQUANT_TBL*& table = info.quant_tbl_ptrs[written.quant_tbl_no];
    if (table == nullptr) table = jpeg_alloc_quant_table(reinterpret_cast<j_common_ptr>(&info));
    for (int k = 0; k < DCTSIZE2; ++k) table->quantval[k] = component.table[static_cast<std::size_t>(k)];
    table->sent_table = FALSE;
    arrays[c] = (*info.mem->request_virt_barray)(
        reinterpret_cast<j_common_ptr>(&info), JPOOL_IMAGE, TRUE,
        static_cast<JDIMENSION>((component.block_cols + component.h - 1) / component.h * component.h),
        static_cast<JDIMENSION>((component.block_rows + component.v - 1) / component.v * component.v),
        static_cast<JDIMENSION>(component.v));
  }
  jpeg_write_coefficients(&info, arrays);
  for (const Segment& segment : file.segments)
    jpeg_write_marker(&info, segment.code, reinterpret_cast<const JOCTET*>(segment.data.data()),
                      static_cast<unsigned int>(segment.data.size()));
  // jpeg_write_coefficients has allocated the arrays; they are read only now, when the file is finished.
  for (int c = 0; c < info.num_components; ++c) {
    const Component& component = file.components[static_cast<std::size_t>(c)];
    for (std::ptrdiff_t row = 0; row < component.block_rows; ++row) {
      JBLOCKARRAY blocks = (*info.mem->access_virt_barray)(reinterpret_cast<j_common_ptr>(&info), arrays[c],
                                                          static_cast<JDIMENSION>(row), 1, TRUE);
      std::memcpy(blocks[0], component.blocks.data() + row * component.block_cols * DCTSIZE2,
                  static_cast<std::size_t>(component.block_cols) * sizeof(JBLOCK));
    }
  }
  jpeg_finish_compress(&info);
  return true;
}

}  // namespace

JpegFile read_file(const std::uint8_t* data, std::size_t size, std::int64_t max_pixels, int segment_code, Read what) {
  Reader reader;
  if (!read_header(reader, data, size, segment_code)) raise("not a readable JPEG", reader.errors);
  check_size(reader, max_pixels);
  check_colors(reader);
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
  check_colors(reader);
  if (!start_decoding(reader)) raise("damaged JPEG", reader.errors);
  height = static_cast<int>(reader.info.output_height);
  width = static_cast<int>(reader.info.output_width);
  const std::size_t stride = static_cast<std::size_t>(width) * 3;
  std::vector<std::uint8_t> pixels(stride * static_cast<std::size_t>(height));
  if (!decode_rows(reader, pixels.data(), stride)) raise("damaged JPEG", reader.errors);
  return pixels;
}

std::string write_file(const JpegFile& file) {
  Writer writer;
  std::vector<jvirt_barray_ptr> arrays(file.components.size());
  if (!write_all(writer, file, best_sharing(file), arrays.data())) raise("JPEG can't be written", writer.errors);
  return with_one_dht(writer.buffer, writer.size);
}

}  // namespace rjpeg
