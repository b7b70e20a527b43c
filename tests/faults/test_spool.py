"""The device's spool, its files damaged, removed, and its disk full or gone."""

import contextlib
import datetime
import random
import shutil
import sqlite3
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import pytest

import rjpeg
from device.delivery import RecordOutbox
from device.delivery.outbox import Link
from device.frames import OutgoingFrame
from device.spool import DAMAGED, THINNED, Spool, SpoolError
from rjpeg.errors import StorageError
from tests.device.conftest import capture, recorder  # noqa: F401
from tests.device.outcomes import losses
from tests.faults.damage import damage, places_of_rows, touched
from tests.waiting import until

pytestmark = [pytest.mark.slow, pytest.mark.faults]

NOW = datetime.datetime(2026, 3, 4, 5, 6, 7, 89, tzinfo=datetime.UTC)
ROOM = 4_000_000
FILES = [*3 * ["frames.db"], *2 * ["frames.db-wal"], "sequences.json", "numbers", "reserve", "lock"]


class Server:
    """Takes everything, and remembers it."""

    name = "server"

    def __init__(self):
        self.taken = []

    def send(self, frame):
        self.taken.append(frame)
        return self.name

    def overhead(self, size, *, is_base=False):
        return 0

    def close(self):
        pass


def recorded(folder, chance, *, killed):
    """Fill a spool, of which some was delivered; return the frames that wait, by camera and number, and those gone."""
    spool = Spool(folder, ROOM)
    waiting, gone = {}, set()
    try:
        for number in range(chance.randrange(25, 40)):
            camera = chance.choice(("yard", "yard", "door"))
            metrics = None if chance.random() < 0.6 else f'{{"celsius":{chance.randrange(99)}}}'
            jpeg = chance.randbytes(chance.choice((0, 30, 900, 3000, 4040, 4100, 9000, 22_000)))
            when = NOW + datetime.timedelta(seconds=number)
            sequence = spool.append(camera, when, jpeg, metrics)
            waiting[camera, sequence] = OutgoingFrame(camera, sequence, when, jpeg, metrics)
            if chance.random() < 0.3 and (oldest := spool.oldest(camera)) is not None:
                spool.delivered(camera, oldest.sequence)
                gone.add(oldest[:2])
                del waiting[oldest[:2]]
            if chance.random() < 0.03:
                spool._contents.database.empty_log()
        if killed:
            # as kill -9 leaves it: the process's files, without what closing does
            copy = folder.with_name("copy")
            shutil.copytree(folder, copy)
    finally:
        spool.close()
    if killed:
        shutil.rmtree(folder)
        copy.rename(folder)
    return waiting, gone


def untouched(folder, waiting, spans):
    """Return the frames of which no page was damaged, by camera and number."""
    return {key for key, places in waiting.items() if not touched(places, spans)}


def where(folder):
    """Return where the bytes of each frame are, by camera and number."""
    copy = folder.with_name("looked-at")
    shutil.copytree(folder, copy)
    try:
        places = places_of_rows(copy, "frames.db", "frames")
        with contextlib.closing(sqlite3.connect(copy / "frames.db")) as db:
            found = db.execute("SELECT id, camera, sequence FROM frames")
            rows = {row: (camera, sequence) for row, camera, sequence in found}
        return {rows[row]: spans for row, spans in places.items()}
    finally:
        shutil.rmtree(copy)


def sent_by_a_program(folder, lost):
    """Start spool and outboxes, record one more frame, and wait until nothing waits; what the server got."""
    server = Server()
    spool = Spool(folder, ROOM)
    outboxes = {camera: RecordOutbox(Link(server), camera, spool) for camera in ("yard", "door")}
    try:
        number = outboxes["yard"].put(OutgoingFrame("yard", 0, NOW, b"after", None))
        assert set(spool.counts()) <= {"yard", "door"}, "no camera is invented"
        for outbox in outboxes.values():
            assert outbox.flush(20)
            assert outbox.failure is None
        until(lambda: spool.count == 0)
    finally:
        for outbox in outboxes.values():
            outbox.close()
        spool.close()
        lost += [(loss.camera, loss.frames) for loss in losses(spool, DAMAGED)]
    return server.taken, ("yard", number)


