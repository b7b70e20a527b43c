"""kill -9 of programs that add frames, at random moments: what was acknowledged is there, and nothing else is wrong."""

import random
import signal
import sqlite3
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from rjpeg.errors import StorageError
from server.store import Duplicate, Store
from tests.faults.record import Faults
from tests.server.stores import (
    MEASURES,
    NOON,
    SECOND,
    PostgreSQL,
    check_sums,
    crc,
    own_postgresql,
    quarantined_files,
    received,
    rows_of,
    stored_files,
)

ROOT = Path(__file__).resolve().parents[2]

# Adds frames from eight threads, keys and their followers, some of them twice, and deletes some now and then. Prints
# each acknowledged frame.
ADDING = """
import itertools, os, sys, threading, datetime
import rjpeg
from rjpeg.errors import KeyMissingError
from server.store import Duplicate, Store
from tests.server.stores import MEASURES, NOON, SECOND, crc, received

url, folder, start, deletes = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4] == "deletes"
store = Store.open(url, folder)
os.write(1, b"open\\n")
numbers = itertools.count(start)
keys = {}

def sent(number):
    # every tenth frame of a camera is a key, and the others are its followers
    camera, when, name = f"camera{number % 3}", NOON + number * SECOND, f"{number % 2**24:06x}"
    identity, bases = rjpeg.FileIdentity("key", name, None), ()
    if number % 30 >= 3 and (key := keys.get(camera)) is not None:
        try:
            bases = store.bases(camera, key, when)
            identity = rjpeg.FileIdentity("follower", name, key)
        except KeyMissingError:
            pass
    return received(camera, number, when, times=1 + number % 50, identity=identity, bases=bases)

def work():
    while True:
        number = next(numbers)
        frame, row = sent(number), None
        for _ in range(1 + (number % 5 == 0)):
            try:
                row = store.add(frame, MEASURES, {"number": number})
            except Duplicate as duplicate:
                row = duplicate.row
            except KeyMissingError:
                pass
        if row is not None:
            if row.kind == "key":
                keys[row.camera] = row.file_id
            # one write, shorter than a pipe's buffer, so the line is printed whole or not at all
            os.write(1, f"{row.camera} {row.id} {number} {crc(frame.jpeg)}\\n".encode())
        if deletes and number % 40 == 0:
            store.shrink_to(20_000)
            store.sweep()

for _ in range(8):
    threading.Thread(target=work).start()
"""


