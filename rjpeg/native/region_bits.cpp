#include "region_bits.hpp"

#include <algorithm>
#include <array>
#include <cstdlib>

#include "huffman.hpp"
#include "jpeg_file.hpp"
#include "libjpeg.hpp"

namespace rjpeg {
namespace {

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
  if (length == 0)
    throw JpegFailure("JPEG is coded in other symbols than its coefficients need: bits of regions can't be told");
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

std::vector<double> region_bits(const std::uint8_t* data, std::size_t size, std::int64_t max_pixels, int region,
                                std::ptrdiff_t& rows, std::ptrdiff_t& cols) {
  Reader reader;
  if (!read_header(reader, data, size, 0)) fail_with("not a readable JPEG", reader.errors);
  check_size(reader, max_pixels);
  check_kind(reader);
  const auto& info = reader.info;
  if (info.progressive_mode || info.arith_code || !has_one_scan(reader))
    throw JpegFailure("bits of regions can be told of JPEGs with Huffman codes in one scan, not of progressive ones");
  const auto count = static_cast<std::size_t>(info.num_components);
  jvirt_barray_ptr* arrays = nullptr;
  if (!read_coefficients(reader, arrays)) fail_with("damaged JPEG", reader.errors);
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
    if (!access_mcu_row(reader, arrays, mcu_row, blocks.data())) fail_with("damaged JPEG", reader.errors);
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
