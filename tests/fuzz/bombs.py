"""Small files that ask for as much time and memory as files can, within the limit of pixels and beyond it."""

import math
import re
import struct
import zlib
from collections.abc import Iterable

import rjpeg
from rjpeg import _marker as marker

MOST_BYTES = 2**23
"""Of a file: what the service takes in."""

# One Huffman code, the bit 0, for one symbol: zero bytes are then as many symbols as one likes.
END_OF_BLOCK, LONGEST_RUN = 0x00, 0xE0  # of 16384 blocks, with 14 further bits


def make(max_pixels: int) -> dict[str, bytes]:
    """Every bomb by name, none above MOST_BYTES. max_pixels: the limit that the decoder will have."""
    side = math.isqrt(max_pixels) // 16 * 16
    zeros = bytes(side * side // 64 * 6 // 8 + 64)
    baseline = _dht(0, END_OF_BLOCK) + _dht(0x10, END_OF_BLOCK) + _sos((1, 2, 3), 0, 63, 0, 0) + zeros
    progressive = _dht(0, END_OF_BLOCK) + _dht(0x10, LONGEST_RUN) + b"".join(_all_refinements())
    sizes = {"4:2:0": (0x22, 0x11, 0x11), "4:4:4": (0x11, 0x11, 0x11)}
    made = {
        "65500x65500": _file(65500, 65500, 0xC0, sizes["4:2:0"], baseline[:2000]),
        "65500x65500 progressive": _file(65500, 65500, 0xC2, sizes["4:2:0"], baseline[:2000]),
        "as large as allowed, cut short": _file(side, side, 0xC0, sizes["4:4:4"], baseline[:2000]),
        "65500 high": _file(65500, max_pixels // 65500, 0xC0, (0x42, 0x11, 0x11), baseline),
        "65500 wide": _file(max_pixels // 65500, 65500, 0xC0, (0x41, 0x11, 0x11), baseline),
        "65500x1, padded to 32": _file(65500, 1, 0xC2, (0x41, 0x14, 0x11), progressive),
        "1x65500, padded to 32": _file(1, 65500, 0xC2, (0x41, 0x14, 0x11), progressive),
        "as many scans as fit": _file(
            side,
            side,
            0xC0,
            sizes["4:4:4"],
            _dht(0, END_OF_BLOCK)
            + _dht(0x10, END_OF_BLOCK)
            + (_sos((1,), 0, 63, 0, 0) + bytes(side * side // 256)) * (MOST_BYTES // (side * side // 256 + 12) - 1),
        ),
        "scans without end": _file(
            16, 16, 0xC0, sizes["4:2:0"], _dht(0, 0) + _dht(0x10, 0) + (_sos((1,), 0, 63, 0, 0) + bytes(4)) * 300_000
        ),
        "refinements of a progressive file, gray": _file(
            side, side, 0xC2, (0x11,), _dht(0, 0) + _dht(0x10, LONGEST_RUN) + b"".join(_all_refinements((1,))), count=1
        ),
        "arithmetic coding without data": _file(side, side, 0xC9, sizes["4:4:4"], _sos((1, 2, 3), 0, 63, 0, 0)),
        "arithmetic coding, progressive": _file(side, side, 0xCA, sizes["4:4:4"], b"".join(_all_refinements(data=0))),
        "segments of four bytes": b"\xff\xd8"
        + b"\xff\xea\x00\x02" * (MOST_BYTES // 4 - 200_000)
        + _file(16, 16, 0xC0, sizes["4:2:0"], baseline[:600])[2:],
        "parts of a marker": _with_segments(
            _file(16, 16, 0xC0, sizes["4:2:0"], baseline[:600]), b"\xff\xea\x00\x05RJ\x00" * 1_000_000
        ),
        "comments": b"\xff\xd8"
        + b"\xff\xfe\x00\x02" * (MOST_BYTES // 4 - 200_000)
        + _file(16, 16, 0xC0, sizes["4:2:0"], baseline[:600])[2:],
        "Huffman tables": b"\xff\xd8"
        + _dht(0x13, 0) * 300_000
        + _file(16, 16, 0xC0, sizes["4:2:0"], baseline[:600])[2:],
        "fill bytes": b"\xff\xd8"
        + b"\xff" * (MOST_BYTES - 100_000)
        + _file(16, 16, 0xC0, sizes["4:2:0"], baseline[:600])[3:],
        "rubbish behind the scan": _file(16, 16, 0xC0, sizes["4:2:0"], baseline[:600] + bytes(MOST_BYTES - 10_000)),
    }
    # every coefficient of every block -1, in two bits
    dense = _dht(0, 0) + _dht(0x10, 0x01) + _sos((1, 2, 3), 0, 63, 0, 0) + bytes(MOST_BYTES - 2000)
    made["every coefficient, gray"] = _file(
        side, side, 0xC0, (0x11,), dense.replace(_sos((1, 2, 3), 0, 63, 0, 0), _sos((1,), 0, 63, 0, 0)), count=1
    )
    made["every coefficient"] = _file(side, side, 0xC0, sizes["4:2:0"], dense)
    made["region, every coefficient"] = _region(made["every coefficient"], max_pixels)
    for name, factors in sizes.items():
        whole = _file(side, side, 0xC0, factors, baseline)
        layered = _file(side, side, 0xC2, factors, progressive)
        small = _file(16, 16, 0xC0, factors, baseline[:600])
        made |= {
            f"gray picture {name}": whole,
            f"refinements of a progressive file {name}": layered,
            f"region, as large as allowed {name}": _region(whole, max_pixels),
            f"region, refinements of a progressive file {name}": _region(layered, max_pixels),
            f"region, enlarged {name}": _region(small, max_pixels, size=(side, side)),
            f"region, enlarged to one line {name}": _region(small, max_pixels, size=(16, 65500)),
            f"region, 65500x65500 {name}": _region(small, max_pixels, size=(65500, 65500)),
            f"region, deflated {name}": _region(small, max_pixels, kind=4, correction=_deflated(30_000_000)),
            f"region, own map, as large as allowed {name}": _region(
                whole, max_pixels, kind=4, correction=_deflated(2 * (side // 16) ** 2)
            ),
            f"region, refinements {name}": _region(whole, max_pixels, kind=2, correction=_rice(20_000)),
            f"region, megabytes of refinements {name}": _region(
                small, max_pixels, kind=2, correction=b"\xaa" * 6_000_000
            ),
            f"region, one long refinement {name}": _region(
                small, max_pixels, kind=2, correction=b"\x0f" + b"\xff" * 799_000
            ),
        }
    return made


def _file(height: int, width: int, code: int, factors: Iterable[int], scans: bytes, *, count: int = 3) -> bytes:
    quantization = _segment(0xDB, b"\x00" + b"\x10" * 64)
    components = b"".join(bytes((i + 1, factor, 0)) for i, factor in enumerate(factors))
    frame = _segment(code, struct.pack(">BHHB", 8, height, width, count) + components)
    return b"\xff\xd8" + quantization + frame + scans + b"\xff\xd9"


def _segment(code: int, data: bytes) -> bytes:
    return bytes((0xFF, code)) + (len(data) + 2).to_bytes(2, "big") + data


def _dht(table: int, symbol: int) -> bytes:
    return _segment(0xC4, bytes((table, 1)) + bytes(15) + bytes((symbol,)))


def _sos(components: tuple[int, ...], first: int, last: int, high: int, low: int) -> bytes:
    chosen = b"".join(bytes((component, 0)) for component in components)
    return _segment(0xDA, bytes((len(components),)) + chosen + bytes((first, last, high << 4 | low)))


def _all_refinements(components: tuple[int, ...] = (1, 2, 3), data: int = 600_000) -> Iterable[bytes]:
    """Scans that say nothing, and go through all coefficients of all blocks fourteen times."""
    yield _sos(components, 0, 0, 0, 0) + bytes(data)
    for component in components:
        yield _sos((component,), 1, 63, 0, 13) + bytes(min(data, 3000))
        for low in range(12, -1, -1):
            yield _sos((component,), 1, 63, low + 1, low) + bytes(min(data, 3000))


def _with_segments(jpeg: bytes, segments: bytes) -> bytes:
    return jpeg[:2] + segments + jpeg[2:]


def _region(
    jpeg: bytes, max_pixels: int, *, size: tuple[int, int] | None = None, kind: int = 0, correction: bytes = b""
) -> bytes:
    """A file with a region marker whose checksum is right, if the file can be read to the checksum at all."""
    model = rjpeg.load_model()

    def marked(checksum: int) -> bytes:
        parts = marker.pack(marker.Marker(model.identity, size, checksum, kind, correction))
        return _with_segments(jpeg, b"".join(_segment(code, data) for code, data in parts))

    try:
        rjpeg.Decoder(model, max_pixels=max_pixels).decode(marked(0))
    except rjpeg.RjpegError as error:
        found = re.match(r"checksum is ([0-9a-f]{6})", str(error))
        return marked(int(found[1], 16) if found else 0)
    return marked(0)


def _deflated(levels: int) -> bytes:
    deflate = zlib.compressobj(9, zlib.DEFLATED, -15)
    return deflate.compress(bytes(levels)) + deflate.flush()


def _rice(changes: int) -> bytes:
    """Refinements of the first `changes` levels, each by one: parameter 0, gap 0, sign, magnitude."""
    bits = "0000" + "000" * changes
    bits += "1" * (-len(bits) % 8)
    return int(bits, 2).to_bytes(len(bits) // 8, "big")
