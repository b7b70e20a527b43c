"""A second reader of JPEG coefficients, plain Python and no libjpeg: what a file says, whatever our own reader says.

Baseline, extended and progressive Huffman coding of 8 bits (T.81, annexes B, F and G), any order of scans. Written for
pictures of some thousand pixels. Where libjpeg-turbo reads on in silence (rubbish before a marker, repeated scans) it
does the same; where that calls a file damaged, anything may come out here.
"""

import struct
from dataclasses import dataclass, field
from functools import cache

import cv2
import numpy as np

from rjpeg._features import ZIGZAG

NATURAL = ZIGZAG.tolist()


class UnreadableError(Exception):
    """The file is damaged or of a kind that is not read."""


@dataclass
class Component:
    """blocks: (block_rows, block_cols, 64) int16 and table: (64,) uint16, natural order. h, v: sampling factors."""

    identity: int
    h: int
    v: int
    table_index: int
    rows: int = 0
    cols: int = 0
    padded_cols: int = 0
    table: np.ndarray | None = None
    grid: list[list[int]] = field(default_factory=list)

    @property
    def blocks(self) -> np.ndarray:
        padded = np.array(self.grid, np.int64).astype(np.int16).reshape(-1, self.padded_cols, 64)
        return padded[: self.rows, : self.cols]


@dataclass
class Picture:
    """segments: contents of the APP10 segments before the first scan."""

    width: int
    height: int
    progressive: bool
    components: list[Component]
    segments: list[bytes]


def read(jpeg: bytes, most_blocks: int = 20_000) -> Picture:
    """Read all scans of a file. Raises UnreadableError, also where it has more than `most_blocks` blocks."""
    try:
        return _Reader(jpeg, most_blocks).picture()
    except (IndexError, struct.error) as error:
        raise UnreadableError(f"cut short: {error}") from error


@cache
def standard_codes() -> dict[int, dict[tuple[int, int], int]]:
    """Those of T.81, annex K, which OpenCV writes, and with which libjpeg-turbo reads files that have none."""
    jpeg = cv2.imencode(".jpg", np.zeros((8, 8, 3), np.uint8))[1].tobytes()
    reader = _Reader(jpeg, 10)
    reader.picture()
    return reader.codes


