"""A spool whose files were damaged, removed or replaced, case by case; tests/faults/test_spool.py tries thousands."""

import contextlib
import datetime
import json
import shutil
import sqlite3
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from device.frames import OutgoingFrame
from device.spool import DAMAGED, DISK_ERROR, Spool, SpoolError
from device.spool.database import Database
from device.spool.record import head_of, opened, row_of
from device.spool.sealed import seal, unseal
from tests.device.outcomes import losses

MB = 1_000_000
CAMERAS = st.from_regex(r"[A-Za-z0-9_-]{1,64}", fullmatch=True)
FRAMES = st.builds(
    OutgoingFrame,
    camera=CAMERAS,
    sequence=st.integers(0, 2**62),
    time=st.datetimes(timezones=st.just(datetime.UTC)),
    jpeg=st.binary(max_size=300),
    metrics=st.none() | st.text(st.characters(exclude_categories=["Cs"]), max_size=50),
)


def drain(spool, camera):
    frames = []
    while (frame := spool.oldest(camera)) is not None:
        frames.append(frame)
        spool.delivered(camera, frame.sequence)
    return frames


def as_sqlite_has_it(values):
    return [value.encode() if isinstance(value, str) else value for value in values]


@pytest.mark.slow
@given(FRAMES)
def test_a_row_is_the_frame_that_was_put_in(frame):
    values = as_sqlite_has_it(row_of(frame))
    assert opened(*values) == frame
    head = head_of(*values[:4], len(frame.jpeg))
    assert (head.camera, head.sequence, head.size) == (frame.camera, frame.sequence, len(frame.jpeg))


@pytest.mark.slow
@given(FRAMES, st.data())
def test_no_bit_of_a_row_changes_unseen(frame, data):
    values = as_sqlite_has_it(row_of(frame))
    column = data.draw(st.sampled_from([n for n, value in enumerate(values) if value not in (None, b"")]))
    value = values[column]
    if isinstance(value, int):
        values[column] = value ^ 1 << data.draw(st.integers(0, 61))
    else:
        changed = bytearray(value)
        changed[data.draw(st.integers(0, len(value) - 1))] ^= 1 << data.draw(st.integers(0, 7))
        values[column] = bytes(changed)
    assert opened(*values) is None


@given(
    st.lists(st.none() | st.integers() | st.floats(allow_nan=False) | st.binary(max_size=20), min_size=7, max_size=7)
)
def test_a_row_of_any_values_is_no_frame_and_no_error(values):
    assert opened(*values) is None


@pytest.mark.slow
@given(st.dictionaries(st.text(max_size=5), st.integers() | st.text(max_size=5)), st.binary(max_size=20))
def test_sealed_text_tells_whether_it_is_whole(content, rest):
    assert unseal(seal(content) + rest) == content
    for place in range(0, len(seal(content)), 7):
        changed = bytearray(seal(content))
        changed[place] ^= 4
        assert unseal(bytes(changed)) in (None, content)
    assert unseal(rest) is None


def filled(folder, moment, frames=12):
    """Close a spool that holds some frames; return them."""
    with contextlib.closing(Spool(folder, 10 * MB)) as spool:
        for number in range(frames):
            spool.append("yard", moment, bytes([number]) * 6000, json.dumps({"n": number}))
    return [OutgoingFrame("yard", n, moment, bytes([n]) * 6000, json.dumps({"n": n})) for n in range(frames)]


