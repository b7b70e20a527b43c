#include "bitstream.hpp"

#include <algorithm>
#include <array>

#include "entropy.hpp"

namespace rjpeg {
namespace {

constexpr int kSoi = 0xD8, kEoi = 0xD9, kDqt = 0xDB, kDht = 0xC4, kSof0 = 0xC0, kSos = 0xDA;  // T.81, table B.1

void put_byte(std::string& file, int byte) { file.push_back(static_cast<char>(byte)); }

void put_word(std::string& file, int word) {
  put_byte(file, word >> 8);
  put_byte(file, word & 0xFF);
}

void put_marker(std::string& file, int code) {
  put_byte(file, 0xFF);
  put_byte(file, code);
}

// A marker with the length of its segment (T.81, B.1.1.4).
void put_segment_start(std::string& file, int code, std::size_t content) {
  put_marker(file, code);
  put_word(file, static_cast<int>(content + 2));
}

void put_application_segments(std::string& file, const std::vector<Segment>& segments) {
  for (const Segment& segment : segments) {
    if (segment.data.size() > 0xFFFF - 2) throw JpegFailure("JPEG can't be written: a segment is too long");
    put_segment_start(file, segment.code, segment.data.size());
    file += segment.data;
  }
}

// For each component, the number of its quantization table: that of the first component with the same steps.
std::array<std::size_t, 3> number_tables(const std::vector<WrittenComponent>& components) {
  std::array<std::size_t, 3> table_of{};
  for (std::size_t c = 0; c < components.size(); ++c) {
    std::size_t same = 0;
    while (same < c && !std::equal(components[c].table, components[c].table + 64, components[same].table)) ++same;
    table_of[c] = same;
  }
  return table_of;
}

// Quantization tables (T.81, B.2.4.1). One that several components share is written once.
void put_dqt(std::string& file, const std::vector<WrittenComponent>& components,
             const std::array<std::size_t, 3>& table_of) {
  for (std::size_t c = 0; c < components.size(); ++c) {
    if (table_of[c] < c) continue;
    put_segment_start(file, kDqt, 65);
    put_byte(file, static_cast<int>(c));
    for (const std::uint8_t k : kZigzag) {
      if (components[c].table[k] < 1 || components[c].table[k] > 255)
        throw JpegFailure("JPEG can't be written: quantization steps must be 1..255");
      put_byte(file, components[c].table[k]);
    }
  }
}

// Frame header, baseline (T.81, B.2.2).
void put_sof(std::string& file, int width, int height, const std::vector<WrittenComponent>& components,
             const std::array<std::size_t, 3>& table_of) {
  put_segment_start(file, kSof0, 6 + 3 * components.size());
  put_byte(file, 8);
  put_word(file, height);
  put_word(file, width);
  put_byte(file, static_cast<int>(components.size()));
  for (std::size_t c = 0; c < components.size(); ++c) {
    put_byte(file, static_cast<int>(c) + 1);
    put_byte(file, components[c].h << 4 | components[c].v);
    put_byte(file, static_cast<int>(table_of[c]));
  }
}

// Huffman tables, all in one segment (T.81, B.2.4.2).
void put_dht(std::string& file, const EntropyCode& code) {
  std::size_t content = 0;
  for (const HuffmanTable& table : code.tables)
    if (!table.symbols.empty()) content += 17 + table.symbols.size();
  put_segment_start(file, kDht, content);
  for (std::uint32_t kind = 0; kind < kKinds; ++kind) {
    const HuffmanTable& table = code.tables[kind];
    if (table.symbols.empty()) continue;
    put_byte(file, static_cast<int>((kind & kAc) << 4 | kind >> 1));
    file.append(table.lengths.begin() + 1, table.lengths.end());
    file.append(table.symbols.begin(), table.symbols.end());
  }
}

// Scan header of one interleaved scan (T.81, B.2.3).
void put_sos(std::string& file, std::size_t components, const EntropyCode& code) {
  const int chroma_tables = (code.share_dc ? 0 : 1) << 4 | (code.share_ac ? 0 : 1);
  put_segment_start(file, kSos, 4 + 2 * components);
  put_byte(file, static_cast<int>(components));
  for (std::size_t c = 0; c < components; ++c) {
    put_byte(file, static_cast<int>(c) + 1);
    put_byte(file, c > 0 ? chroma_tables : 0);
  }
  put_byte(file, 0);
  put_byte(file, 63);
  put_byte(file, 0);
}

}  // namespace

std::string write_file(int width, int height, const std::vector<WrittenComponent>& components,
                       const std::vector<Segment>& segments) {
  if (components.size() != 1 && components.size() != 3)
    throw JpegFailure("JPEG can't be written: expected one or three components");
  const Tokens tokens = tokens_of(components);
  const EntropyCode code = choose_code(tokens, components);
  const std::array<std::size_t, 3> table_of = number_tables(components);
  std::string file;
  put_marker(file, kSoi);
  put_application_segments(file, segments);
  put_dqt(file, components, table_of);
  put_sof(file, width, height, components, table_of);
  put_dht(file, code);
  put_sos(file, components.size(), code);
  append_scan(tokens, code, file);
  put_marker(file, kEoi);
  return file;
}

}  // namespace rjpeg
