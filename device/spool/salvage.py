"""What a damaged database and its log still hold, read without SQLite.

SQLite reads a table from its root down, so one damaged page hides all rows below, and a damaged log hides all that
follows. Here every page is looked at by itself. A row is taken if its checksums are right, so a wrong guess costs
nothing. Rows that were deleted may come back.

Formats: https://www.sqlite.org/fileformat2.html, 1.6 (B-tree pages), 2.1 (records), 4 (the write-ahead log).
"""

import contextlib
import os
import struct
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt

from device.frames import OutgoingFrame
from device.spool.record import Head, head_of, opened

__all__ = ["PAGE", "Salvage", "is_log_torn", "is_log_whole"]

PAGE = 4096
LOG_HEADER, FRAME_HEADER = 32, 24
LOG_MAGIC = b"\x37\x7f\x06"
MAX_ROUNDS = 8  # rounds through the log that are looked at if its header is damaged
LEAF = 0x0D  # type of a page with a table's rows
MAX_LOCAL = PAGE - 35  # bytes of a row in its page
MIN_LOCAL = (PAGE - 12) * 32 // 255 - 23
COLUMNS = 8  # the row's number, which is kept elsewhere, and those of device.spool.record
MAX_HEADER = 100  # bytes of a record's header; ours have some 15
INTEGERS = {1: 1, 2: 2, 3: 3, 4: 4, 5: 6, 6: 8}  # bytes by serial type


class LogFrame(NamedTuple):
    """A page in the log.

    Attributes:
        page: Its number.
        salt: The same for all frames of a round through the log.
        offset: Of its bytes in the log.
        ends: It is the last of a transaction.
        whole: Its checksum is right.
        follows: It is whole, and so are all before it.
    """

    page: int
    salt: bytes
    offset: int
    ends: bool
    whole: bool
    follows: bool


class Cell(NamedTuple):
    """A row as its page has it.

    Attributes:
        local: The bytes there.
        size: Bytes in all.
        overflow: The page where it goes on, or 0.
    """

    local: bytes
    size: int
    overflow: int


def is_log_whole(path: Path) -> bool:
    """Return False if a write-ahead log is damaged so that SQLite would leave out frames in it.

    Raises:
        OSError: The log can't be read.
    """
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return True
    with file:
        frames, salt = _log_frames(file)
        return all(frame.follows for frame in frames if frame.salt == salt or salt is None)


def is_log_torn(path: Path) -> bool:
    """Return True if a write-ahead log lacks no more than its last transaction, as a kill or a power cut leaves it.

    SQLite then goes on without that transaction. Damage to the last transaction looks the same.

    Raises:
        OSError: The log can't be read.
    """
    with path.open("rb") as file:
        frames, salt = _log_frames(file)
    return salt is not None and not any(frame.whole and frame.ends for frame in _tail(frames, salt))


