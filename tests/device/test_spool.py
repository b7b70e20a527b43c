"""Frames on disk until the server has them."""

import contextlib
import datetime
import errno
import itertools
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, precondition, rule

from device.spool import DAMAGED, DISK_FULL, MIN_BYTES, THINNED, Spool, SpoolError
from device.spool.numbers import STEP
from rjpeg.errors import StorageError
from tests.device.outcomes import losses

ROOT = Path(__file__).resolve().parents[2]
MB = 1_000_000


@pytest.fixture
def spool(tmp_path):
    with contextlib.closing(Spool(tmp_path / "spool", 10 * MB)) as spool:
        yield spool


def sqlite_of(spool):
    """The connection of a spool's database, for what can't be done to it from outside."""
    return spool._contents.database._db


def drain(spool, camera):
    """Everything that waits, in order, and then no longer does."""
    frames = []
    while (frame := spool.oldest(camera)) is not None:
        frames.append(frame)
        spool.delivered(camera, frame.sequence)
    return frames


def test_frames_come_out_as_they_went_in_in_order_camera_by_camera(spool, moment):
    for number in range(5):
        assert spool.append("a", moment + datetime.timedelta(seconds=number), b"a%d" % number) == number
        assert spool.append("b", moment, b"b%d" % number, '{"temperature":4}') == number
    assert (spool.count, spool.bytes, spool.waiting("a"), spool.waiting("c")) == (10, 20, 5, 0)
    a = drain(spool, "a")
    assert [(f.camera, f.sequence, f.jpeg, f.metrics) for f in a] == [("a", n, b"a%d" % n, None) for n in range(5)]
    assert [f.time for f in a] == [moment + datetime.timedelta(seconds=n) for n in range(5)]
    assert [f.metrics for f in drain(spool, "b")] == ['{"temperature":4}'] * 5
    assert (spool.count, spool.bytes) == (0, 0)


def test_the_order_is_that_of_arrival_though_the_clock_jumps_back(spool, moment):
    for hours in (5, -100_000, 3):
        spool.append("a", moment + datetime.timedelta(hours=hours), b"%d" % hours)
    assert [frame.jpeg for frame in drain(spool, "a")] == [b"5", b"-100000", b"3"]


def test_numbers_go_on_after_all_was_delivered_and_the_program_started_anew(tmp_path, moment):
    for start in range(3):
        spool = Spool(tmp_path, 10 * MB)
        assert [spool.append("a", moment, b"x") for _ in range(2)] == [2 * start, 2 * start + 1]
        drain(spool, "a")
        spool.close()


def test_a_second_program_is_told_that_the_spool_is_in_use(spool, tmp_path):
    with pytest.raises(StorageError, match=r"spool .* is in use by another program"):
        Spool(tmp_path / "spool", 10 * MB)


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="Not a directory"):
        Spool(tmp_path / "file" / "spool", 10 * MB)
    with pytest.raises(StorageError, match="max_bytes 5 is too little"):
        Spool(tmp_path / "spool", 5)


def test_a_closed_spool_says_so(tmp_path, moment):
    spool = Spool(tmp_path, 10 * MB)
    spool.close()
    spool.close()
    with pytest.raises(StorageError, match="is closed"):
        spool.append("a", moment, b"x")


