"""Damaged and forged JPEG files: from a seed and a number always the same file.

Half of the changes know the structure of a file (segments, fields of headers, the region marker), half do not.
"""

import random
import re
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import rjpeg
from rjpeg import _marker as marker
from tests.fuzz import corpus

SOI, EOI, SOS, DQT, DHT, DRI, DNL, COM = 0xD8, 0xD9, 0xDA, 0xDB, 0xC4, 0xDD, 0xDC, 0xFE
FRAMES = (0xC0, 0xC1, 0xC2, 0xC3, 0xC5, 0xC9, 0xCA)
STANDING_ALONE = (SOI, EOI, 0x01, *range(0xD0, 0xD8))
SIDES = (0, 1, 7, 8, 9, 15, 16, 17, 255, 256, 1000, 4096, 8191, 16384, 32768, 65500, 65501, 65535)
BYTES = (0, 1, 2, 3, 4, 7, 8, 0x0F, 0x10, 0x11, 0x3F, 0x40, 0x7F, 0x80, 0xC0, 0xD9, 0xDA, 0xFE, 0xFF)
MOST_BYTES = 1_000_000


@dataclass
class Part:
    """A segment. length: the one that its header says, None for the true one. scan: entropy-coded data behind it."""

    code: int
    data: bytearray
    scan: bytearray
    length: int | None = None


@dataclass(frozen=True)
class Mutant:
    """A file to decode. seed: what it was made of; steps: how. signed: whether its checksum was made to fit last."""

    jpeg: bytes
    seed: str
    steps: tuple[str, ...]
    signed: bool


def make(seed: int, number: int) -> Mutant:
    """Mutant `number` of a run with `seed`."""
    rng = random.Random(f"{seed}/{number}")
    seeds = corpus.files()
    regions = [name for name in seeds if name.startswith("region")]
    # Most of what is ours to lose is in the Region JPEGs.
    name = rng.choice(regions if rng.random() < 0.65 else list(seeds))
    jpeg = seeds[name]
    steps = []
    for _ in range(rng.choice((1, 1, 1, 2, 2, 3, 5))):
        change = rng.choices(CHANGES, WEIGHTS)[0]
        jpeg = change(rng, jpeg)[:MOST_BYTES]
        steps.append(change.__name__.lstrip("_"))
    signed = False
    if name.startswith("region") and rng.random() < 0.4:
        jpeg, signed = _signed(jpeg)
    return Mutant(jpeg, name, tuple(steps), signed)


def split(jpeg: bytes) -> list[Part]:
    """Parts of a file, whose `join` is the file where it is well formed."""
    parts: list[Part] = []
    at = 0
    while at + 1 < len(jpeg) and jpeg[at] == 0xFF:
        code = jpeg[at + 1]
        at += 2
        if code in STANDING_ALONE:
            data = b""
        else:
            length = int.from_bytes(jpeg[at : at + 2], "big")
            data = jpeg[at + 2 : at + length]
            at += max(length, 2)
        end = at
        while end < len(jpeg) and not (
            jpeg[end] == 0xFF and end + 1 < len(jpeg) and jpeg[end + 1] not in (0, *range(0xD0, 0xD8))
        ):
            end += 1
        parts.append(Part(code, bytearray(data), bytearray(jpeg[at:end])))
        at = end
    return parts


def join(parts: list[Part]) -> bytes:
    """A file of its parts."""
    pieces = []
    for part in parts:
        pieces.append(bytes((0xFF, part.code & 255)))
        if part.code not in STANDING_ALONE:
            length = len(part.data) + 2 if part.length is None else part.length
            pieces.append((length & 0xFFFF).to_bytes(2, "big"))
        pieces += [bytes(part.data), bytes(part.scan)]
    return b"".join(pieces)


# --- changes that know the structure: random generator and file in, file out -------------------------------


def _on_parts(change: Callable[[random.Random, list[Part]], None]) -> Callable[[random.Random, bytes], bytes]:
    def apply(rng: random.Random, jpeg: bytes) -> bytes:
        parts = split(jpeg)
        if not parts:
            return jpeg
        change(rng, parts)
        return join(parts)

    apply.__name__ = change.__name__
    return apply


def _of(rng: random.Random, parts: list[Part], *codes: int) -> Part | None:
    found = [part for part in parts if part.code in codes and part.data]
    return rng.choice(found) if found else None


def _side(rng: random.Random) -> bytes:
    return struct.pack(">H", rng.choice(SIDES) if rng.random() < 0.6 else rng.randrange(65536))


@_on_parts
def _reorder(rng: random.Random, parts: list[Part]) -> None:
    part = parts.pop(rng.randrange(len(parts)))
    parts.insert(rng.randrange(len(parts) + 1), part)