def try_damage(folder, seed):
    """Damage a spool once, and look at two starts after that; return how many frames were hit and saved."""
    chance = random.Random(seed)
    waiting, gone = recorded(folder, chance, killed=chance.random() < 0.7)
    places = where(folder)
    assert places.keys() == waiting.keys()
    spans = damage(folder, FILES, chance)
    must = untouched(folder, places, spans)
    lost: list[tuple[str | None, int]] = []
    taken, after = sent_by_a_program(folder, lost)
    found = {frame[:2]: frame for frame in taken}
    assert after not in waiting, "a number is never given twice"
    assert after not in gone, "a number is never given twice"
    assert found.pop(after).jpeg == b"after"
    missing = must - found.keys()
    assert not missing, (spans, missing)
    for key, frame in found.items():
        # one that was delivered before may come again
        assert key in gone or frame == waiting[key], "nothing goes out that is not what was recorded"
    # what was hit and could not be sent is told of, unless nothing is left of it but a hole
    again, second = sent_by_a_program(folder, lost)
    assert second[1] > after[1]
    assert [frame[:2] for frame in again] == [second], "a later start sends nothing again"
    for path in folder.iterdir():
        assert path.stat().st_mode & 0o077 == 0, "pictures are private"
    return len(waiting) - len(must), len(waiting.keys() & found.keys()) - len(must)


def test_after_any_damage_the_spool_opens_sends_what_is_whole_and_goes_on(faults, tmp_path):
    tries = faults.count(60, 3000)
    hit = saved = 0
    # in memory if need be: what counts is what is in the files, and waiting for the disk takes most of the time
    memory = Path("/dev/shm")
    for seed in range(tries):
        folder = Path(tempfile.mkdtemp(dir=memory if memory.is_dir() else tmp_path)) / "spool"
        try:
            more = try_damage(folder, seed)
        finally:
            shutil.rmtree(folder.parent)
        hit, saved = hit + more[0], saved + more[1]
    faults.record(
        "bits, sectors, cuts and removed files of a spool",
        tried=tries,
        lost=0,
        ended=f"in service; of {hit} frames whose pages were hit {saved} were saved; none was sent changed",
    )


