"""Damage to the files of a folder, and what of a SQLite database it touched."""

import random
import sqlite3
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

PAGE, FRAME = 4096, 24 + 4096
SECTOR = 512


class Span(NamedTuple):
    """Bytes of a file."""

    name: str
    begin: int
    end: int


def damage(folder: Path, names: list[str], chance: random.Random) -> list[Span]:
    """Do one of the things that happen to files; return the bytes that were changed or lost."""
    name = chance.choice([name for name in names if (folder / name).exists()])
    path = folder / name
    data = bytearray(path.read_bytes())
    kind = chance.choice(("flip", "flip", "flip", "zero", "zero", "noise", "cut", "remove"))
    if kind == "remove" or not data:
        path.unlink()
        return [Span(name, 0, len(data))]
    if kind == "cut":
        size = chance.randrange(len(data))
        with path.open("r+b") as file:
            file.truncate(size)
        return [Span(name, size, len(data))]
    spans = []
    for _ in range(chance.choice((1, 1, 3))):
        if kind == "flip":
            begin = chance.randrange(len(data))
            new = bytes([data[begin] ^ 1 << chance.randrange(8)])
        else:
            begin = chance.randrange(len(data)) // SECTOR * SECTOR
            size = min(chance.choice((SECTOR, PAGE, 4 * PAGE)), len(data) - begin)
            new = bytes(size) if kind == "zero" else chance.randbytes(size)
        data[begin : begin + len(new)] = new
        spans.append(Span(name, begin, begin + len(new)))
    path.write_bytes(data)
    return spans


def places_of_rows(folder: Path, name: str, table: str) -> dict[int, list[Span]]:
    """Return where the bytes of each row are, by rowid: in the database file, or in its log.

    SQLite itself says which pages a row has (its table `dbstat`), so this shares no code with what reads damaged files.
    The database is opened, so give a copy.
    """
    in_log = dict(_log_pages(folder / f"{name}-wal"))
    with sqlite3.connect(folder / name) as db:
        pages = db.execute("SELECT path, pageno, pagetype, ncell FROM dbstat WHERE name = ?", (table,)).fetchall()
        rows = [row for (row,) in db.execute(f"SELECT rowid FROM {table} ORDER BY rowid")]
    db.close()
    leaves = sorted((path, page, cells) for path, page, kind, cells in pages if kind == "leaf")
    further: dict[str, list[int]] = {}
    for path, page, kind, _ in pages:
        if kind == "overflow":
            further.setdefault(path.partition("+")[0], []).append(page)
    found: dict[int, list[Span]] = {}
    row = iter(rows)
    for path, page, cells in leaves:
        for cell in range(cells):
            own = [page, *further.get(f"{path}{cell:03x}", [])]
            found[next(row)] = [_span(name, number, in_log) for number in own]
    assert next(row, None) is None, "every row has its pages"
    return found


def touched(spans: list[Span], damaged: list[Span]) -> bool:
    """Return whether any of the spans has bytes in common with a damaged one."""
    return any(a.name == b.name and a.begin < b.end and b.begin < a.end for a in spans for b in damaged)


def _span(name: str, page: int, in_log: dict[int, int]) -> Span:
    if page in in_log:
        return Span(f"{name}-wal", in_log[page], in_log[page] + FRAME)
    return Span(name, (page - 1) * PAGE, page * PAGE)


def _log_pages(path: Path) -> Iterator[tuple[int, int]]:
    """Go through the pages of the log's newest round: number, and where its frame begins."""
    data = path.read_bytes() if path.exists() else b""
    for offset in range(32, len(data) - FRAME + 1, FRAME):
        page, salt = struct.unpack(">I4x8s", data[offset : offset + 16])
        if salt == data[16:24]:
            yield page, offset