@pytest.mark.parametrize(
    ("max_bytes", "size"),
    [
        pytest.param(MIN_BYTES, 15_000, marks=pytest.mark.slow),
        pytest.param(3 * MB, 9_000, marks=pytest.mark.release),
        pytest.param(30 * MB, 150_000, marks=pytest.mark.release),
    ],
)
def test_it_never_takes_more_of_the_disk_than_it_may_and_thins_what_is_old(tmp_path, moment, max_bytes, size):
    spool = Spool(tmp_path, max_bytes)
    number = 4 * max_bytes // size
    frame = os.urandom(size)
    for _ in range(number):
        for camera in ("a", "b"):
            spool.append(camera, moment, frame)
        on_disk = sum(path.stat().st_size for path in tmp_path.iterdir())
        assert on_disk <= max_bytes
        assert spool.disk_bytes <= on_disk
    assert sum(loss.frames for loss in losses(spool, THINNED)) + spool.count == 2 * number
    assert spool.bytes > max_bytes * 0.3, "most of the room is used"
    assert abs(spool.waiting("a") - spool.waiting("b")) <= 2, "cameras suffer alike"
    for camera in ("a", "b"):
        kept = [frame.sequence for frame in drain(spool, camera)]
        gaps = [later - earlier for earlier, later in itertools.pairwise(kept[1:])]
        newest = kept[-len(kept) // 4 :]
        assert newest == list(range(number - len(newest), number)), "the newest are all there"
        assert kept[0] < number // 2, "the oldest time is still covered"
        smoothed = sorted(gaps, reverse=True)
        assert all(abs(a - b) <= max(1, b) for a, b in zip(gaps, smoothed, strict=True)), "thinner only with age"
    spool.close()


def test_a_frame_that_is_larger_than_all_the_room_costs_no_other_frame(tmp_path, moment):
    spool = Spool(tmp_path, MIN_BYTES)
    spool.append("a", moment, b"small")
    with pytest.raises(SpoolError, match="too large") as caught:
        spool.append("a", moment, bytes(MIN_BYTES))
    assert caught.value.reason == DISK_FULL
    assert [frame.jpeg for frame in drain(spool, "a")] == [b"small"]
    spool.close()


@pytest.mark.slow
def test_space_is_used_again_and_given_back(tmp_path, moment):
    spool = Spool(tmp_path, 100 * MB)
    for _ in range(3):
        for _ in range(30):
            spool.append("a", moment, bytes(MB))
        full = spool.disk_bytes
        assert full < 50 * MB
        drain(spool, "a")
        assert spool.disk_bytes < 20 * MB
    spool.close()


@pytest.mark.slow
def test_less_room_than_before_is_kept_to_as_well(tmp_path, moment):
    spool = Spool(tmp_path, 40 * MB)
    for _ in range(25):
        spool.append("a", moment, bytes(MB))
    spool.close()
    spool = Spool(tmp_path, 10 * MB)
    spool.append("a", moment, bytes(MB))
    assert spool.bytes < 10 * MB
    drain(spool, "a")
    assert spool.disk_bytes < 10 * MB
    spool.close()


APPENDER = """
import datetime, os, sys
from device.spool import Spool
spool = Spool(sys.argv[1], int(sys.argv[2]))
print("open", flush=True)
now = datetime.datetime.now(datetime.UTC)
while True:
    for _ in range(2):
        os.write(1, b"a %d\\n" % spool.append("a", now, bytes(5000)))
    sequence = spool.oldest("a").sequence
    os.write(1, b"d %d\\n" % sequence)
    spool.delivered("a", sequence)
"""


# more than is appended, however fast the machine: a full spool gives frames up
ROOM = 2000 * MB


def kill_again_and_again(folder, times, seed):
    """Kill a process that appends and deletes; what it acknowledged has to be there, each number once."""
    acknowledged, delivered = set(), set()
    for number in range(times):
        process = subprocess.Popen(
            [sys.executable, "-c", APPENDER, str(folder), str(ROOM)], cwd=ROOT, stdout=subprocess.PIPE
        )
        assert process.stdout.readline() == b"open\n"
        time.sleep((seed + number) * 0.618034 % 1 * 0.06)
        process.send_signal(signal.SIGKILL)
        said, _ = process.communicate()
        # a line cut short was not said
        for line in said[: said.rfind(b"\n") + 1].decode().splitlines():
            what, sequence = line.split()
            if what == "d":
                delivered.add(int(sequence))
                continue
            assert int(sequence) not in acknowledged, "a number is given once"
            acknowledged.add(int(sequence))
    with contextlib.closing(Spool(folder, ROOM)) as spool:
        kept = {frame.sequence for frame in drain(spool, "a")}
    assert acknowledged - delivered <= kept
    assert not list(folder.glob("*.damaged*"))
    assert len(acknowledged) > times
    return len(acknowledged)


@pytest.mark.slow
def test_every_frame_that_was_acknowledged_is_there_after_a_kill(tmp_path):
    kill_again_and_again(tmp_path, 20, seed=1)


@pytest.mark.release
@pytest.mark.faults
def test_every_frame_that_was_acknowledged_is_there_after_many_kills(tmp_path, faults):
    kills = faults.count(40, 200)
    frames = kill_again_and_again(tmp_path, kills, seed=5)
    faults.record("kill -9 of a program that fills a spool", tried=kills, lost=0, ended=f"{frames:,} frames there")


def damage(path):
    path.write_bytes(b"no database" * 1000)


def test_a_damaged_database_is_set_aside_and_numbers_go_on_above(tmp_path, moment, caplog):
    last = -1
    for _ in range(5):
        spool = Spool(tmp_path, 10 * MB)
        first = spool.append("a", moment, b"x")
        assert first > last
        last = spool.append("a", moment, b"x")
        assert last == first + 1
        spool.close()
        damage(tmp_path / "frames.db")
    assert "is set aside as frames.db.salvage-" in caplog.text
    assert len(list(tmp_path.glob("frames.db.damaged-*"))) == 3, "no more than three are kept"
    assert last < 10 * STEP


def test_a_database_that_is_damaged_while_it_is_used_costs_only_what_is_damaged(tmp_path, moment):
    spool = Spool(tmp_path, 10 * MB)
    for _ in range(50):
        spool.append("a", moment, bytes(20_000))
    spool.close()
    spool = Spool(tmp_path, 10 * MB)
    with (tmp_path / "frames.db").open("r+b") as file:
        file.seek(100_000)
        file.write(b"\xff" * 200_000)
    sqlite_of(spool).execute("PRAGMA shrink_memory").fetchall()
    before = spool.append("b", moment, b"before or after")
    whole = drain(spool, "a")
    assert len(whole) in range(35, 45), "what was not overwritten is all there"
    assert {frame.jpeg for frame in whole} == {bytes(20_000)}
    lost = losses(spool, DAMAGED)
    assert sum(loss.frames for loss in lost) == 50 - len(whole)
    assert {loss.camera for loss in lost} == {"a"}
    assert [frame.jpeg for frame in drain(spool, "b")] == [b"before or after"]
    assert list(tmp_path.glob("frames.db.damaged-*"))
    assert spool.append("a", moment, b"x") == 50
    assert spool.append("b", moment, b"x") == before + 1
    spool.close()


def test_a_damaged_database_that_cannot_be_set_aside_now_is_later(tmp_path, moment, monkeypatch):
    spool = Spool(tmp_path, 10 * MB)
    for _ in range(50):
        spool.append("a", moment, bytes(20_000))
    spool.close()
    with (tmp_path / "frames.db").open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * 900_000)
    real = Path.rename

    def read_only(*_):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    with contextlib.suppress(StorageError), monkeypatch.context() as patch:
        patch.setattr(Path, "rename", read_only)
        spool = Spool(tmp_path, 10 * MB)
        while True:
            spool.append("a", moment, bytes(20_000))
    assert Path.rename is real
    assert not list(tmp_path.glob("frames.db.damaged-*"))
    with contextlib.suppress(StorageError):
        # where it wasn't found damaged before it was opened
        spool = Spool(tmp_path, 10 * MB)
    assert spool.append("a", moment, b"x") >= 50
    assert list(tmp_path.glob("frames.db.damaged-*"))
    spool.close()