@pytest.mark.parametrize(
    "change",
    [
        "metrics = CAST(x'22ff' AS TEXT)",
        "metrics = 5",
        "camera = CAST(x'79617264ff' AS TEXT)",
        "camera = 'yarf'",
        "camera = NULL",
        "time = 9223372036854775807",
        "time = -9223372036854775808",
        "time = 'x'",
        "sequence = -1",
        "jpeg = 'text'",
        "jpeg = zeroblob(6000)",
        "checksum = NULL",
        "head = 1.5",
    ],
)
def test_a_row_that_is_wrong_is_left_out_and_counted_and_the_next_are_sent(tmp_path, moment, change):
    frames = filled(tmp_path, moment)
    with contextlib.closing(sqlite3.connect(tmp_path / "frames.db")) as db, db:
        db.execute(f"UPDATE frames SET {change} WHERE id = 5")
    spool = Spool(tmp_path, 10 * MB)
    assert set(spool.counts()) == {"yard"}, "no camera is invented"
    assert drain(spool, "yard") == frames[:4] + frames[5:]
    lost = losses(spool, DAMAGED)
    assert sum(loss.frames for loss in lost) == 1
    assert {loss.camera for loss in lost} <= {"yard", None}
    assert spool.append("yard", moment, b"x") == 12
    assert len(list(tmp_path.glob("frames.db.damaged-*[0-9]"))) == 1, "kept for who wants to look"
    spool.close()
    spool = Spool(tmp_path, 10 * MB)
    assert spool.count == 1
    assert losses(spool, DAMAGED) == [], "counted once"
    spool.close()


