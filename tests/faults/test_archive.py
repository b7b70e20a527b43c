"""Faults of the server's database and files: whatever happens to them, nothing acknowledged is lost or deleted."""

import collections
import contextlib
import random
import shutil
import sqlite3
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import requests

from rjpeg.errors import JpegError, StorageError
from server.rebuild import rebuild
from server.store import Database, Store, open_files, tend
from server.store.identity import adopt
from tests.faults.record import Faults
from tests.server.stores import MEASURES, NOON, SECOND, received
from tests.server.test_identity import lose, mount, put_in_place
from tests.service import Service

pytestmark = [pytest.mark.slow, pytest.mark.faults]

ROOT = Path(__file__).resolve().parents[2]
Name = tuple[str, int, Any]


def measure(content: bytes, _bases: Sequence[bytes]) -> dict[str, Any]:
    """Return measures for the files of these tests, as a decoder would. Raises JpegError."""
    if content[:5] not in (b"gate ", b"yard "):
        raise JpegError("no JPEG")
    return MEASURES | {"bytes": len(content)}


def name_of(frame: Any) -> Name:
    return frame.camera, frame.sequence, frame.capture_time


def fill(store: Store, count: int, first: int = 0) -> dict[Name, bytes]:
    frames = [received(("gate", "yard")[n % 2], n, NOON + n * SECOND) for n in range(first, first + count)]
    for frame in frames:
        store.add(frame, MEASURES, {"n": frame.sequence})
    return {name_of(frame): frame.jpeg for frame in frames}


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[Name, bytes]]:
    """What a killed program leaves, with its log not merged yet; beside it an older backup and another store."""
    folder = tmp_path_factory.mktemp("killed")
    store = Store.open(f"sqlite:///{folder}/store.sqlite3", str(folder / "frames"))
    frames = fill(store, 30)
    put_in_place(folder / "store.sqlite3", folder / "backup.sqlite3")
    store.close()
    store = Store.open(f"sqlite:///{folder}/store.sqlite3", str(folder / "frames"))
    frames |= fill(store, 10, 30)
    left = tmp_path_factory.mktemp("left") / "left"
    shutil.copytree(folder, left)
    store.close()
    other = Store.open(f"sqlite:///{left}/other.sqlite3", str(left / "others"))
    fill(other, 4, 1000)
    other.close()
    return left, frames


# --- damages; each returns what it did, and the files whose content it changed


def some_file(folder: Path, rng: random.Random) -> Path:
    """Choose a part of the database, the mark, or a frame's file."""
    database = [folder / f"store.sqlite3{part}" for part in ("", "", "", "-wal", "-wal", "-shm")]
    frames = sorted(folder.glob("frames/*/*/*.jpg"))
    found = [*database, folder / "frames" / "rjpeg-store.json", rng.choice(frames), rng.choice(frames)]
    return rng.choice([path for path in found if path.exists() and path.stat().st_size])


def flip(folder: Path, rng: random.Random) -> str:
    path = some_file(folder, rng)
    content = bytearray(path.read_bytes())
    for _ in range(rng.choice([1, 1, 8, 64])):
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    path.write_bytes(content)
    return "bits flipped"