def test_numbers_go_on_above_when_their_file_is_lost_as_well(tmp_path, moment):
    spool = Spool(tmp_path, 10 * MB)
    last = [spool.append("a", moment, b"x") for _ in range(10)][-1]
    spool.close()
    damage(tmp_path / "frames.db")
    damage(tmp_path / "sequences.json")
    damage(tmp_path / "numbers")
    for _ in range(2):
        spool = Spool(tmp_path, 10 * MB)
        for camera in ("a", "new"):
            assert last < spool.append(camera, moment, b"x") < 10**15
        spool.close()


def test_a_lost_file_of_numbers_alone_changes_nothing(tmp_path, moment):
    spool = Spool(tmp_path, 10 * MB)
    spool.append("a", moment, b"x")
    spool.close()
    (tmp_path / "sequences.json").unlink()
    spool = Spool(tmp_path, 10 * MB)
    assert spool.append("a", moment, b"x") == 1
    spool.close()


@pytest.fixture
def small_disk(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(disk)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("mounting a small disk needs root")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.slow
def test_on_a_full_disk_frames_are_thinned_and_deliveries_go_on(small_disk, moment):
    spool = Spool(small_disk / "spool", 20 * MB)
    for _ in range(500):
        spool.append("a", moment, os.urandom(20_000))
    assert sum(loss.frames for loss in losses(spool, THINNED)) + spool.count == 500
    kept = [frame.sequence for frame in drain(spool, "a")]
    assert kept == sorted(kept)
    assert kept[-1] == 499
    spool.close()
    spool = Spool(small_disk / "spool", 20 * MB)
    assert spool.append("a", moment, b"x") == 500
    spool.close()


@pytest.mark.slow
def test_a_disk_that_others_fill_costs_no_frame_that_is_kept_and_is_used_again_when_there_is_room(small_disk, moment):
    spool = Spool(small_disk / "spool", 20 * MB)
    kept = [spool.append("a", moment, os.urandom(20_000)) for _ in range(20)]
    with (small_disk / "others").open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))
    reasons = set()
    for _ in range(200):
        try:
            kept.append(spool.append("a", moment, os.urandom(20_000)))
        except SpoolError as error:
            reasons.add(error.reason)
    assert reasons <= {DISK_FULL}
    assert spool.count > 3, "what is kept is not given up for what finds no room"
    delivered = [frame.sequence for frame in drain(spool, "a")]
    assert delivered == sorted(set(delivered) & set(kept))
    (small_disk / "others").unlink()
    sequence = spool.append("a", moment, b"x")
    assert sequence > kept[-1]
    spool.close()


