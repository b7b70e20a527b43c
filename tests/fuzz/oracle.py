"""What a Region JPEG that was accepted must be: read a second time, by other code than the decoder's.

Coefficients come from `reader`, the marker is taken apart here, the map is the predictor's answer to features that
NumPy made, corrected by code of its own, and the checksum is zlib's CRC-32 over plain arrays.
"""

import hashlib
import math
import struct
import zlib
from functools import cache

import numpy as np

import rjpeg
from rjpeg._features import predictor_features, quantizer_index
from rjpeg._runtime import answer
from tests.fuzz import corpus, reader


def check(jpeg: bytes, decoded: rjpeg.DecodedFrame, model: rjpeg.Model, *, signed: bool) -> str | None:
    """What is wrong with a decoded Region JPEG, None if nothing is.

    signed: the file's checksum was made to fit; else it must be a seed's content, and give that seed's picture.
    """
    try:
        picture = reader.read(jpeg)
    except reader.UnreadableError as error:
        if signed and "Huffman code" in str(error):
            # libjpeg-turbo's fast path takes a code that no table has for the symbol 0, without a word
            return None
        return f"accepted, and not readable: {error}"
    size = (picture.height, picture.width)
    tables = [component.table for component in picture.components]
    blocks = [component.blocks for component in picture.components]
    data = picture.segments[0]
    try:
        [data, *rest] = [segment for segment in picture.segments if segment[:2] == b"RJ" and len(segment) > 2]
    except ValueError:
        return "accepted with a map, and without a marker"
    data += b"".join(segment[3:] for segment in rest)
    flags = data[2] & 15
    frame_size = struct.unpack_from(">HH", data, 5) if flags & 1 else size
    at = 9 if flags & 1 else 5
    said, correction = int.from_bytes(data[at : at + 3], "big"), data[at + 3 :]
    if flags & 4:
        predicted = np.zeros((-(-size[0] // 16), -(-size[1] // 16), 2), np.uint8)
    else:
        predicted = _predicted(blocks, tables, model)
    levels = _corrected(predicted, flags & 6, correction)
    if decoded.quality_map is None or not np.array_equal(levels, decoded.quality_map):
        return "map is another than the file's"
    if decoded.coding_size != size or decoded.frame.shape != (*frame_size, 3):
        return f"sizes {decoded.coding_size}, {decoded.frame.shape} are others than the file's {size}, {frame_size}"
    if any(not np.array_equal(ours, read) for ours, read in zip(decoded.tables or (), tables[:2], strict=False)):
        return "tables are others than the file's"
    content = b"".join(array.astype("<i2").tobytes() for array in blocks)
    content += b"".join(table.astype("<u2").tobytes() for table in tables)
    content += struct.pack("<4H", *size, *frame_size) + levels.tobytes()
    if zlib.crc32(content) & 0xFFFFFF != said:
        return f"checksum {zlib.crc32(content) & 0xFFFFFF:06x} is another than the file's {said:06x}"
    if signed:
        return None
    original = originals().get(hashlib.sha256(content).digest())
    if original is None:
        return "content is no seed's, and its checksum is right"
    return None if np.array_equal(original, decoded.frame) else "picture is another than the seed's"


@cache
def originals() -> dict[bytes, np.ndarray]:
    """The frames of all Region JPEGs among the seeds that can be decoded, by SHA-256 of their content."""
    decoder = rjpeg.Decoder()
    found = {}
    for jpeg in corpus.region_files().values():
        try:
            frame = decoder.decode(jpeg)
        except rjpeg.JpegError:
            continue  # arithmetic coding is refused
        file = rjpeg._region_file.read_region_file(jpeg, decoder.model)
        content = b"".join(array.astype("<i2").tobytes() for array in file.blocks)
        content += b"".join(table.astype("<u2").tobytes() for table in file.tables)
        content += struct.pack("<4H", *file.coding_size, *file.frame_size) + file.quality_map.tobytes()
        found[hashlib.sha256(content).digest()] = frame
    return found


def _predicted(blocks: list[np.ndarray], tables: list[np.ndarray], model: rjpeg.Model) -> np.ndarray:
    dc = [array[..., 0].astype(np.int64) * int(table[0]) for array, table in zip(blocks, tables, strict=True)]
    output = answer(model.predictor, predictor_features(*dc, quantizer_index(tables[0]))).astype(np.int64)
    map_quantizer, scale = model.map_quantizer, model.predictor.output_quantization.scale
    strength = min(max(math.log2(tables[0].sum() / 64) / map_quantizer.fade, 0.0), 1.0)
    factor = scale * map_quantizer.gain * (1.0 / math.log2(map_quantizer.scales[1])) * strength
    # Of each region: how many there are around it within the window, itself included, and the sum of their outputs.
    reach = -1 if map_quantizer.window is None else map_quantizer.window // 2
    near = [np.abs(np.subtract.outer(range(n), range(n))) <= reach for n in output.shape[:2]]
    vertical, horizontal = (part.astype(np.int64) for part in near)
    counts = np.multiply.outer(vertical.sum(axis=1), horizontal.sum(axis=1))
    if map_quantizer.window is None:  # absolute: the network's own zero is average
        counts, output = np.ones_like(counts), output - model.predictor.output_quantization.zero_point
    levels = np.empty(output.shape, np.uint8)
    for channel, center in enumerate(map_quantizer.centers):
        centered = output[..., channel] * counts - vertical @ output[..., channel] @ horizontal
        level = np.floor(centered * factor / counts + (center * strength + 0.5))
        levels[..., channel] = np.clip(level, 0, len(map_quantizer.scales) - 1)
    return levels


def _corrected(predicted: np.ndarray, kind: int, correction: bytes) -> np.ndarray:
    rows, cols = predicted.shape[:2]
    flat = predicted.transpose(2, 0, 1).reshape(-1).astype(np.int64)
    if kind == 4:
        flat = np.frombuffer(zlib.decompressobj(-15).decompress(correction), np.uint8)
    elif kind == 2:
        bits = "".join(f"{byte:08b}" for byte in correction)
        parameter, at, position = int(bits[:4] or "0", 2), 4, -1
        while "0" in bits[at:]:
            quotient = bits.index("0", at) - at
            at += quotient + 1
            position += 1 + (quotient << parameter) + int("0" + bits[at : at + parameter], 2)
            at += parameter
            negative = bits[at] == "1"
            end = bits.index("0", at + 1)
            flat[position] += (end - at) * (-1 if negative else 1)
            at = end + 1
    return flat.reshape(2, rows, cols).transpose(1, 2, 0).astype(np.uint8)