def zero(folder: Path, rng: random.Random) -> str:
    path = some_file(folder, rng)
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(512 * rng.randrange(-(-size // 512)))
        file.write(bytes(min(512 * rng.choice([1, 8, 64]), size - file.tell())))
    return "sectors zeroed"


def cut(folder: Path, rng: random.Random) -> str:
    path = some_file(folder, rng)
    with path.open("r+b") as file:
        file.truncate(rng.randrange(path.stat().st_size))
    return "cut"


def remove(folder: Path, rng: random.Random) -> str:
    parts = rng.choice([[""], ["-wal"], ["-shm"], ["-wal", "-shm"], ["", "-wal", "-shm"]])
    for part in parts:
        (folder / f"store.sqlite3{part}").unlink(missing_ok=True)
    return "parts of the database removed"


def remove_mark(folder: Path, rng: random.Random) -> str:
    (folder / "frames" / "rjpeg-store.json").unlink()
    if rng.random() < 0.5:
        lose(folder)
    return "mark removed"


def foreign_mark(folder: Path, rng: random.Random) -> str:
    shutil.copy(folder / "others" / "rjpeg-store.json", folder / "frames" / "rjpeg-store.json")
    return "mark of another store"


def swap_cameras(folder: Path, rng: random.Random) -> str:
    frames = folder / "frames"
    (frames / "gate").rename(frames / "aside")
    (frames / "yard").rename(frames / "gate")
    (frames / "aside").rename(frames / "yard")
    return "cameras' folders swapped"


def swap_stores(folder: Path, rng: random.Random) -> str:
    (folder / "frames").rename(folder / "aside")
    (folder / "others").rename(folder / "frames")
    (folder / "aside").rename(folder / "others")
    return "folders of two stores swapped"


def swap_databases(folder: Path, rng: random.Random) -> str:
    put_in_place(folder / rng.choice(["other.sqlite3", "backup.sqlite3"]), folder / "store.sqlite3")
    return "another or an older database"


def no_disk(folder: Path, rng: random.Random) -> str:
    (folder / "frames").rename(folder / "away")
    (folder / "frames").mkdir()
    return "an empty folder in place of the files"


DAMAGES: list[Callable[[Path, random.Random], str]] = [
    *[flip] * 3,
    *[zero] * 3,
    *[cut] * 2,
    *[remove] * 2,
    remove_mark,
    foreign_mark,
    swap_cameras,
    swap_stores,
    swap_databases,
    no_disk,
]


def contents(folder: Path) -> collections.Counter[int]:
    """Return the CRCs of all frames' files, wherever they are."""
    return collections.Counter(zlib.crc32(path.read_bytes()) for path in folder.rglob("*.jpg"))


def serve_for_a_day(folder: Path) -> str:
    """Do all that a service does: start, store a frame, tend for a day, end. Return how it ended."""
    try:
        store = Store.open(f"sqlite:///{folder}/store.sqlite3", str(folder / "frames"))
    except StorageError as error:
        return "refused to start" if len(str(error)) > 40 else "no message"
    ended = "in service"
    try:
        with contextlib.closing(store):
            now = store.now()
            for hours in (0, 1, 3, 24):
                store.now = lambda hours=hours: now + hours * 3600 * SECOND
                tend(store, max_age=3650 * 24 * 3600 * SECOND, max_bytes=10**12)
            row = store.add(received("gate", 5000, NOON), MEASURES, None)
            assert store.jpeg(row) == received("gate", 5000, NOON).jpeg
            store.files.remove([row.key])
            if store.quarantined is not None and store.quarantined.files:
                ended = "files set aside"
            for camera in ("gate", "yard"):
                for each in store.frames(camera):
                    each.record()
            store.ping()
    except StorageError:
        return "said that it is not ready"
    return ended


def check_rebuilt(folder: Path, frames: dict[Name, bytes], intact: collections.Counter[int]) -> None:
    """Make the database again after a refused start, and check that every frame with a whole file is back."""
    lose(folder)
    files = open_files(str(folder / "frames"))
    with contextlib.suppress(FileNotFoundError):
        # the message says to do so if the mark is damaged
        (folder / "frames" / "rjpeg-store.json").unlink()
    database = Database(f"sqlite:///{folder}/store.sqlite3")
    adopt(database, files)
    with contextlib.closing(Store(database, files)) as store:
        rebuild(store, measure)
        assert rebuild(store, measure).made == 0
        found = {name_of(row): row for camera in store.cameras() for row in store.frames(camera.name, limit=1000)}
        for name, content in frames.items():
            if intact[zlib.crc32(content)]:
                assert store.jpeg(found[name]) == content
        for name in found.keys() & frames.keys():
            assert store.jpeg(found[name]) == frames[name], "mixed up"


def back_in_place(folder: Path) -> None:
    """Undo what was done to the folders, as the message advises."""
    frames = folder / "frames"
    if (folder / "away").exists():
        assert [path.name for path in frames.iterdir()] == [], "nothing below a disk that is not mounted"
        frames.rmdir()
        (folder / "away").rename(frames)
    elif not any(frames.glob("**/yard/*/*-30-*.jpg")) and any((folder / "others").glob("**/*-30-*.jpg")):
        swap_stores(folder, random.Random())
    if any(frames.glob("**/gate/*/*-1-*.jpg")):
        for camera in frames.glob("**/gate"):
            if any(camera.glob("*/*-1-*.jpg")):
                swap_cameras_of(camera.parent)


def swap_cameras_of(folder: Path) -> None:
    for source, target in (("gate", "aside"), ("yard", "gate"), ("aside", "yard")):
        if (folder / source).exists():
            (folder / source).rename(folder / target)


def test_damages_of_database_and_files_delete_nothing_and_lose_no_whole_frame(
    killed: tuple[Path, dict[Name, bytes]], tmp_path: Path, faults: Faults
) -> None:
    left, frames = killed
    ends: collections.Counter[str] = collections.Counter()
    count, lost = faults.count(24, 300), 0
    for number in range(count):
        rng = random.Random(number)
        folder = tmp_path / str(number)
        shutil.copytree(left, folder)
        # the first time without damage
        chosen = [rng.choice(DAMAGES)] if number else []
        if chosen and chosen[0] in DAMAGES[:10] and rng.random() < 0.3:
            chosen.append(rng.choice(DAMAGES[:10]))
        done = [damage(folder, rng) for damage in chosen]
        before = contents(folder)
        ends[serve_for_a_day(folder)] += 1
        after = contents(folder)
        lost += sum((before - after).values())
        assert after >= before, (number, done, "a file was deleted or changed")
        back_in_place(folder)
        check_rebuilt(folder, frames, after)
        shutil.rmtree(folder)
    assert "no message" not in ends
    ended = ", ".join(f"{what} {times}" for what, times in ends.most_common())
    faults.record("damage to the server's database or files", tried=count, lost=lost, ended=ended)


# --- the service


class Cameras:
    """Two cameras that send to a service, and the records and files that it acknowledged, by camera and sequence."""

    def __init__(self, service: Service, content: bytes) -> None:
        self.service = service
        self.acknowledged: dict[tuple[str, int], bytes] = {}
        self._content = content
        self._number = 0

    def send(self, count: int = 1) -> list[int]:
        """Send frames with different files; return the statuses of the answers."""
        statuses = []
        for _ in range(count):
            self._number += 1
            camera = f"c{self._number % 2}"
            # bytes after the end of the picture do not belong to it
            content = self._content + str(self._number).encode()
            headers = {"Content-Type": "image/jpeg", "Rjpeg-Sequence": str(self._number)}
            answer = requests.post(self.service.post_url(camera), data=content, headers=headers, timeout=60)
            statuses.append(answer.status_code)
            if answer.status_code in (200, 201):
                self.acknowledged[camera, self._number] = content
        return statuses

    def lost(self) -> int:
        """Return how many acknowledged frames are missing or changed."""
        found = {}
        for camera in ("c0", "c1"):
            for record in self.service.frames(camera):
                found[camera, record["sequence"]] = self.service.jpeg(record)
        return sum(found.get(name) != content for name, content in self.acknowledged.items())


def ready(service: Service) -> int:
    return service.get("/readyz").status_code


def run_rebuild(data: Path, *arguments: str) -> None:
    command = [sys.executable, "-m", "server", "rebuild", "--data", str(data), *arguments]
    subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=True)


def refusal(data: Path, *arguments: str) -> str:
    """Return why a service does not start."""
    command = [sys.executable, "-m", "server", "--listen", "127.0.0.1:0", "--data", str(data), *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    return done.stderr


def test_a_database_that_is_lost_under_a_service_is_made_again(start, jpeg: bytes, tmp_path, faults) -> None:
    count, lost = faults.count(1, 10), 0
    for number in range(count):
        data = tmp_path / str(number)
        cameras = Cameras(start(data=data), jpeg)
        assert cameras.send(10) == [201] * 10
        lose(data, "server.sqlite3")
        assert cameras.send(2) == [503, 503]
        assert ready(cameras.service) == 503
        if number % 2:
            # it refuses to start again, and its files stay
            cameras.service.stop()
            assert "python -m server rebuild" in refusal(data)
            run_rebuild(data)
            cameras.service = start(data=data)
        else:
            run_rebuild(data)
        assert ready(cameras.service) == 200
        assert cameras.send(2) == [201, 201]
        lost += cameras.lost()
        cameras.service.stop()
    assert lost == 0
    faults.record(
        "database removed under the service, or before its start; rebuild",
        tried=count,
        lost=lost,
        ended="not ready or refused to start; in service after rebuild",
    )


def test_a_database_that_is_replaced_under_a_service_mixes_nothing_up(start, jpeg, tmp_path, faults) -> None:
    count, lost = faults.count(1, 10), 0
    other = tmp_path / "other"
    stranger = Cameras(start(data=other), jpeg)
    assert stranger.send(5) == [201] * 5
    for number in range(count):
        data = tmp_path / str(number)
        database = data / "server.sqlite3"
        cameras = Cameras(start(data=data), jpeg)
        assert cameras.send(6) == [201] * 6
        put_in_place(database, data / "backup.sqlite3")
        assert cameras.send(4) == [201] * 4
        put_in_place(database, data / "newest.sqlite3")
        put_in_place(other / "server.sqlite3", database)
        assert cameras.send(2) == [503, 503]
        assert ready(cameras.service) == 503
        assert cameras.service.get("/v1/cameras/c0/frames/1/jpeg").status_code == 503
        assert "belong to different stores" in refusal(data)
        # the older database, under the running service
        put_in_place(data / "backup.sqlite3", database)
        assert cameras.send(2) == [201, 201]
        run_rebuild(data)
        lost += cameras.lost()
        cameras.service.stop()
    lost += stranger.lost()
    assert lost == 0
    faults.record(
        "database replaced by another store's, then by an older one; rebuild",
        tried=count,
        lost=lost,
        ended="not ready, then in service",
    )


def test_a_disk_that_is_removed_full_or_read_only_acknowledges_nothing_in_vain(start, jpeg, tmp_path, faults) -> None:
    count, lost = faults.count(1, 10), 0
    for number in range(count):
        data, disk, kept = (tmp_path / f"{number}{name}" for name in ("data", "disk", "kept"))
        disk.mkdir()
        kept.mkdir()
        mount(disk)
        try:
            cameras = Cameras(start("--files", disk, data=data), jpeg)
            assert cameras.send(6) == [201] * 6
            subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
            assert cameras.send(2) == [503, 503]
            subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
            assert cameras.send(2) == [201, 201]
            filler = disk / "filler"
            with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
                while file.write(bytes(2**16)) == 2**16:
                    pass
            assert cameras.send(2) == [507, 507]
            filler.unlink()
            assert cameras.send(2) == [201, 201]
            # also mounted elsewhere, so that it can come back
            subprocess.run(["mount", "--bind", str(disk), str(kept)], check=True)
            subprocess.run(["umount", str(disk)], check=True)
            assert cameras.send(2) == [503, 503]
            assert ready(cameras.service) == 503
            assert list(disk.iterdir()) == []
            subprocess.run(["mount", "--bind", str(kept), str(disk)], check=True)
            assert ready(cameras.service) == 200
            assert cameras.send(2) == [201, 201]
            lost += cameras.lost()
            cameras.service.stop()
        finally:
            for folder in (disk, kept):
                subprocess.run(["umount", "-l", str(folder)], capture_output=True, check=False)
    assert lost == 0
    faults.record(
        "disk of the files read-only, full, unmounted, and back",
        tried=count,
        lost=lost,
        ended="503 and 507, then in service",
    )


@pytest.mark.release
def test_a_database_that_is_locked_zeroed_or_without_its_log_takes_nothing_in_vain(
    start,
    jpeg,
    tmp_path,
    faults,
) -> None:
    count, lost = faults.count(1, 10), 0
    for number in range(count):
        rng = random.Random(number)
        data = tmp_path / str(number)
        database = data / "server.sqlite3"
        cameras = Cameras(start(data=data), jpeg)
        assert cameras.send(30) == [201] * 30
        with contextlib.closing(sqlite3.connect(database, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            time.sleep(1.1)
            assert ready(cameras.service) == 503
            other.execute("ROLLBACK")
        assert ready(cameras.service) == 200
        for part in rng.choice([["-wal"], ["-shm"], ["-wal", "-shm"]]):
            Path(f"{database}{part}").unlink()
        assert cameras.send(4) == [201] * 4
        cameras.service.stop()
        cameras.service = start(data=data)
        lost += cameras.lost()
        with database.open("r+b") as file:
            file.seek(4096 * rng.randrange(1, 6))
            file.write(bytes(4096 * 60))
        deadline = time.monotonic() + 60
        while ready(cameras.service) == 200:
            assert time.monotonic() < deadline, "damage is found within a minute"
            cameras.send()
            time.sleep(0.5)
        assert cameras.send(2) == [503, 503]
        cameras.service.stop(9)
        assert "is damaged" in refusal(data)
        lose(data, "server.sqlite3")
        run_rebuild(data)
        cameras.service = start(data=data)
        lost += cameras.lost()
        cameras.service.stop()
    assert lost == 0
    faults.record(
        "database locked, its log removed, its pages zeroed under the service; rebuild",
        tried=count,
        lost=lost,
        ended="not ready; refused to start; in service after rebuild",
    )