def add_and_be_killed(
    url: str, folder: Path, start: int, seconds: float, *, deletes: bool = False
) -> list[tuple[str, int, int, str]]:
    """Return the frames acknowledged before the kill: camera, id, number, CRC of the file."""
    program = subprocess.Popen(
        [sys.executable, "-c", ADDING, url, str(folder), str(start), "deletes" if deletes else "adds"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert program.stdout is not None
    assert program.stderr is not None
    first = program.stdout.readline()
    assert first == b"open\n", program.stderr.read().decode()
    time.sleep(seconds)
    program.send_signal(signal.SIGKILL)
    output, messages = program.communicate(timeout=60)
    assert messages == b""
    lines = output.decode().splitlines()
    return [(camera, int(id_), int(number), check) for camera, id_, number, check in map(str.split, lines)]


def check_store(store: Store, folder: Path, acknowledged: list[tuple[str, int, int, str]]) -> None:
    rows = {row["id"]: row for row in rows_of(store, "frames")}
    for camera, id_, number, check in acknowledged:
        row = store.frame(camera, id_)
        assert row is not None, (camera, id_, number)
        assert (row.sequence, row.results) == (number, {"number": number})
        assert crc(store.jpeg(row)) == check
    keys = {row["key"] for row in rows.values()}
    assert len(keys) == len(rows)
    assert keys <= stored_files(folder)
    check_sums(store)


def check_swept(store: Store, folder: Path) -> int:
    """Check that files and rows agree once all leftovers of the kills are set aside; return the number of leftovers."""
    now = store.now()
    store.now = lambda: now + store.files.grace + SECOND
    # removes files whose rows were deleted before the kill
    trash = {row["key"] for row in rows_of(store, "trash")}
    before = stored_files(folder) | quarantined_files(folder)
    swept = store.sweep()
    assert stored_files(folder) == {row["key"] for row in rows_of(store, "frames")}
    assert stored_files(folder) | quarantined_files(folder) == before - trash, "nothing else is deleted"
    return swept


def kill_often(url: str, folder: Path, kills: int) -> int:
    """Check that all acknowledged frames are there; return their number."""
    rng = random.Random(kills)
    acknowledged = []
    for kill in range(kills):
        new = add_and_be_killed(url, folder, kill * 100_000, rng.uniform(0, 0.5))
        acknowledged += new
        store = Store.open(url, str(folder))
        # all of them are checked at the end, those of this kill at once
        check_store(store, folder, acknowledged if kill == kills - 1 else new)
        if kill % 5 == 4:
            check_swept(store, folder)
        store.close()
    assert len(acknowledged) > kills
    if url.startswith("sqlite"):
        connection = sqlite3.connect(url.removeprefix("sqlite:///"))
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        connection.close()
    return len(acknowledged)


@pytest.mark.slow
def test_what_was_acknowledged_is_there_after_a_kill(database_url: str, tmp_path: Path) -> None:
    kill_often(database_url, tmp_path / "frames", 3)


@pytest.mark.release
@pytest.mark.faults
@pytest.mark.timeout(5000)
def test_what_was_acknowledged_is_there_after_many_kills(database_url: str, tmp_path: Path, faults: Faults) -> None:
    kills = faults.count(8, 200)
    frames = kill_often(database_url, tmp_path / "frames", kills)
    faults.record(
        f"kill -9 of a program that adds frames from eight threads, {kind_of(database_url)}",
        tried=kills,
        lost=0,
        ended=f"{frames:,} frames there",
    )


def kind_of(database_url: str) -> str:
    return "SQLite" if database_url.startswith("sqlite") else "PostgreSQL"


@pytest.mark.slow
@pytest.mark.faults
@pytest.mark.timeout(5000)
def test_kills_while_frames_are_deleted_leave_files_and_rows_that_agree(
    database_url: str, tmp_path: Path, faults: Faults
) -> None:
    rng = random.Random(7)
    folder = tmp_path / "frames"
    kills = faults.count(4, 100)
    for kill in range(kills):
        add_and_be_killed(database_url, folder, kill * 100_000, rng.uniform(0.2, 0.8), deletes=True)
        store = Store.open(database_url, str(folder))
        check_store(store, folder, [])
        check_swept(store, folder)
        store.close()
    faults.record(
        f"kill -9 of a program that adds and deletes frames, {kind_of(database_url)}",
        tried=kills,
        lost=0,
        ended="files and rows agree",
    )


@pytest.mark.slow
@pytest.mark.faults
@pytest.mark.timeout(5000)
def test_a_kill_of_one_program_does_not_touch_what_another_adds(
    database_url: str, open_store, tmp_path: Path, faults: Faults
) -> None:
    kills = faults.count(3, 50)
    folder = tmp_path / "frames"
    store = open_store(database_url)
    stop = False

    def go_on(first: int) -> list[tuple[str, int, int, str]]:
        done = []
        number = first
        while not stop:
            frame = received("own", number, NOON + number * SECOND)
            row = store.add(frame, MEASURES, {"number": number})
            done.append(("own", row.id, number, crc(frame.jpeg)))
            if number % 20 == 0:
                store.sweep()
            number += 1
        return done

    rng = random.Random(3)
    acknowledged = []
    with ThreadPoolExecutor(4) as threads:
        own = [threads.submit(go_on, n * 10**6) for n in range(1, 5)]
        try:
            for kill in range(kills):
                acknowledged += add_and_be_killed(database_url, folder, kill * 100_000, rng.uniform(0, 0.5))
        finally:
            stop = True
        for one in own:
            acknowledged += one.result()
    check_store(store, folder, acknowledged)
    check_swept(store, folder)
    faults.record(
        f"kill -9 of one of two programs on a store, {kind_of(database_url)}",
        tried=kills,
        lost=0,
        ended=f"{len(acknowledged):,} frames there",
    )


@pytest.mark.release
@pytest.mark.faults
@pytest.mark.timeout(5000)
def test_what_was_acknowledged_is_there_after_postgresql_crashed(open_store, tmp_path: Path, faults: Faults) -> None:
    crashes = faults.count(3, 30)
    server: PostgreSQL = own_postgresql()
    try:
        server.start()
        store = open_store(server.new_database())
        acknowledged: list[tuple[str, int, int, str]] = []
        number = 0
        for _ in range(crashes):

            def add(number: int, start: float) -> None:
                # again and again until the frame is stored, as a camera does
                frame = received(f"camera{number % 3}", number, NOON + number * SECOND)
                while time.monotonic() - start < 90:
                    try:
                        row = store.add(frame, MEASURES, {"number": number})
                    except Duplicate as duplicate:
                        row = duplicate.row
                    except StorageError:
                        time.sleep(0.1)
                        continue
                    acknowledged.append((row.camera, row.id, number, crc(frame.jpeg)))
                    return

            with ThreadPoolExecutor(8) as threads:
                added = [threads.submit(add, n, time.monotonic()) for n in range(number, number + 400)]
                number += 400
                time.sleep(0.3)
                server.stop(signal.SIGQUIT)
                server.start()
                for one in added:
                    one.result()
            assert len(acknowledged) == number
            check_store(store, tmp_path / "frames", acknowledged)
        check_swept(store, tmp_path / "frames")
        faults.record(
            "PostgreSQL ended as in a crash while eight threads add",
            tried=crashes,
            lost=0,
            ended=f"{number:,} frames there, in service",
        )
    finally:
        server.remove()
