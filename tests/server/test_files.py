"""The places for files: a local folder and object storage."""

import datetime
import errno
import fcntl
import os
import re
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rjpeg.errors import ConfigError, InputError, StorageError
from server.disk import NoRoomError
from server.store import Files, open_files
from server.store.folder import Folder
from server.store.keys import key_time, keys_between, make_key, quarantine_key
from server.store.objects import Objects
from tests.server.stores import NOON, SECOND

HOUR = datetime.timedelta(hours=1)


@pytest.fixture(params=["folder", "s3", "memory"])
def files(request: pytest.FixtureRequest, tmp_path: Path) -> Files:
    if request.param == "folder":
        return open_files(str(tmp_path / "a folder" / "frames"))
    if request.param == "memory":
        return open_files(f"memory://{request.node.name}")
    # each test has its own prefix
    return open_files(f"{request.getfixturevalue('s3')}/{request.node.name}")


def names_below(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*"))


@pytest.mark.slow
def test_what_was_written_is_read_until_it_is_removed(files: Files) -> None:
    key, other = make_key("gate", NOON), make_key("gate", NOON)
    content = bytes(range(256)) * 99
    files.write(key, content)()
    files.write(other, b"")()
    assert files.read(key) == content
    assert files.read(other) == b""
    files.remove([key])
    with pytest.raises(StorageError, match="can't read .*" + key):
        files.read(key)
    assert files.read(other) == b""


def test_removing_what_is_not_there_is_no_error(files: Files) -> None:
    keys = [make_key("gate", NOON) for _ in range(3)]
    files.write(keys[1], b"x")()
    files.remove(keys)
    files.remove(keys)
    files.remove([])
    assert list(keys_between(files.names, NOON, NOON + SECOND)) == []


@pytest.mark.slow
def test_files_are_found_by_their_time(files: Files) -> None:
    times = [NOON - HOUR, NOON - SECOND, NOON, NOON + SECOND, NOON + 12 * HOUR]
    keys = {(camera, when): make_key(camera, when) for camera in ("a", "b") for when in times}
    for key in keys.values():
        files.write(key, b"x")()
    found = [key for some in keys_between(files.names, NOON - SECOND, NOON + SECOND) for key in some]
    assert sorted(found) == sorted(key for (_, when), key in keys.items() if NOON - SECOND <= when < NOON + SECOND)
    day = 24 * HOUR
    assert len([key for some in keys_between(files.names, NOON - day, NOON + day) for key in some]) == len(keys)


def test_a_file_is_moved_as_idle_only_when_nobody_owns_it(files: Files) -> None:
    key = make_key("gate", NOON)
    aside = quarantine_key(key, "2026-11-29")
    files.write(key, b"x")()
    assert not files.move_idle(key, aside, lambda: True)
    assert files.read(key) == b"x"
    assert files.move_idle(key, aside, lambda: False)
    with pytest.raises(StorageError):
        files.read(key)
    assert files.size(key) is None
    assert files.read(aside) == b"x"
    assert not files.move_idle(key, aside, lambda: False)
    files.move(aside, key)
    assert (files.read(key), files.size(aside)) == (b"x", None)


@pytest.mark.slow
@pytest.mark.parametrize(
    "key",
    [
        "../../etc/passwd",
        "/etc/passwd",
        "gate/../../x/20261123T120000123456Z-0123456789abcdef.jpg",
        "gate/2026-11-23T12/20261123T120000123456Z-0123456789abcdef.jpg\n",
        "gate/2026-11-23T12/20261123T120000123456Z-0123456789abcdef.jpg/../x",
        "gäte/2026-11-23T12/20261123T120000123456Z-0123456789abcdef.jpg",
        "",
    ],
)
def test_names_that_were_not_made_here_are_refused(files: Files, key: str) -> None:
    for action in (lambda: files.write(key, b""), lambda: files.read(key), lambda: files.remove([key])):
        with pytest.raises(StorageError, match="none that was made here"):
            action()


def test_what_others_put_there_is_left_alone(files: Files, tmp_path: Path) -> None:
    if not isinstance(files, Folder):
        pytest.skip("a folder only")
    root = tmp_path / "a folder" / "frames"
    for name in ("note.txt", "gate/note.txt", "gate/2026-11-23T12/note.txt", "lost+found/x"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("x")
    before = names_below(root)
    key = make_key("gate", NOON)
    files.write(key, b"x")()
    assert list(keys_between(files.names, NOON - HOUR, NOON + HOUR)) == [[key]]
    files.remove([key])
    assert names_below(root) == before


def test_a_working_place_answers_a_ping(files: Files) -> None:
    files.ping()


@pytest.mark.slow
@settings(max_examples=200)
@given(
    st.from_regex(r"[A-Za-z0-9_-]{1,64}", fullmatch=True),
    st.datetimes(timezones=st.timezones(), allow_imaginary=False),
)
@example("-", datetime.datetime(1, 1, 1, tzinfo=datetime.UTC))
@example("_" * 64, datetime.datetime.max.replace(tzinfo=datetime.UTC))
def test_a_name_holds_camera_and_time(camera: str, when: datetime.datetime) -> None:
    try:
        moment = when.astimezone(datetime.UTC)
    except OverflowError:
        return
    key = make_key(camera, when)
    assert key.split("/")[0] == camera
    # not `when`: a time that a clock shows twice equals no time of another zone (PEP 495)
    assert key_time(key) == moment
    assert re.fullmatch(r"[A-Za-z0-9_-]{1,64}/[0-9T-]{13}/[0-9T]{21}Z-[0-9T]{21}Z-x-[0-9a-f]{14}\.jpg", key)


@settings(max_examples=200)
@given(st.datetimes(), st.datetimes())
def test_names_sort_as_times_do(first: datetime.datetime, second: datetime.datetime) -> None:
    keys = [make_key("gate", when.replace(tzinfo=datetime.UTC)) for when in (first, second)]
    if first != second:
        assert (keys[0] < keys[1]) == (first < second)


@pytest.mark.parametrize("camera", ["", ".", "..", "a/b", "a\0", "a\n", "gäte", "x" * 65, "a b", "%2e%2e"])
def test_only_a_camera_id_becomes_a_name(camera: str) -> None:
    with pytest.raises(InputError, match="expected 1 to 64 of"):
        make_key(camera, NOON)


# --- a folder


def test_file_and_folders_are_on_the_disk_when_write_returns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced = []
    fsync = os.fsync

    def noting(descriptor: int) -> None:
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        synced.append((path, os.fstat(descriptor).st_size if path.is_file() else names_below(path)))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", noting)
    root = tmp_path / "new" / "frames"
    files = open_files(str(root))
    assert [path for path, _ in synced] == [tmp_path / "new", tmp_path]
    synced.clear()
    key = make_key("gate", NOON)
    files.write(key, b"12345")()
    camera, hour, name = key.split("/")
    assert synced == [
        (root / key, 5),
        (root / camera / hour, [name]),
        (root / camera, [hour, f"{hour}/{name}"]),
        (root, [camera, f"{camera}/{hour}", key]),
    ]
    synced.clear()
    key = make_key("gate", NOON)
    files.write(key, b"")()
    assert [path for path, _ in synced] == [root / key, (root / key).parent]


def test_a_folder_that_was_removed_and_made_again_is_synced_again(tmp_path: Path, monkeypatch) -> None:
    files, other = open_files(str(tmp_path)), open_files(str(tmp_path))
    first = make_key("gate", NOON)
    files.write(first, b"x")()
    other.remove([first])
    assert names_below(tmp_path) == ["gate"]
    # an inode number may be used again, but not as long as a file is held
    held = os.open(tmp_path / "gate", os.O_RDONLY)
    (tmp_path / "gate").rmdir()
    synced = []
    fsync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda d: (synced.append(Path(f"/proc/self/fd/{d}").readlink()), fsync(d)))
    files.write(make_key("gate", NOON), b"x")()
    os.close(held)
    assert tmp_path in synced


def test_a_write_that_fails_leaves_nothing(tmp_path: Path, monkeypatch) -> None:
    files = open_files(str(tmp_path))
    for number, error in [(errno.EIO, StorageError), (errno.ENOSPC, NoRoomError), (errno.EDQUOT, NoRoomError)]:
        with monkeypatch.context() as patch:

            def failing(descriptor: int, number: int = number) -> None:
                raise OSError(number, os.strerror(number))

            patch.setattr(os, "fsync", failing)
            with pytest.raises(error, match=f"can't write {tmp_path}.*: {os.strerror(number)}"):
                files.write(make_key("gate", NOON), b"x")
        assert [p for p in tmp_path.rglob("*") if p.is_file()] == []


@pytest.mark.slow
def test_a_file_on_its_way_is_not_idle_for_another_program(tmp_path: Path) -> None:
    files = open_files(str(tmp_path))
    key = make_key("gate", NOON)
    program = (
        "import sys; from server.store import open_files\n"
        "print(open_files(sys.argv[1]).move_idle(sys.argv[2], sys.argv[3], lambda: False))"
    )

    def moved_by_another() -> str:
        command = [sys.executable, "-c", program, str(tmp_path), key, quarantine_key(key, "2026-11-29")]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.strip()

    let_go = files.write(key, b"x")
    assert moved_by_another() == "False"
    assert files.read(key) == b"x"
    let_go()
    assert moved_by_another() == "True"


@pytest.mark.slow
def test_writing_goes_on_while_others_remove_empty_folders(tmp_path: Path) -> None:
    files = open_files(str(tmp_path))
    done = threading.Event()

    def remove_and_remove() -> None:
        while not done.is_set():
            files.remove([make_key("gate", NOON)])

    with ThreadPoolExecutor() as threads:
        removing = threads.submit(remove_and_remove)
        try:
            for _ in range(100):
                key = make_key("gate", NOON)
                files.write(key, b"x")()
                assert files.read(key) == b"x"
                files.remove([key])
        finally:
            done.set()
        removing.result()


def test_a_root_that_is_gone_is_an_error_and_not_made_again(tmp_path: Path) -> None:
    root = tmp_path / "disk"
    files = open_files(str(root))
    root.rename(tmp_path / "elsewhere")
    with pytest.raises(StorageError, match=str(root)):
        files.write(make_key("gate", NOON), b"x")
    with pytest.raises(StorageError, match="can't read folder"):
        files.ping()
    assert not root.exists()
    (tmp_path / "elsewhere").rename(root)
    files.ping()
    files.write(make_key("gate", NOON), b"x")()


def test_the_lock_is_asked_for_in_a_way_that_nfs_has(tmp_path: Path, monkeypatch) -> None:
    # NFS needs a file open for reading for shared locks, and open for writing for exclusive ones
    asked = []
    flock = fcntl.flock

    def noting(file, operation: int) -> None:
        descriptor = file if isinstance(file, int) else file.fileno()
        asked.append((operation & ~fcntl.LOCK_NB, fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE))
        flock(file, operation)

    monkeypatch.setattr(fcntl, "flock", noting)
    files = open_files(str(tmp_path))
    key = make_key("gate", NOON)
    files.write(key, b"x")()
    assert files.move_idle(key, quarantine_key(key, "2026-11-29"), lambda: False)
    assert asked == [(fcntl.LOCK_SH, os.O_RDWR), (fcntl.LOCK_EX, os.O_RDWR)]


@pytest.mark.parametrize("form", ["{}", "file://{}", "local://{}"])
def test_a_folder_may_be_given_as_a_url(tmp_path: Path, form: str) -> None:
    files = open_files(form.format(tmp_path / "here"))
    assert isinstance(files, Folder)
    assert (tmp_path / "here").is_dir()


@pytest.mark.parametrize("url", ["", "file://", "file://host/folder", "nothing://x", "s3://", "s3:///"])
def test_a_url_that_says_no_place_is_refused(url: str, s3: str) -> None:
    with pytest.raises(ConfigError, match=r"expected a |not known"):
        open_files(url)


def test_a_folder_that_can_not_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=f"can't make folder {tmp_path}/file/frames"):
        open_files(str(tmp_path / "file" / "frames"))


# --- object storage


@pytest.mark.slow
def test_a_missing_bucket_is_named(s3: str) -> None:
    with pytest.raises(StorageError, match="can't read s3://elsewhere/x"):
        open_files("s3://elsewhere/x")


@pytest.mark.slow
def test_storage_that_does_not_answer_is_an_error_and_no_hang(s3: str, monkeypatch) -> None:
    files = open_files(s3)
    assert isinstance(files, Objects)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    with pytest.raises(StorageError, match="can't read s3://bucket"):
        open_files(s3)


@pytest.mark.slow
def test_many_threads_write_to_s3(s3: str) -> None:
    files = open_files(f"{s3}/threads")
    keys = [make_key("gate", NOON) for _ in range(40)]
    with ThreadPoolExecutor(8) as threads:
        for let_go in threads.map(files.write, keys, [key.encode() for key in keys]):
            let_go()
    assert [files.read(key) for key in keys] == [key.encode() for key in keys]