def test_a_database_that_cannot_be_written_is_an_error_and_not_set_aside(tmp_path, moment, monkeypatch):
    spool = Spool(tmp_path, 10 * MB)
    spool.append("a", moment, b"x")
    sqlite_of(spool).execute("PRAGMA query_only = ON")
    with pytest.raises(SpoolError, match="can't write spool"):
        spool.append("a", moment, b"x")
    sqlite_of(spool).execute("PRAGMA query_only = OFF")
    assert spool.append("a", moment, b"x") == 2, "a number is not used again, whatever became of its frame"
    assert not list(tmp_path.glob("*.damaged*"))
    spool.close()


def test_the_file_is_an_ordinary_database_once_the_program_has_ended(tmp_path, moment):
    spool = Spool(tmp_path, 10 * MB)
    spool.append("a", moment, b"x")
    spool.close()
    with contextlib.closing(sqlite3.connect(tmp_path / "frames.db")) as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert db.execute("SELECT camera, sequence, jpeg FROM frames").fetchall() == [("a", 0, b"x")]


class Model(RuleBasedStateMachine):
    """A spool is a list of frames for each camera, and a counter for each that only grows."""

    frames = Bundle("frames")

    @initialize()
    def begin(self):
        self.folder = Path(tempfile.mkdtemp())
        self.given_up = 0
        self.open()
        self.waiting = {"a": {}, "b": {}}
        self.next = {"a": 0, "b": 0}
        self.jumped = {"a": False, "b": False}

    def open(self):
        self.spool = Spool(self.folder, MIN_BYTES)

    @rule(
        camera=st.sampled_from("ab"),
        jpeg=st.binary(max_size=50),
        extra=st.sampled_from([0, 0, 100, 70_000]),
        seconds=st.integers(-(10**10), 10**10),
        metrics=st.none() | st.text(max_size=10).filter(lambda text: text.isprintable()),
    )
    def append(self, camera, jpeg, extra, seconds, metrics):
        when = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC) + datetime.timedelta(seconds=seconds)
        jpeg += bytes(extra)
        sequence = self.spool.append(camera, when, jpeg, metrics)
        assert sequence >= self.next[camera] if self.jumped[camera] else sequence == self.next[camera]
        self.next[camera], self.jumped[camera] = sequence + 1, False
        self.waiting[camera][sequence] = (camera, sequence, when, jpeg, metrics)
        self.given_up += sum(loss.frames for loss in losses(self.spool, THINNED))
        if self.given_up:
            self.forget_what_was_given_up()

    def forget_what_was_given_up(self):
        gone = 0
        for camera, frames in self.waiting.items():
            kept, after = [], -1
            while (frame := self.spool.oldest(camera, after)) is not None:
                kept.append(frame.sequence)
                after = frame.sequence
            assert set(kept) <= set(frames)
            for sequence in set(frames) - set(kept):
                gone += 1
                del frames[sequence]
        assert gone == self.given_up
        self.given_up = 0

    @rule(camera=st.sampled_from("ab"))
    def deliver(self, camera):
        frame = self.spool.oldest(camera)
        if frame is not None:
            self.spool.delivered(camera, frame.sequence)
            del self.waiting[camera][frame.sequence]

    @rule(camera=st.sampled_from("ab"), sequence=st.integers(-2, 3))
    def deliver_what_may_not_be_there(self, camera, sequence):
        if all(sequence < there for there in self.waiting[camera]):
            self.spool.delivered(camera, sequence)

    @rule()
    def start_anew(self):
        self.spool.close()
        self.open()

    @precondition(lambda self: self.next["a"] > 0)
    @rule(kept=st.booleans())
    def power_fails(self, kept):
        """A copy of the files as they are, opened elsewhere, has everything, with or without what is not flushed."""
        copy = Path(tempfile.mkdtemp())
        if not kept:
            self.jumped = {"a": True, "b": True}
        for name in ("frames.db", "frames.db-wal", "sequences.json") + ("numbers",) * kept:
            if (self.folder / name).exists():
                shutil.copy(self.folder / name, copy)
        self.spool.close()
        shutil.rmtree(self.folder)
        self.folder = copy
        self.open()

    @invariant()
    def is_what_the_model_says(self):
        for camera, frames in self.waiting.items():
            oldest = self.spool.oldest(camera)
            assert oldest == (frames[min(frames)] if frames else None)
            assert self.spool.waiting(camera) == len(frames)
        assert self.spool.bytes == sum(len(frame[3]) for frames in self.waiting.values() for frame in frames.values())
        assert sum(path.stat().st_size for path in self.folder.iterdir()) <= MIN_BYTES

    def teardown(self):
        self.spool.close()
        shutil.rmtree(self.folder)


TestModel = Model.TestCase
TestModel.settings = settings(
    max_examples=15, stateful_step_count=40, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
