"""Any frame of a large archive is decoded from three files at most."""

import random
from collections.abc import Callable

import numpy as np
import pytest

import rjpeg
from server.store import FrameRow, Store
from server.store.bases import BaseFiles
from server.store.tables import frames
from tests.server.stores import MEASURES, NOON, SECOND, received
from tests.server.streams import Stream

ROWS = 1_000_000


@pytest.fixture
def archive(open_store: Callable[..., Store], database_url: str, stream: Stream) -> tuple[Store, list[FrameRow]]:
    """A store that holds a stream, and its rows in order."""
    store = open_store(database_url)
    rows = []
    for place, file in enumerate(stream.files):
        when, identity = NOON + place * SECOND, rjpeg.identify(file.jpeg)
        bases = () if identity.base_id is None else store.bases("gate", identity.base_id, when)
        frame = received("gate", place, when, jpeg=file.jpeg, identity=identity, bases=bases)
        rows.append(store.add(frame, MEASURES, None))
    return store, rows


def multiply(store: Store, rows: list[FrameRow], count: int) -> None:
    """Fill the table with copies of the rows, each stream after the one before; copies share the files."""
    copies = f"WITH RECURSIVE copies(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM copies WHERE n < {count // len(rows)})"
    shifts = {"capture_time": len(rows) * 1_000_000, "stored_time": len(rows) * 1_000_000, "sequence": len(rows)}
    shifts |= dict.fromkeys(("id", "key_frame", "patch_frame"), len(rows))
    names = [column.name for column in frames.c]
    values = [f"f.{name} + CAST({shifts[name]} AS BIGINT) * s.n" if name in shifts else f"f.{name}" for name in names]
    with store.database.writing() as connection:
        connection.exec_driver_sql(
            f"{copies} INSERT INTO frames ({', '.join(names)}) SELECT {', '.join(values)} FROM frames f, copies s"
        )


@pytest.mark.release
@pytest.mark.timeout(1200)
def test_any_frame_of_an_archive_of_a_million_is_decoded_from_three_files_at_most(archive, stream, monkeypatch):
    store, rows = archive
    multiply(store, rows, ROWS)
    reads: list[str] = []
    read = store.files.read
    monkeypatch.setattr(store.files, "read", lambda key: reads.append(key) or read(key))
    decoder, chance, most = rjpeg.Decoder(), random.Random(6), set()
    for _ in range(200):
        place = chance.randrange(len(rows), ROWS)
        row = store.frame("gate", rows[0].id + place)
        reads.clear()
        base = None
        # one that has read nothing yet
        for file in BaseFiles(store.database, store.files, 2**20).of_stored(row):
            base = decoder.base_of(file.jpeg, base)
        frame = decoder.decode(store.jpeg(row), base)
        np.testing.assert_array_equal(frame, stream.decoded[place % len(rows)].frame)
        assert len(reads) == 1 + len(stream.chain(place % len(rows)))
        most.add(len(reads))
    assert most == {1, 2, 3}