class Salvage:
    """The rows of a database file and its log that are whole.

    Args:
        path: The database. Its log is beside it, with `-wal` at the end of its name. Either may be missing.

    Attributes:
        broken: Numbers of frames, by camera, of which `frames` found a part and nothing whole.

    Raises:
        OSError: A file can't be read.
    """

    def __init__(self, path: Path) -> None:
        self.broken: dict[str, set[int]] = {}
        names = (path, path.with_name(path.name + "-wal"))
        # a file that is missing counts as empty
        self._files = [(name if name.exists() else Path(os.devnull)).open("rb") for name in names]
        frames, salt = _log_frames(self._files[1])
        self._tail = sorted({frame.page for frame in _tail(frames, salt)})
        in_file = self._files[0].seek(0, os.SEEK_END) // PAGE
        # damage hides nothing: pages are looked at as SQLite sees them without damaged frames, and then with them
        salts = [salt] if salt else list(dict.fromkeys(frame.salt for frame in frames))[:MAX_ROUNDS]
        self._views: list[dict[int, int]] = [] if salts else [{}]
        for salt in salts:
            of_round = [frame for frame in frames if frame.salt == salt]
            self._views.append({frame.page: frame.offset for frame in of_round if frame.whole})
            if not all(frame.whole for frame in of_round):
                self._views.append({frame.page: frame.offset for frame in of_round})
        self._pages = max([in_file, *(frame.page for frame in frames if frame.whole)])

    def frames(self, is_known: Callable[[str, int], bool], *, in_tail: bool = False) -> Iterator[OutgoingFrame]:
        """Yield the frames that are whole, each camera's in order of number.

        Args:
            is_known: Tells, by camera and number, which frames to leave out.
            in_tail: Yield only those of the log's last transaction, which SQLite leaves out if the log is torn.
        """
        places: dict[tuple[str, int], list[tuple[int, int, int]]] = {}
        for view, pages in enumerate(self._views):
            for number in self._tail if in_tail else range(1, self._pages + 1):
                # the views have most pages in common
                if any(pages.get(number) == before.get(number) for before in self._views[:view]):
                    continue
                for index, cell in enumerate(_cells(self._page(pages, number), number)):
                    if (head := _head(cell)) is not None and not is_known(head.camera, head.sequence):
                        places.setdefault((head.camera, head.sequence), []).append((view, number, index))
        for key in sorted(places):
            tries = (self._frame(which, *place[1:]) for place in places[key] for which in self._views)
            frame = next((frame for frame in tries if frame is not None and frame[:2] == key), None)
            if frame is None:
                self.broken.setdefault(key[0], set()).add(key[1])
            else:
                yield frame

    def close(self) -> None:
        """Let go of the files."""
        for file in self._files:
            file.close()

    def _frame(self, pages: dict[int, int], number: int, index: int) -> OutgoingFrame | None:
        cells = list(_cells(self._page(pages, number), number))
        if index >= len(cells):
            return None
        local, size, overflow = cells[index]
        payload = bytearray(local)
        while len(payload) < size and 0 < overflow <= self._pages:
            page = self._page(pages, overflow)
            if len(page) < PAGE:
                return None
            overflow = int.from_bytes(page[:4], "big")
            payload += page[4 : 4 + size - len(payload)]
        values = _values(bytes(payload)) if len(payload) == size else None
        return None if values is None else opened(*values)

    def _page(self, pages: dict[int, int], number: int) -> bytes:
        """Return a page, or as many of its bytes as can be read."""
        offset = pages.get(number)
        file = self._files[0] if offset is None else self._files[1]
        with contextlib.suppress(OSError):
            return os.pread(file.fileno(), PAGE, (number - 1) * PAGE if offset is None else offset)
        return b""


def _cells(page: bytes, number: int) -> Iterator[Cell]:
    """Yield the cells of a page but for damaged ones; none if it is no leaf of a table."""
    start = 100 if number == 1 else 0
    if len(page) < PAGE or page[start] != LEAF:
        return
    count = int.from_bytes(page[start + 3 : start + 5], "big")
    for place in range(start + 8, min(start + 8 + 2 * count, PAGE - 1), 2):
        with contextlib.suppress(IndexError):
            at = int.from_bytes(page[place : place + 2], "big")
            size, at = _varint(page, at)
            _, at = _varint(page, at)
            local = size
            if size > MAX_LOCAL:
                local = MIN_LOCAL + (size - MIN_LOCAL) % (PAGE - 4)
                local = local if local <= MAX_LOCAL else MIN_LOCAL
            overflow = 0 if local == size else int.from_bytes(page[at + local : at + local + 4], "big")
            yield Cell(page[at : at + local], size, overflow)