@pytest.fixture
def disk(tmp_path):
    """Give a disk of 3 MB of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a disk needs root")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=False)


def remount(disk, how):
    subprocess.run(["mount", "-o", f"remount,{how}", str(disk)], check=True)


def drained(spool):
    found = []
    while (frame := spool.oldest("yard")) is not None:
        found.append(frame)
        spool.delivered("yard", frame.sequence)
    return found


def test_a_disk_that_is_full_or_read_only_loses_no_frame_that_was_kept(faults, disk):
    tries = faults.count(20, 200)
    chance = random.Random(5)
    spools = []

    def start():
        spools.append(Spool(disk / "spool", 20_000_000))
        return spools[-1]

    spool = start()
    kept, refused, delivered = {}, 0, set()
    others = disk / "others"
    for _ in range(tries):
        if chance.random() < 0.2:
            spool.close()
            remount(disk, "ro")
            with pytest.raises(StorageError, match="can't write spool"):
                start()
            remount(disk, "rw")
            spool = start()
        else:
            with others.open("ab", buffering=0) as file, contextlib.suppress(OSError):
                while True:
                    file.write(bytes(4096))
        for _ in range(chance.randrange(1, 5)):
            jpeg = chance.randbytes(chance.choice((300, 9000, 30_000)))
            try:
                sequence = spool.append("yard", NOW, jpeg)
            except SpoolError:
                refused += 1
                continue
            assert sequence not in kept, "a number is never given twice"
            kept[sequence] = jpeg
        others.unlink(missing_ok=True)
        if chance.random() < 0.3:
            spool.close()
            spool = start()
        if chance.random() < 0.8 and (frame := spool.oldest("yard")) is not None:
            assert frame.jpeg == kept[frame.sequence]
            spool.delivered("yard", frame.sequence)
            delivered.add(frame.sequence)
    rest = drained(spool)
    spool.close()
    assert all(frame.jpeg == kept[frame.sequence] for frame in rest)
    thinned = [loss.frames for each in spools for loss in losses(each, THINNED)]
    missing = kept.keys() - delivered - {frame.sequence for frame in rest}
    lost = len(missing) - sum(thinned)
    faults.record(
        "the spool's disk full, or read-only at a start",
        tried=tries,
        lost=lost,
        ended=f"in service; of {len(kept)} frames {sum(thinned)} were given up for newer ones, as the policy says, "
        f"and {refused} more refused; all of these counted",
    )
    assert lost == 0
    assert max(missing) < max(kept), "the newest is there"


def test_files_removed_while_the_spool_is_open_cost_no_frame_at_a_power_cut(faults, tmp_path):
    tries = faults.count(30, 300)
    chance = random.Random(6)
    folder = tmp_path / "spool"
    spool = Spool(folder, ROOM)
    waiting = {}
    for attempt in range(tries):
        names = chance.sample(sorted(path.name for path in folder.iterdir()), chance.choice((1, 1, 2, 4)))
        for name in names:
            (folder / name).unlink()
        jpeg = chance.randbytes(chance.choice((30, 9000)))
        sequence = spool.append("yard", NOW, jpeg)
        assert sequence not in waiting
        waiting[sequence] = jpeg
        copy = tmp_path / "copy"
        shutil.copytree(folder, copy)
        with contextlib.closing(Spool(copy, ROOM)) as after:
            assert {frame.sequence: frame.jpeg for frame in drained(after)} == waiting, (attempt, names)
            assert after.append("yard", NOW, b"x") > max(waiting)
        shutil.rmtree(copy)
        if len(waiting) > 20:
            assert {frame.sequence: frame.jpeg for frame in drained(spool)} == waiting
            waiting = {}
    spool.close()
    faults.record(
        "files of the spool removed while it is open, then a power cut", tried=tries, lost=0, ended="in service"
    )


def test_the_program_starts_after_damage_and_sends_what_is_whole(faults, tmp_path, capture, recorder):  # noqa: F811
    tries = faults.count(3, 20)
    picture = rjpeg.Encoder().encode(np.full((40, 60, 3), 90, np.uint8), quality=30)
    for seed in range(tries):
        chance = random.Random(seed)
        folder = tmp_path / str(seed)
        with contextlib.closing(Spool(folder, 10_000_000)) as spool:
            for _ in range(20):
                spool.append("camera", NOW, picture + chance.randbytes(5000))
        places = where(folder)
        must = untouched(folder, places, damage(folder, FILES, chance))
        config = tmp_path / "c.yaml"
        config.write_text(
            f"cameras: [{{source: sample}}]\nencoding: {{quality: 30}}\ndelivery: {{server: '{recorder.url}', "
            f"policy: record, timeout_seconds: 5, spool: {{folder: {folder}}}}}\n"
        )
        recorder.requests.clear()
        result = capture("--config", config, "--frames", 2, "--json")
        assert result.returncode == 0, result.stderr
        assert "Traceback" not in result.stderr
        numbers = [int(headers["Rjpeg-Sequence"]) for _, headers, _ in recorder.requests]
        assert {("camera", number) for number in numbers} >= must
        assert sum(number >= 20 for number in numbers) == 2, "and goes on"
        assert len(set(numbers)) == len(numbers)
    faults.record("capture.py started with a damaged spool", tried=tries, lost=0, ended="in service")
