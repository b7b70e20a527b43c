// libjpeg-turbo's reader behind setjmp: no function here leaves by longjmp, and none lets an exception through libjpeg.
#pragma once

#include <csetjmp>
#include <cstddef>
#include <cstdint>
#include <cstdio>

#include <jpeglib.h>

namespace rjpeg {

struct Errors {
  jpeg_error_mgr manager;
  std::jmp_buf escape;
  char text[JMSG_LENGTH_MAX];
  int segments;
  // The file, to look at what libjpeg passed over.
  const std::uint8_t* data;
  const std::uint8_t* end;
  // A scan has begun; bytes were passed over before the first; the file ended before its end was marked.
  bool in_scan, noise_in_header, no_end;
};

// Plain data only between setjmp and longjmp, so that no destructor is skipped:
// what lives longer is owned by Reader, outside of the jumping functions.
struct Reader {
  Errors errors;
  jpeg_decompress_struct info;
  jpeg_progress_mgr progress;

  Reader();
  ~Reader();
  Reader(const Reader&) = delete;
  Reader& operator=(const Reader&) = delete;
};

// Each of these returns false after an error, whose text is in `reader.errors`.
bool read_header(Reader& reader, const std::uint8_t* data, std::size_t size, int segment_code);
bool read_coefficients(Reader& reader, jvirt_barray_ptr*& arrays);
bool copy_rows(Reader& reader, jvirt_barray_ptr array, std::ptrdiff_t block_rows, std::ptrdiff_t block_cols,
               std::int16_t* out);
bool finish_reading(Reader& reader);
bool start_decoding(Reader& reader);
bool decode_rows(Reader& reader, std::uint8_t* out, std::size_t stride);
bool access_mcu_row(Reader& reader, jvirt_barray_ptr* arrays, std::ptrdiff_t mcu_row, JBLOCKARRAY* blocks);
bool has_one_scan(Reader& reader);

// Throw JpegFailure: with libjpeg's text, for a picture above the limit, for a kind of JPEG that is not decoded.
[[noreturn]] void fail_with(const char* what, const Errors& errors);
void check_size(const Reader& reader, std::int64_t max_pixels);
void check_kind(const Reader& reader);

}  // namespace rjpeg