@_on_parts
def _drop(rng: random.Random, parts: list[Part]) -> None:
    del parts[rng.randrange(len(parts))]


@_on_parts
def _double(rng: random.Random, parts: list[Part]) -> None:
    part = rng.choice(parts)
    for _ in range(rng.choice((1, 1, 2, 5, 150))):
        copy = Part(part.code, bytearray(part.data), bytearray(part.scan), part.length)
        parts.insert(rng.randrange(len(parts) + 1), copy)


@_on_parts
def _lie_about_length(rng: random.Random, parts: list[Part]) -> None:
    part = rng.choice(parts)
    true = len(part.data) + 2
    part.length = rng.choice((0, 1, 2, 3, true - 1, true + 1, true + 2, true * 2, 65535, rng.randrange(65536)))


@_on_parts
def _rename(rng: random.Random, parts: list[Part]) -> None:
    rng.choice(parts).code = rng.choice(
        (*FRAMES, *STANDING_ALONE, SOS, DQT, DHT, DRI, DNL, COM, 0xCC, 0xDE, 0xDF, *range(0xE0, 0xF0), 0x00, 0xFF, 0xF7)
    )


@_on_parts
def _resize(rng: random.Random, parts: list[Part]) -> None:
    frame = _of(rng, parts, *FRAMES)
    if frame is not None and len(frame.data) >= 5:
        which = rng.randrange(3)
        if which != 1:
            frame.data[1:3] = _side(rng)
        if which != 0:
            frame.data[3:5] = _side(rng)


@_on_parts
def _edit_frame(rng: random.Random, parts: list[Part]) -> None:
    frame = _of(rng, parts, *FRAMES)
    if frame is None:
        return
    if rng.random() < 0.3:
        frame.code = rng.choice(FRAMES)
    at = rng.choice((0, *range(5, max(6, len(frame.data)))))
    if at < len(frame.data):
        choices = (8, 12, 16) if at == 0 else (0x11, 0x22, 0x21, 0x12, 0x41, 0x14, 0x44, 0x33, 0, 1, 2, 3, 4)
        frame.data[at] = rng.choice(choices) if rng.random() < 0.7 else rng.randrange(256)


@_on_parts
def _edit_quantization(rng: random.Random, parts: list[Part]) -> None:
    part = _of(rng, parts, DQT)
    if part is None:
        return
    way = rng.randrange(5)
    if way == 0:
        part.data[0] = rng.randrange(256)
    elif way == 1:
        part.data[1:65] = bytes(64)
    elif way == 2:
        part.data[1:65] = b"\xff" * 64
    elif way == 3 and len(part.data) >= 65:
        wide = b"".join(
            struct.pack(">H", min(65535, step * rng.choice((1, 3, 200, 65535)))) for step in part.data[1:65]
        )
        part.data[:65] = bytes((part.data[0] | 0x10,)) + wide
    else:
        for _ in range(rng.randrange(1, 5)):
            part.data[rng.randrange(len(part.data))] = rng.choice(BYTES)


@_on_parts
def _edit_huffman(rng: random.Random, parts: list[Part]) -> None:
    part = _of(rng, parts, DHT)
    if part is None:
        return
    for _ in range(rng.randrange(1, 4)):
        at = rng.randrange(min(20, len(part.data))) if rng.random() < 0.5 else rng.randrange(len(part.data))
        part.data[at] = rng.choice(BYTES) if rng.random() < 0.5 else (part.data[at] + rng.choice((-1, 1))) & 255


@_on_parts
def _edit_scan_header(rng: random.Random, parts: list[Part]) -> None:
    part = _of(rng, parts, SOS)
    if part is not None:
        at = rng.randrange(len(part.data))
        part.data[at] = rng.choice((0, 1, 2, 3, 4, 5, 0x11, 0x22, 0x33, 0x3F, 0x40, 0x01, 0x10, 0x21, 0xFF))


@_on_parts
def _edit_restarts(rng: random.Random, parts: list[Part]) -> None:
    interval = rng.choice((0, 1, 2, 7, 65535, rng.randrange(65536)))
    part = _of(rng, parts, DRI)
    if part is not None:
        part.data[:] = struct.pack(">H", interval)
    else:
        parts.insert(rng.randrange(1, len(parts) + 1), Part(DRI, bytearray(struct.pack(">H", interval)), bytearray()))


@_on_parts
def _edit_application(rng: random.Random, parts: list[Part]) -> None:
    part = _of(rng, parts, *range(0xE0, 0xF0))
    if part is not None:
        part.data[rng.randrange(len(part.data))] = rng.choice(BYTES)