def _head(cell: Cell) -> Head | None:
    """Return what a cell's row says of its frame; None if it isn't a frame's or is damaged there."""
    found = _layout(cell.local)
    if found is None:
        return None
    types, at = found
    values: list[Any] = []
    for kind in types[1:5]:
        value, at = _value(cell.local, kind, at)
        values.append(value)
    jpeg = types[-1]
    values.append((jpeg - 12) // 2 if jpeg >= 12 else -1)
    return head_of(*values)


def _values(payload: bytes) -> list[Any] | None:
    """Return the values of a record, text as bytes, but for the first, the row's number."""
    found = _layout(payload)
    if found is None:
        return None
    types, at = found
    values: list[Any] = []
    for kind in types[1:]:
        value, at = _value(payload, kind, at)
        values.append(value)
    return values


def _layout(payload: bytes) -> tuple[list[int], int] | None:
    """Return the serial types of a record's columns and where the first value begins; None if it isn't one of ours."""
    types: list[int] = []
    try:
        end, at = _varint(payload, 0)
        while at < end <= MAX_HEADER:
            kind, at = _varint(payload, at)
            types.append(kind)
    except IndexError:
        return None
    return (types, end) if len(types) == COLUMNS and at == end else None


def _value(payload: bytes, kind: int, at: int) -> tuple[Any, int]:
    """Return a value of that serial type and where the next one begins."""
    if kind >= 12:
        end = at + (kind - 12) // 2
        return payload[at:end], end
    if kind in (8, 9):
        return kind - 8, at
    end = at + INTEGERS.get(kind, 0)
    return (int.from_bytes(payload[at:end], "big", signed=True) if end > at else None), end


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """Return a number of 1 to 9 bytes and where the next one begins.

    Raises:
        IndexError: The data end before.
    """
    value = 0
    for _ in range(8):
        byte = data[at]
        value, at = value << 7 | byte & 0x7F, at + 1
        if byte < 0x80:
            return value, at
    return value << 8 | data[at], at + 1


def _log_frames(file: BinaryIO) -> tuple[list[LogFrame], bytes | None]:
    """Return all frames of a log, and the salt of its newest round; None if its header is damaged.

    Behind the newest round, frames of earlier ones may lie, which have another salt.
    """
    header = os.pread(file.fileno(), LOG_HEADER, 0)
    order = {LOG_MAGIC + b"\x82": "<", LOG_MAGIC + b"\x83": ">"}.get(header[:4])
    sums = struct.unpack(">2I", header[24:]) if order and len(header) == LOG_HEADER else None
    order = order or "<"
    salt = header[16:24] if sums is not None and _sums(header[:24], order, (0, 0)) == sums else None
    before, follows = sums, salt is not None
    frames: list[LogFrame] = []
    offset = LOG_HEADER
    while len(data := os.pread(file.fileno(), FRAME_HEADER + PAGE, offset)) == FRAME_HEADER + PAGE:
        # each checksum continues that of the frame before, so a damaged frame leaves the later ones checkable
        said = struct.unpack(">2I", data[16:24])
        whole = before is not None and _sums(data[:8] + data[FRAME_HEADER:], order, before) == said
        follows = follows and whole and data[8:16] == salt
        page = int.from_bytes(data[:4], "big")
        ends = data[4:8] != b"\0\0\0\0"
        frames.append(LogFrame(page, data[8:16], offset + FRAME_HEADER, ends, whole, follows))
        before = said
        offset += FRAME_HEADER + PAGE
    return frames, salt


def _tail(frames: list[LogFrame], salt: bytes | None) -> list[LogFrame]:
    """Return the frames of the newest round that come after its last transaction that is whole."""
    committed = max((at for at, frame in enumerate(frames) if frame.follows and frame.ends), default=-1)
    return [frame for frame in frames[committed + 1 :] if frame.salt == salt]


def _sums(data: bytes, order: str, start: tuple[int, ...]) -> tuple[int, int]:
    """Return SQLite's checksum of the log, which goes on from `start`; the length is a multiple of 8.

    For words x0, x1: s0 += x0 + s1, s1 += x1 + s0, modulo 2^32. That is linear, so it is one product with the powers of
    its matrix in place of a step a word.
    """
    words = np.frombuffer(data, f"{order}u4").astype(np.uint32).reshape(-1, 2)
    first, second, third = _powers(len(words))
    x, y = words[:, 0], words[:, 0] + words[:, 1]
    s0, s1 = (np.uint32(value) for value in start)
    with np.errstate(over="ignore"):
        sum0 = first[0] * s0 + second[0] * s1 + np.dot(first[1:], x) + np.dot(second[1:], y)
        sum1 = second[0] * s0 + third[0] * s1 + np.dot(second[1:], x) + np.dot(third[1:], y)
    return int(sum0), int(sum1)


@cache
def _powers(count: int) -> tuple[npt.NDArray[np.uint32], ...]:
    """Return the entries (0, 0), (0, 1), (1, 1) of the powers of [[1, 1], [1, 2]], from `count` down to 0."""
    powers = [(1, 0, 1)]
    for _ in range(count):
        a, b, d = powers[-1]
        powers.append(((a + b) % 2**32, (a + 2 * b) % 2**32, (b + 2 * d) % 2**32))
    return tuple(np.array(column[::-1], np.uint32) for column in zip(*powers, strict=True))