def test_a_row_of_which_pages_belong_to_another_does_not_take_them_along(tmp_path, moment):
    """Two rows with the same overflow page: giving the pages of one back would let new frames overwrite the other."""
    frames = filled(tmp_path, moment)
    data = bytearray((tmp_path / "frames.db").read_bytes())
    first, second = (data.find(frames[n].jpeg[:1000]) // 4096 for n in (2, 3))
    assert first != second
    pages = [data[at : at + 4096] for at in range(0, len(data), 4096)]
    shared = [number for number, page in enumerate(pages) if page[0] == 0 and frames[3].jpeg[:2000] in page]
    wrong = [n for n in range(len(data) // 4096) if frames[2].jpeg[:2000] in data[4096 * n : 4096 * n + 4096]]
    assert shared
    assert wrong
    at = data.find((wrong[0] + 1).to_bytes(4, "big"), 4096)
    data[at : at + 4] = (shared[0] + 1).to_bytes(4, "big")
    (tmp_path / "frames.db").write_bytes(data)
    spool = Spool(tmp_path, 10 * MB)
    for number in range(5):
        spool.append("yard", moment, bytes([100 + number]) * 6000)
    found = [frame for frame in drain(spool, "yard") if frame.sequence < 12]
    assert found == frames[:2] + frames[3:]
    spool.close()


@pytest.mark.slow
@pytest.mark.parametrize("byte", [18, 19, 20, 21, 47, 59, 3700])
def test_a_header_or_schema_that_a_bit_makes_another_is_no_reason_to_stop(tmp_path, moment, byte):
    frames = filled(tmp_path / "spool", moment)
    whole = (tmp_path / "spool" / "frames.db").read_bytes()
    for bit in range(8):
        data = bytearray(whole)
        data[byte] ^= 1 << bit
        folder = tmp_path / str(bit)
        shutil.copytree(tmp_path / "spool", folder)
        (folder / "frames.db").write_bytes(data)
        with contextlib.closing(Spool(folder, 10 * MB)) as spool:
            assert spool.append("yard", moment, b"x") >= 12
            assert drain(spool, "yard")[:-1] == frames


def killed(folder, copy, moment):
    """Keep some frames, and copy the files as kill -9 would leave them; return the last number."""
    with contextlib.closing(Spool(folder, 10 * MB)) as spool:
        for _ in range(10):
            last = spool.append("yard", moment, bytes(3000))
        drain(spool, "yard")
        last = spool.append("yard", moment, bytes(3000))
        shutil.copytree(folder, copy)
    return last


def interrupted(folder, copy, moment):
    """Copy the files of a spool with twelve frames as kill -9 would leave them; return the copy's log."""
    with contextlib.closing(Spool(folder, 10 * MB)) as spool:
        for number in range(12):
            spool.append("yard", moment, bytes([number]) * 3000)
        shutil.copytree(folder, copy)
    return copy / "frames.db-wal"


@pytest.mark.parametrize("ends", [False, True], ids=["within a transaction", "at its end"])
def test_a_log_that_ends_in_the_middle_of_a_write_is_no_damage(tmp_path, moment, caplog, ends):
    log = interrupted(tmp_path / "spool", tmp_path / "copy", moment)
    salt = log.read_bytes()[16:24]
    with log.open("ab") as file:
        # the header of a page, and behind it still the page of an earlier round
        file.write(bytes([0, 0, 0, 2, 0, 0, 0, 9 * ends]) + salt + bytes(8) + bytes(range(256)) * 16)
    with contextlib.closing(Spool(tmp_path / "copy", 10 * MB)) as spool:
        assert [frame.sequence for frame in drain(spool, "yard")] == list(range(12))
    assert sorted(path.name for path in tmp_path.glob("copy/*.db*")) == ["frames.db"]
    assert "set aside" not in caplog.text


def test_damage_to_the_log_s_last_transaction_costs_no_frame_that_it_does_not_hit(tmp_path, moment):
    log = interrupted(tmp_path / "spool", tmp_path / "copy", moment)
    data = bytearray(log.read_bytes())
    last = max(at for at in range(32, len(data) - 4119, 4120) if any(data[at + 4 : at + 8]))
    # in what the page has free, so that no frame is hit
    free = max(range(last + 24 + 100, last + 4120 - 16), key=lambda at: data[at : at + 16] == bytes(16))
    data[free] ^= 1
    log.write_bytes(data)
    with contextlib.closing(Spool(tmp_path / "copy", 10 * MB)) as spool:
        assert [frame.sequence for frame in drain(spool, "yard")] == list(range(12))


@pytest.mark.parametrize(
    "removed",
    [
        [],
        ["frames.db-wal"],
        ["frames.db"],
        ["frames.db", "frames.db-wal"],
        ["numbers"],
        ["numbers", "frames.db-wal"],
        ["numbers", "frames.db", "frames.db-wal"],
        ["sequences.json"],
        ["sequences.json", "frames.db-wal"],
        ["sequences.json", "numbers"],
        ["sequences.json", "numbers", "frames.db-wal"],
        ["sequences.json", "numbers", "frames.db", "frames.db-wal"],
        ["lock", "numbers", "frames.db-wal"],
    ],
    ids="+".join,
)
def test_a_number_is_never_given_twice_whatever_is_lost(tmp_path, moment, removed):
    last = killed(tmp_path / "spool", tmp_path / "copy", moment)
    for name in removed:
        (tmp_path / "copy" / name).unlink()
    with contextlib.closing(Spool(tmp_path / "copy", 10 * MB)) as spool:
        following = spool.append("yard", moment, b"x")
    assert following > last
    if "sequences.json" not in removed or "numbers" not in removed:
        assert following <= 2 * 10_000
    if "numbers" not in removed:
        assert following == last + 1, "a program that was killed lost no number"


def test_after_another_start_of_the_machine_only_flushed_numbers_count(tmp_path, moment, monkeypatch):
    """What was not flushed may be behind after a power cut, and with it the note of exact numbers."""
    last = killed(tmp_path / "spool", tmp_path / "copy", moment)
    boot = tmp_path / "boot_id"
    boot.write_text("another\n")
    monkeypatch.setattr("device.spool.numbers.BOOT_ID", boot)
    with contextlib.closing(Spool(tmp_path / "copy", 10 * MB)) as spool:
        assert spool.append("yard", moment, b"x") == 10_000 > last


@pytest.mark.parametrize("name", ["frames.db", "frames.db-wal", "lock", "sequences.json", "numbers", "reserve", "*"])
def test_files_that_are_removed_while_they_are_open_cost_no_frame(tmp_path, moment, name):
    folder = tmp_path / "spool"
    spool = Spool(folder, 10 * MB)
    numbers = [spool.append("yard", moment, bytes([n]) * 3000) for n in range(20)]
    for path in list(folder.iterdir()):
        if name in ("*", path.name):
            path.unlink()
    numbers.append(spool.append("yard", moment, b"after"))
    # power fails now: what is in the folder is all there is
    shutil.copytree(folder, tmp_path / "copy")
    numbers.append(spool.append("yard", moment, b"later"))
    with contextlib.closing(Spool(tmp_path / "copy", 10 * MB)) as after:
        frames = drain(after, "yard")
    assert [frame.sequence for frame in frames] == numbers[:-1] == list(range(21))
    assert [frame.jpeg for frame in frames] == [bytes([n]) * 3000 for n in range(20)] + [b"after"]
    assert [frame.sequence for frame in drain(spool, "yard")] == numbers
    spool.close()


def test_a_folder_that_is_gone_takes_no_frame_until_it_is_back(tmp_path, moment):
    folder = tmp_path / "disk"
    spool = Spool(folder, 10 * MB)
    kept = [spool.append("yard", moment, b"before")]
    folder.rename(tmp_path / "elsewhere")
    for _ in range(2):
        with pytest.raises(SpoolError, match="folder or disk is gone") as caught:
            spool.append("yard", moment, b"nowhere")
        assert caught.value.reason == DISK_ERROR
    # as a mount point is when its disk is away: a folder, but not this spool's
    folder.mkdir()
    with pytest.raises(SpoolError, match="folder or disk is gone"):
        spool.append("yard", moment, b"below the mount point")
    assert list(folder.iterdir()) == []
    folder.rmdir()
    (tmp_path / "elsewhere").rename(folder)
    kept.append(spool.append("yard", moment, b"back"))
    assert [frame.sequence for frame in drain(spool, "yard")] == kept
    spool.close()


def test_a_disk_that_comes_back_as_another_device_is_taken_for_what_it_is(tmp_path, moment):
    folder = tmp_path / "disk"
    spool = Spool(folder, 10 * MB)
    for n in range(5):
        spool.append("yard", moment, b"%d" % n)
    shutil.copytree(folder, tmp_path / "again")
    folder.rename(tmp_path / "old")
    (tmp_path / "again").rename(folder)
    assert spool.append("yard", moment, b"5") == 5
    assert [frame.jpeg for frame in drain(spool, "yard")] == [b"%d" % n for n in range(6)]
    spool.close()


def swap(folder, elsewhere):
    """Replace an open spool's folder by a copy, as when its disk is cloned and mounted anew."""
    shutil.copytree(folder, elsewhere / "again")
    folder.rename(elsewhere / "old")
    (elsewhere / "again").rename(folder)


def after_power_cut(folder, copy):
    """Return the pictures that a start finds if power fails now: what is in the folder is all there is."""
    shutil.copytree(folder, copy)
    with contextlib.closing(Spool(copy, 10 * MB)) as after:
        return [frame.jpeg for frame in drain(after, "yard")]


def test_no_frame_is_kept_while_a_folder_that_was_replaced_cannot_be_opened(tmp_path, moment):
    folder = tmp_path / "disk"
    spool = Spool(folder, 10 * MB)
    for n in range(5):
        spool.append("yard", moment, b"%d" % n)
    swap(folder, tmp_path)
    # nobody can open a database in this place
    (folder / "frames.db").rename(tmp_path / "database")
    (folder / "frames.db").mkdir()
    for _ in range(3):
        with pytest.raises(SpoolError, match="Is a directory") as caught:
            spool.append("yard", moment, b"into a file that nobody finds again")
        assert caught.value.reason == DISK_ERROR
    assert spool.count == 5
    (folder / "frames.db").rmdir()
    (tmp_path / "database").rename(folder / "frames.db")
    number = spool.append("yard", moment, b"back")
    expected = [b"%d" % n for n in range(5)] + [b"back"]
    assert after_power_cut(folder, tmp_path / "copy") == expected
    frames = drain(spool, "yard")
    assert [frame.jpeg for frame in frames] == expected
    assert frames[-1].sequence == number == 5
    spool.close()


def test_no_frame_is_kept_in_a_removed_database_if_opening_its_successor_fails_late(tmp_path, moment):
    folder = tmp_path / "spool"
    spool = Spool(folder, 10 * MB)
    for n in range(5):
        spool.append("yard", moment, b"%d" % n)
    for name in ("frames.db", "frames.db-wal", "reserve"):
        (folder / name).unlink()
    # the new database is there and open when this is found
    (folder / "reserve").mkdir()
    with pytest.raises(SpoolError):
        spool.append("yard", moment, b"refused")
    (folder / "reserve").rmdir()
    spool.append("yard", moment, b"kept")
    expected = [b"%d" % n for n in range(5)] + [b"kept"]
    assert after_power_cut(folder, tmp_path / "copy") == expected
    assert [frame.jpeg for frame in drain(spool, "yard")] == expected
    spool.close()


def test_a_spool_that_could_not_be_opened_again_writes_nothing_below_the_mount_point(tmp_path, moment):
    folder = tmp_path / "disk"
    spool = Spool(folder, 10 * MB)
    spool.append("yard", moment, b"before")
    for name in ("frames.db-wal", "reserve"):
        (folder / name).unlink()
    (folder / "reserve").mkdir()
    with pytest.raises(SpoolError):
        spool.append("yard", moment, b"refused")
    folder.rename(tmp_path / "elsewhere")
    folder.mkdir()
    for work in (lambda: spool.append("yard", moment, b"refused"), lambda: spool.oldest("yard")):
        with pytest.raises(SpoolError, match="folder or disk is gone"):
            work()
    assert list(folder.iterdir()) == []
    folder.rmdir()
    (tmp_path / "elsewhere").rename(folder)
    (folder / "reserve").rmdir()
    spool.append("yard", moment, b"back")
    assert [frame.jpeg for frame in drain(spool, "yard")] == [b"before", b"back"]
    spool.close()


def test_damage_in_a_folder_that_is_gone_does_not_touch_the_one_in_its_place(tmp_path, moment):
    folder = tmp_path / "disk"
    spool = Spool(folder, 10 * MB)
    for n in range(3):
        spool.append("yard", moment, b"%d" % n)
    filled(tmp_path / "other", moment, 5)
    before = (tmp_path / "other" / "frames.db").read_bytes()
    folder.rename(tmp_path / "old")
    (tmp_path / "other").rename(folder)
    spool._contents.database._db.execute("DELETE FROM frames")
    with pytest.raises(SpoolError, match="folder or disk is gone"):
        spool.oldest("yard")
    assert (folder / "frames.db").read_bytes() == before
    assert not list(folder.glob("frames.db.*"))
    spool.close()
    with contextlib.closing(Spool(folder, 10 * MB)) as other:
        assert other.count == 5


def test_numbers_go_on_though_a_replaced_folder_could_never_be_opened(tmp_path, moment):
    folder = tmp_path / "disk"
    spool = Spool(folder, 10 * MB)
    spool.append("yard", moment, b"0")
    shutil.copytree(folder, tmp_path / "again")
    for n in range(1, 5):
        spool.append("yard", moment, b"%d" % n)
    folder.rename(tmp_path / "old")
    (tmp_path / "again").rename(folder)
    (folder / "frames.db").rename(tmp_path / "database")
    (folder / "frames.db").mkdir()
    with pytest.raises(SpoolError):
        spool.append("yard", moment, b"refused")
    spool.close()
    (folder / "frames.db").rmdir()
    (tmp_path / "database").rename(folder / "frames.db")
    with contextlib.closing(Spool(folder, 10 * MB)) as after:
        assert after.append("yard", moment, b"next") >= 5


def test_frames_that_were_only_in_a_folder_that_was_replaced_count_as_lost(tmp_path, moment):
    folder = tmp_path / "disk"
    spool = Spool(folder, 10 * MB)
    spool.append("yard", moment, b"0")
    shutil.copytree(folder, tmp_path / "older")
    for n in range(1, 4):
        spool.append("yard", moment, b"%d" % n)
    for name in ("frames.db-wal", "reserve"):
        (folder / name).unlink()
    (folder / "reserve").mkdir()
    with pytest.raises(SpoolError):
        spool.append("yard", moment, b"refused")
    # no database is open now from which they could be read
    folder.rename(tmp_path / "old")
    (tmp_path / "older").rename(folder)
    number = spool.append("yard", moment, b"next")
    assert number >= 4
    assert [frame.jpeg for frame in drain(spool, "yard")] == [b"0", b"next"]
    assert sum(loss.frames for loss in losses(spool, DAMAGED)) >= 3
    spool.close()


def test_a_database_of_another_spool_is_not_taken_for_this_one_s(tmp_path, moment, caplog):
    filled(tmp_path / "mine", moment, 3)
    filled(tmp_path / "other", moment, 5)
    shutil.copy(tmp_path / "other" / "frames.db", tmp_path / "mine" / "frames.db")
    with contextlib.closing(Spool(tmp_path / "mine", 10 * MB)) as spool:
        assert spool.count == 0
        assert spool.append("yard", moment, b"x") == 3
    assert "belongs to spool" in caplog.text
    assert len(list((tmp_path / "mine").glob("frames.db.foreign-*[0-9]"))) == 1, "not deleted either"


def test_a_spool_is_for_its_owner_only(tmp_path, moment):
    folder = tmp_path / "spool"
    filled(folder, moment)
    for path in folder.iterdir():
        path.chmod(0o644)
    with contextlib.closing(Spool(folder, 10 * MB)) as spool:
        spool.append("yard", moment, b"x")
        assert folder.stat().st_mode & 0o777 == 0o700
        assert {path.name: path.stat().st_mode & 0o777 for path in folder.iterdir()} == dict.fromkeys(
            ["frames.db", "frames.db-wal", "lock", "numbers", "reserve", "sequences.json"], 0o600
        )


FORMER = """
CREATE TABLE IF NOT EXISTS counters (camera TEXT PRIMARY KEY, next INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS frames (
    id INTEGER PRIMARY KEY,
    camera TEXT NOT NULL,
    sequence INTEGER NOT NULL,
    time INTEGER NOT NULL,
    metrics TEXT,
    jpeg BLOB NOT NULL,
    UNIQUE (camera, sequence)
);
"""


def test_frames_of_a_spool_without_checksums_get_theirs_and_are_sent(tmp_path, moment):
    with contextlib.closing(sqlite3.connect(tmp_path / "frames.db")) as db, db:
        db.executescript(FORMER)
        db.execute("PRAGMA journal_mode = WAL")
        for n in range(120):
            db.execute("INSERT INTO frames VALUES (?, 'yard', ?, ?, NULL, ?)", (n, n, 1_000_000 * n, bytes([n]) * 3000))
        db.execute("UPDATE frames SET time = 9223372036854775807 WHERE id = 7")
    (tmp_path / "sequences.json").write_text('{"yard": 10000}')
    (tmp_path / "lock").write_bytes(b"")
    with contextlib.closing(Spool(tmp_path, 10 * MB)) as spool:
        assert spool.append("yard", moment, b"new") == 10_000
        frames = drain(spool, "yard")
    assert [frame.sequence for frame in frames] == [n for n in range(120) if n != 7] + [10_000]
    assert [frame.jpeg for frame in frames[:-1]] == [bytes([n]) * 3000 for n in range(120) if n != 7]
    assert frames[3].time == datetime.datetime(1970, 1, 1, 0, 0, 3, tzinfo=datetime.UTC)


def test_saving_that_was_interrupted_goes_on_with_the_next_start(tmp_path, moment, monkeypatch):
    frames = filled(tmp_path, moment)
    with (tmp_path / "frames.db").open("r+b") as file:
        file.write(bytes(100))
    real, taken = Database.insert, []

    def full(database, frame):
        taken.append(frame)
        if len(taken) > 5:
            raise OSError(28, "No space left on device")
        return real(database, frame)

    with monkeypatch.context() as patch:
        patch.setattr(Database, "insert", full)
        with contextlib.closing(Spool(tmp_path, 10 * MB)) as spool:
            assert drain(spool, "yard") == frames[:5], "what is saved is sent meanwhile"
    with contextlib.closing(Spool(tmp_path, 10 * MB)) as spool:
        assert drain(spool, "yard") == frames[5:]
    assert not list(tmp_path.glob("frames.db.salvage-*"))


def test_an_unmounted_disk_takes_its_frames_with_it_and_none_goes_below(tmp_path, moment):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a disk needs root")
    try:
        spool = Spool(disk / "spool", 2 * MB)
        spool.append("yard", moment, b"kept")
        subprocess.run(["umount", "-l", str(disk)], check=True)
        with pytest.raises(SpoolError, match="folder or disk is gone"):
            spool.append("yard", moment, b"x")
        assert list(disk.iterdir()) == []
        spool.close()
        assert list(disk.iterdir()) == []
    finally:
        subprocess.run(["umount", "-l", str(disk)], capture_output=True, check=False)