@_on_parts
def _insert_application(rng: random.Random, parts: list[Part]) -> None:
    adobe = b"Adobe\x00\x64\x00\x00\x00\x00" + bytes((rng.randrange(4),))
    jfif = b"JFIF\x00\x01\x01\x00\x00\x01\x00\x01\x00\x00"
    content = rng.choice(
        (
            adobe,
            jfif,
            b"RJ",
            b"RJ\x00",
            b"RJ\x00" + bytes(9),
            b"",
            b"RJ\x10",
            b"Exif\x00\x00MM",
            rng.randbytes(rng.choice((1, 12, 65533))),
        )
    )
    code = rng.choice((0xEA, 0xEA, 0xE0, 0xEE, 0xE1, COM))
    for _ in range(rng.choice((1, 1, 1, 2, 3000))):
        parts.insert(min(rng.choice((1, 2, 99)), len(parts)), Part(code, bytearray(content[:65533]), bytearray()))


@_on_parts
def _insert_scan(rng: random.Random, parts: list[Part]) -> None:
    scan = _of(rng, parts, SOS)
    if scan is not None:
        header = bytearray(scan.data)
        if len(header) >= 4 and rng.random() < 0.5:
            header = bytearray(
                (
                    1,
                    rng.choice((1, 2, 3)),
                    rng.choice((0, 0x11)),
                    rng.choice((0, 1)),
                    rng.choice((0, 5, 63)),
                    rng.choice((0, 0x10, 0x21, 1)),
                )
            )
        content = bytearray(scan.scan[: rng.randrange(len(scan.scan) + 1)])
        parts.insert(max(1, len(parts) - rng.choice((0, 1))), Part(SOS, header, content))


@_on_parts
def _edit_scan_data(rng: random.Random, parts: list[Part]) -> None:
    part = _of(rng, parts, SOS)
    if part is None or not part.scan:
        return
    way = rng.randrange(4)
    at = rng.randrange(len(part.scan))
    if way == 0:
        part.scan[at] ^= 1 << rng.randrange(8)
    elif way == 1:
        del part.scan[at:]
    elif way == 2:
        part.scan[at:at] = rng.randbytes(rng.choice((1, 2, 20))).replace(b"\xff", b"\xff\x00")
    else:
        part.scan[at : at + 2] = bytes((0xFF, rng.choice((0xD0, 0xD1, 0xD7, 0xD9, 0x00, 0xFF))))


@_on_parts
def _swap_tables_of_another_file(rng: random.Random, parts: list[Part]) -> None:
    others = split(rng.choice(list(corpus.files().values())))
    code = rng.choice((DQT, DHT, SOS, 0xEA, *FRAMES[:3]))
    mine = [index for index, part in enumerate(parts) if part.code == code]
    theirs = [part for part in others if part.code == code]
    if mine and theirs:
        parts[rng.choice(mine)] = rng.choice(theirs)


@_on_parts
def _splice(rng: random.Random, parts: list[Part]) -> None:
    others = split(rng.choice(list(corpus.files().values())))
    parts[rng.randrange(len(parts)) :] = others[rng.randrange(len(others)) :]


@_on_parts
def _edit_marker(rng: random.Random, parts: list[Part]) -> None:
    part = _of(rng, parts, marker.SEGMENT_CODE)
    if part is None or len(part.data) < 8:
        return
    data = part.data
    way = rng.randrange(10)
    if way == 0:
        data[2] = rng.choice((0x10, 0x11, 0x12, 0x14, 0x13, 0x15, 0x16, 0x18, 0x20, 0, rng.randrange(256)))
    elif way == 1:
        data[3 + rng.randrange(2)] ^= 1 << rng.randrange(8)
    elif way == 2:  # a frame size, whether there was one or not
        data[2] |= 1
        data[5:5] = _side(rng) + _side(rng)
    elif way == 3:
        data[2] ^= 1
    elif way == 4:
        del data[rng.randrange(2, len(data)) :]
    elif way == 5:
        data += rng.randbytes(rng.choice((1, 2, 7, 300)))
    elif way == 6:
        data[2] = data[2] & 0xF9 | rng.choice((2, 4))
    elif way == 7:  # a correction of rice codes
        data[2] = data[2] & 0xF9 | 2
        start = 12 if data[2] & 1 else 8
        pattern = rng.choice((b"\x00", b"\xff", b"\xaa", b"\xf0", b"\x01", rng.randbytes(3)))
        data[start:] = pattern * rng.choice((1, 10, 1000, 20_000))
    elif way == 8:  # a map that is far larger when inflated
        data[2] = data[2] & 0xF9 | 4
        start = 12 if data[2] & 1 else 8
        data[start:] = _deflated(rng.choice((0, 3, 200)))
    else:
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


@cache
def _deflated(level: int) -> bytes:
    deflate = zlib.compressobj(9, zlib.DEFLATED, -15)
    return deflate.compress(bytes((level,)) * 10_000_000) + deflate.flush()