class _Reader:
    def __init__(self, jpeg: bytes, most_blocks: int) -> None:
        self.data = jpeg
        self.most_blocks = most_blocks
        self.at = 0
        self.tables: dict[int, np.ndarray] = {}
        self.codes: dict[int, dict[tuple[int, int], int]] = {}
        self.interval = 0
        self.progressive = False
        self.bits = self.held = 0

    def picture(self) -> Picture:
        if self.data[:2] != b"\xff\xd8":
            raise UnreadableError("no start of image")
        self.at = 2
        while self.data[self.at : self.at + 2] == b"\xff\xd8":
            # a file that begins twice
            self.at += 2
        picture: Picture | None = None
        scans = 0
        segments = []
        while True:
            try:
                code = self._next_marker()
            except IndexError:
                if not scans:
                    raise
                # the end is not marked
                break
            if code == 0xD9:
                break
            if code == 0x01 or 0xD0 <= code <= 0xD7:
                continue
            if scans and len(self.data) < self.at + 2:
                break
            length = struct.unpack_from(">H", self.data, self.at)[0]
            body = self.data[self.at + 2 : self.at + length]
            if length < 2 and (code == 0xFE or 0xE0 <= code <= 0xEF):
                length, body = 2, b""
            if scans and len(body) < length - 2 and (code == 0xFE or 0xE0 <= code <= 0xEF):
                # what breaks off behind the picture
                break
            if length < 2 or len(body) != length - 2:
                raise UnreadableError(f"segment {code:02x} is cut short")
            self.at += length
            if code in (0xC0, 0xC1, 0xC2):
                if picture is not None:
                    raise UnreadableError("second frame header")
                picture = self._frame(body, code == 0xC2, segments)
            elif code == 0xC4:
                self._huffman_tables(body)
            elif code == 0xDB:
                self._quantization_tables(body)
            elif code == 0xDD:
                self.interval = struct.unpack(">H", body)[0]
            elif code == 0xEA and not scans:
                segments.append(body)
            elif code == 0xDA:
                if picture is None:
                    raise UnreadableError("scan before the frame header")
                self._scan(picture, body)
                scans += 1
            elif code in (0xD8, 0xC8) or (0xC0 <= code <= 0xCF and code != 0xCC):
                raise UnreadableError(f"segment {code:02x}")
        if picture is None or any(component.table is None for component in picture.components):
            raise UnreadableError("a component without a scan")
        return picture

    def _next_marker(self) -> int:
        while True:
            self.at = self.data.index(b"\xff", self.at) if b"\xff" in self.data[self.at :] else len(self.data)
            while self.data[self.at] == 0xFF:
                self.at += 1
            self.at += 1
            if self.data[self.at - 1] != 0:
                return self.data[self.at - 1]

    def _frame(self, body: bytes, progressive: bool, segments: list[bytes]) -> Picture:
        self.progressive = progressive
        precision, height, width, count = struct.unpack_from(">BHHB", body)
        if precision != 8 or not height or not width or len(body) != 6 + 3 * count or not count:
            raise UnreadableError("frame header")
        components = [
            Component(body[at], body[at + 1] >> 4, body[at + 1] & 15, body[at + 2]) for at in range(6, 6 + 3 * count, 3)
        ]
        if len({component.identity for component in components}) < count:
            raise UnreadableError("components of one name")
        if any(not 1 <= factor <= 4 for component in components for factor in (component.h, component.v)):
            raise UnreadableError("sampling factors")
        self.most_h = max(component.h for component in components)
        self.most_v = max(component.v for component in components)
        self.mcu_cols = -(-width // (8 * self.most_h))
        self.mcu_rows = -(-height // (8 * self.most_v))
        blocks = self.mcu_cols * self.mcu_rows * sum(component.h * component.v for component in components)
        if blocks > self.most_blocks:
            raise UnreadableError(f"{blocks} blocks")
        for component in components:
            component.cols = -(-width * component.h // (8 * self.most_h))
            component.rows = -(-height * component.v // (8 * self.most_v))
            component.padded_cols = self.mcu_cols * component.h
            component.grid = [[0] * 64 for _ in range(component.padded_cols * self.mcu_rows * component.v)]
        return Picture(width, height, progressive, components, segments)

    def _huffman_tables(self, body: bytes) -> None:
        at = 0
        while at < len(body):
            counts = body[at + 1 : at + 17]
            symbols = body[at + 17 : at + 17 + sum(counts)]
            if len(counts) < 16 or len(symbols) < sum(counts):
                raise UnreadableError("Huffman table")
            codes: dict[tuple[int, int], int] = {}
            code = 0
            values = iter(symbols)
            for length, count in enumerate(counts, 1):
                for _ in range(count):
                    codes[length, code] = next(values)
                    code += 1
                code <<= 1
            self.codes[body[at]] = codes
            at += 17 + len(symbols)

    def _quantization_tables(self, body: bytes) -> None:
        at = 0
        while at < len(body):
            wide, index = body[at] >> 4, body[at] & 15
            table = np.zeros(64, np.uint16)
            table[ZIGZAG] = struct.unpack_from(">64H" if wide else ">64B", body, at + 1)
            self.tables[index] = table
            at += 129 if wide else 65

    def _scan(self, picture: Picture, body: bytes) -> None:
        count = body[0]
        if not 1 <= count <= 4 or len(body) != 4 + 2 * count:
            raise UnreadableError("scan header")
        chosen: list[tuple[Component, int, int]] = []
        for at in range(1, 1 + 2 * count, 2):
            [component] = [one for one in picture.components if one.identity == body[at]] or [None]
            if component is None or any(component is other for other, _, _ in chosen):
                raise UnreadableError("scan of an unknown component")
            if component.table is None:
                if component.table_index not in self.tables:
                    raise UnreadableError("no quantization table")
                component.table = self.tables[component.table_index].copy()
            chosen.append((component, body[at + 1] >> 4, 16 | body[at + 1] & 15))
        first, last, approximation = body[-3:]
        high, low = approximation >> 4, approximation & 15
        if not picture.progressive:
            # some cameras write zeros
            first, last, high, low = 0, 63, 0, 0
        self.bits = self.held = 0
        state = _Scan(self, picture.progressive, first, last, high, low)
        if count == 1:
            component = chosen[0][0]
            units = [
                [(0, row * component.padded_cols + col)]
                for row in range(component.rows)
                for col in range(component.cols)
            ]
        else:
            units = [
                [
                    (index, (row * component.v + y) * component.padded_cols + col * component.h + x)
                    for index, (component, _, _) in enumerate(chosen)
                    for y in range(component.v)
                    for x in range(component.h)
                ]
                for row in range(self.mcu_rows)
                for col in range(self.mcu_cols)
            ]
        restart = 0
        for number, unit in enumerate(units):
            if self.interval and number and number % self.interval == 0:
                self.bits = self.held = 0
                if self._next_marker() != 0xD0 + restart:
                    raise UnreadableError("restart marker")
                restart = (restart + 1) % 8
                state.restart()
            for index, position in unit:
                component, dc, ac = chosen[index]
                state.block(component.grid[position], index, dc, ac)

    def take(self, count: int) -> int:
        """So many bits of entropy-coded data."""
        while self.held < count:
            byte = self.data[self.at]
            if byte == 0xFF:
                following = self.at + 1
                while self.data[following] == 0xFF:
                    following += 1
                if self.data[following] != 0:
                    raise UnreadableError("scan is cut short")
                self.at = following
            self.at += 1
            self.bits = self.bits << 8 | byte
            self.held += 8
        self.held -= count
        taken = self.bits >> self.held
        self.bits &= (1 << self.held) - 1
        return taken

    def symbol(self, table: int) -> int:
        """A Huffman code's symbol."""
        codes = self.codes.get(table)
        if codes is None and not self.progressive:
            codes = standard_codes().get(table)
        if codes is None:
            raise UnreadableError("no Huffman table")
        code = 0
        for length in range(1, 17):
            code = code << 1 | self.take(1)
            if (length, code) in codes:
                return codes[length, code]
        raise UnreadableError("no such Huffman code")

    def signed(self, size: int) -> int:
        """A number of `size` bits, 2^(size-1) below which it is negative (T.81, F.2.2.1)."""
        value = self.take(size) if size else 0
        return value if not size or value >> (size - 1) else value - (1 << size) + 1


def short(value: int) -> int:
    """The low 16 bits, as a signed number: what libjpeg keeps of a coefficient."""
    return ((value + 0x8000) & 0xFFFF) - 0x8000


class _Scan:
    def __init__(self, reader: _Reader, progressive: bool, first: int, last: int, high: int, low: int) -> None:
        self.reader, self.progressive = reader, progressive
        self.first, self.last, self.high, self.low = first, last, high, low
        self.restart()

    def restart(self) -> None:
        self.predicted = [0] * 4
        self.run = 0

    def block(self, block: list[int], index: int, dc: int, ac: int) -> None:
        if not self.progressive:
            self._dc(block, index, dc, 0)
            self._ac(block, ac, 1, 63, 0)
        elif self.first == 0:
            if self.high:
                block[0] |= self.reader.take(1) << self.low
            else:
                self._dc(block, index, dc, self.low)
        elif self.high:
            self._refine(block, ac)
        elif self.run:
            self.run -= 1
        else:
            self._ac(block, ac, self.first, self.last, self.low)

    def _dc(self, block: list[int], index: int, table: int, low: int) -> None:
        self.predicted[index] += self.reader.signed(self.reader.symbol(table))
        block[0] = short(self.predicted[index] << low)

    def _ac(self, block: list[int], table: int, first: int, last: int, low: int) -> None:
        k = first
        while k <= last:
            zeros, size = divmod(self.reader.symbol(table), 16)
            if size:
                k += zeros
                # libjpeg puts what is beyond the block into its last coefficient
                block[NATURAL[min(k, 63)]] = short(self.reader.signed(size) << low)
                k += 1
            elif zeros == 15:
                k += 16
            elif not self.progressive:
                break
            else:
                self.run = (1 << zeros) + (self.reader.take(zeros) if zeros else 0) - 1
                break

    def _refine(self, block: list[int], table: int) -> None:
        one = 1 << self.low
        k = self.first

        def correct(position: int) -> None:
            if self.reader.take(1) and not block[position] & one:
                block[position] += one if block[position] >= 0 else -one

        if not self.run:
            while k <= self.last:
                zeros, size = divmod(self.reader.symbol(table), 16)
                new = 0
                if size:
                    new = one if self.reader.take(1) else -one
                elif zeros < 15:
                    self.run = (1 << zeros) + (self.reader.take(zeros) if zeros else 0)
                    break
                while k <= self.last:
                    position = NATURAL[k]
                    if block[position]:
                        correct(position)
                    elif zeros == 0:
                        break
                    else:
                        zeros -= 1
                    k += 1
                if new:
                    block[NATURAL[min(k, 63)]] = new
                k += 1
        if self.run:
            while k <= self.last:
                if block[NATURAL[k]]:
                    correct(NATURAL[k])
                k += 1
            self.run -= 1