@_on_parts
def _continue_marker(rng: random.Random, parts: list[Part]) -> None:
    found = [index for index, part in enumerate(parts) if part.code == marker.SEGMENT_CODE]
    if not found:
        return
    at = rng.choice(found)
    data = parts[at].data
    cut = rng.randrange(len(data) + 1)
    rest = Part(marker.SEGMENT_CODE, bytearray(b"RJ\x00") + data[cut:], bytearray())
    if rng.random() < 0.7:
        del data[cut:]
    parts.insert(at + rng.choice((0, 1)), rest)


# --- changes that do not -----------------------------------------------------------------------------------


def _flip_bits(rng: random.Random, jpeg: bytes) -> bytes:
    data = bytearray(jpeg)
    for _ in range(rng.choice((1, 1, 1, 2, 8)) if data else 0):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return bytes(data)


def _set_bytes(rng: random.Random, jpeg: bytes) -> bytes:
    data = bytearray(jpeg)
    for _ in range(rng.choice((1, 1, 2, 4)) if data else 0):
        data[rng.randrange(len(data))] = rng.choice(BYTES)
    return bytes(data)


def _truncate(rng: random.Random, jpeg: bytes) -> bytes:
    return jpeg[: rng.randrange(len(jpeg) + 1)] + (b"\xff\xd9" if rng.random() < 0.3 else b"")


def _cut_out(rng: random.Random, jpeg: bytes) -> bytes:
    at = rng.randrange(len(jpeg) + 1)
    return jpeg[:at] + jpeg[at + rng.choice((1, 2, 3, 16, 100)) :]


def _insert_bytes(rng: random.Random, jpeg: bytes) -> bytes:
    at = rng.randrange(len(jpeg) + 1)
    content = rng.choice((rng.randbytes(rng.choice((1, 4, 64))), b"\xff" * rng.choice((1, 50)), b"\xff\x00", bytes(9)))
    return jpeg[:at] + content + jpeg[at:]


def _repeat_bytes(rng: random.Random, jpeg: bytes) -> bytes:
    at = rng.randrange(len(jpeg) + 1)
    return jpeg[:at] + jpeg[at : at + rng.choice((1, 2, 30, 300))] * rng.choice((1, 2, 50)) + jpeg[at:]


def _splice_bytes(rng: random.Random, jpeg: bytes) -> bytes:
    other = rng.choice(list(corpus.files().values()))
    return jpeg[: rng.randrange(len(jpeg) + 1)] + other[rng.randrange(len(other)) :]


def _append(rng: random.Random, jpeg: bytes) -> bytes:
    return jpeg + rng.choice((b"\x00", b"\xff\xd9", b"trailing", jpeg, rng.randbytes(50)))


CHANGES_AND_WEIGHTS = {
    _reorder: 3,
    _drop: 2,
    _double: 2,
    _lie_about_length: 3,
    _rename: 2,
    _resize: 5,
    _edit_frame: 4,
    _edit_quantization: 5,
    _edit_huffman: 4,
    _edit_scan_header: 4,
    _edit_restarts: 2,
    _edit_application: 3,
    _insert_application: 2,
    _insert_scan: 3,
    _edit_scan_data: 8,
    _swap_tables_of_another_file: 4,
    _splice: 2,
    _edit_marker: 12,
    _continue_marker: 2,
    _flip_bits: 10,
    _set_bytes: 8,
    _truncate: 4,
    _cut_out: 4,
    _insert_bytes: 4,
    _repeat_bytes: 2,
    _splice_bytes: 2,
    _append: 1,
}
CHANGES, WEIGHTS = list(CHANGES_AND_WEIGHTS), list(CHANGES_AND_WEIGHTS.values())


def _signed(jpeg: bytes) -> tuple[bytes, bool]:
    """The file with the checksum that its contents have, as a forger makes it, if it can be read at all."""
    try:
        _decoder().decode(jpeg)
    except rjpeg.MarkerError as error:
        found = re.match(r"checksum is ([0-9a-f]{6})", str(error))
    except Exception:  # noqa: BLE001
        # that what is no RjpegError gets out of the decoder is for the worker to find
        return jpeg, False
    else:
        return jpeg, False
    parts = split(jpeg)
    ours = [part for part in parts if marker.is_region_segment(part.code, bytes(part.data))]
    if not found or not ours or len(ours[0].data) < 8:
        return jpeg, False
    at = 9 if ours[0].data[2] & 1 else 5
    ours[0].data[at : at + 3] = bytes.fromhex(found[1])
    return join(parts), True


@cache
def _decoder() -> rjpeg.Decoder:
    return rjpeg.Decoder(max_pixels=2**16)
