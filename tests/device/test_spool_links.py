"""Keys, patches and followers in the spool: what is needed to decode a frame is there as long as the frame is."""

import contextlib
import datetime
import os
import shutil
import sqlite3
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from device.frames import identity_of
from device.spool import DAMAGED, MIN_BYTES, THINNED, Spool
from device.spool.salvage import PAGE
from device.spool.waiting import Link, Waiting, every_second, oldest_of_the_most
from tests.device.linked import follower, key, patch
from tests.device.outcomes import losses

MB = 1_000_000
NOW = datetime.datetime(2026, 3, 4, tzinfo=datetime.UTC)


@pytest.fixture
def spool(tmp_path):
    with contextlib.closing(Spool(tmp_path / "spool", 10 * MB)) as spool:
        yield spool


def drain(spool, camera="a"):
    found, after = [], -1
    while (frame := spool.oldest(camera, after)) is not None:
        found.append(frame)
        after = frame.sequence
        spool.delivered(camera, after)
    return found


def listed(*links):
    """A camera's frames, numbered from 0, by the letters of their ids: ("k", "") is a key, ("", "k") follows it."""
    waiting = Waiting()
    for number, (name, base) in enumerate(links):
        waiting.add(number, number, 1, Link(ord(name) if name else -1, ord(base) if base else -1))
    return {"a": waiting}


def test_a_key_stays_until_the_last_frame_that_needs_it_is_delivered(spool):
    for jpeg in (key("aaaaaa"), follower("aaaaaa"), patch("bbbbbb", "aaaaaa"), follower("bbbbbb"), key("cccccc")):
        spool.append("a", NOW, jpeg)
    for sequence in range(3):
        assert spool.oldest("a", sequence - 1).sequence == sequence
        spool.delivered("a", sequence)
    assert spool.base("a", "aaaaaa").jpeg == key("aaaaaa")
    assert spool.base("a", "bbbbbb").jpeg == patch("bbbbbb", "aaaaaa")
    assert spool.waiting("a") == spool.count == 2, "those that stay for others' sake do not wait"
    spool.delivered("a", 3)
    assert spool.base("a", "aaaaaa") is spool.base("a", "bbbbbb") is None
    assert [frame.jpeg for frame in drain(spool)] == [key("cccccc")]
    assert (spool.count, spool.bytes) == (0, 0)


def test_a_start_sends_a_key_again_whose_followers_still_wait(tmp_path):
    spool = Spool(tmp_path, 10 * MB)
    for jpeg in (key("aaaaaa"), follower("aaaaaa"), follower("aaaaaa", "bbbbbb")):
        spool.append("a", NOW, jpeg)
    spool.delivered("a", 1)
    spool.close()
    spool = Spool(tmp_path, 10 * MB)
    assert spool.count == 1
    assert [frame.sequence for frame in drain(spool)] == [0, 2]
    spool.close()


def test_the_newest_key_and_patch_stay_over_starts_until_there_are_newer_ones_and_are_not_sent_again(tmp_path):
    for number in range(3):
        spool = Spool(tmp_path, 10 * MB)
        if number == 0:
            for jpeg in (key("aaaaaa"), patch("bbbbbb", "aaaaaa"), follower("bbbbbb")):
                spool.append("a", NOW, jpeg)
            assert len(drain(spool)) == 3
        assert spool.base("a", "aaaaaa").jpeg == key("aaaaaa")
        assert spool.base("a", "bbbbbb").jpeg == patch("bbbbbb", "aaaaaa")
        assert (spool.count, spool.bytes, spool.counts()) == (0, 0, {})
        assert spool.oldest("a") is None
        spool.close()
    spool = Spool(tmp_path, 10 * MB)
    spool.append("a", NOW, follower("bbbbbb", "000001"))
    assert [identity_of(frame.jpeg).kind for frame in drain_nothing(spool)] == ["key", "patch", "follower"]
    drain(spool)
    spool.append("a", NOW, key("cccccc"))
    assert [identity_of(frame.jpeg).id for frame in drain(spool)] == ["cccccc"]
    assert spool.base("a", "aaaaaa") is spool.base("a", "bbbbbb") is None
    assert spool.has("a", "cccccc")
    spool.close()


def test_a_delivered_key_that_is_given_up_for_room_is_no_loss(tmp_path):
    with contextlib.closing(Spool(tmp_path, MIN_BYTES)) as spool:
        spool.append("a", NOW, key("aaaaaa", 300_000))
        drain(spool)
        for number in range(10):
            spool.append("b", NOW, key(f"{number:06x}", 90_000))
        given_up = sum(loss.frames for loss in losses(spool, THINNED))
        assert given_up + spool.count == 10
        assert losses(spool, THINNED) == []


def test_a_delivered_key_outlives_the_damage_of_other_frames(tmp_path):
    spool = Spool(tmp_path, 10 * MB)
    spool.append("a", NOW, key("aaaaaa", 3 * PAGE))
    drain(spool)
    spool.append("a", NOW, follower("aaaaaa", "bbbbbb", 3 * PAGE))
    spool.close()
    with contextlib.closing(sqlite3.connect(tmp_path / "frames.db")) as db:
        db.execute("UPDATE frames SET jpeg = zeroblob(LENGTH(jpeg)) WHERE sequence = 1")
        db.commit()
    spool = Spool(tmp_path, 10 * MB)
    assert drain(spool) == []
    assert sum(loss.frames for loss in losses(spool, DAMAGED)) == 1
    assert list(tmp_path.glob("frames.db.damaged-*")), "a new database was begun"
    spool.close()
    spool = Spool(tmp_path, 10 * MB)
    assert spool.base("a", "aaaaaa").jpeg == key("aaaaaa", 3 * PAGE)
    spool.close()


def test_a_key_whose_header_is_long_is_known_again_after_a_start(tmp_path):
    long = key("aaaaaa")
    long = long[:2] + b"\xff\xfe\xff\x00" + bytes(0xFEFE) + long[2:]
    assert identity_of(long).id == "aaaaaa"
    with contextlib.closing(Spool(tmp_path, 10 * MB)) as spool:
        spool.append("a", NOW, long)
        spool.append("a", NOW, b"no picture")
    with contextlib.closing(Spool(tmp_path, 10 * MB)) as spool:
        assert spool.has("a", "aaaaaa")
        assert spool.base("a", "aaaaaa").jpeg == long


def test_cameras_have_keys_of_their_own(spool):
    spool.append("a", NOW, key("aaaaaa"))
    assert spool.has("a", "aaaaaa")
    assert not spool.has("b", "aaaaaa")
    assert spool.base("b", "aaaaaa") is None


def test_frames_that_others_need_are_given_up_last():
    cameras = listed(("k", ""), *[("", "k")] * 4, ("p", "k"), *[("", "p")] * 3, ("m", ""), *[("", "m")] * 9)
    assert [sequence for _, sequence in every_second(cameras)] == [1, 3, 6, 8]
    for sequence in (1, 2, 3, 4):
        cameras["a"].remove(sequence)
    assert cameras["a"].is_needed(0), "by the patch"
    for sequence in (6, 7, 8):
        cameras["a"].remove(sequence)
    assert not cameras["a"].is_needed(5)
    cameras["a"].remove(5)
    assert not cameras["a"].is_needed(0)


def test_the_newest_key_and_patch_stay_for_frames_to_come():
    cameras = listed(("k", ""), ("m", ""), ("p", "m"), ("q", "m"))
    assert [cameras["a"].is_needed(sequence) for sequence in range(4)] == [False, True, False, True]
    assert oldest_of_the_most(cameras) == [("a", 0)]
    cameras = listed(("m", ""), ("q", "m"))
    assert oldest_of_the_most(cameras) == [("a", 1)], "if nothing else is left, the one to which nothing refers"


def test_of_several_the_one_on_its_way_is_given_up_last():
    cameras = listed(("k", ""), ("", "k"), ("", "k"))
    assert oldest_of_the_most(cameras, {("a", 1)}) == [("a", 2)]
    assert oldest_of_the_most(cameras, {("a", 1), ("b", 2)}) == [("a", 2)]
    assert oldest_of_the_most(listed(("k", ""), ("", "k")), {("a", 1)}) == [("a", 1)], "if nothing else is left"


def test_a_frame_on_its_way_is_not_given_up_after_its_key_was_delivered(tmp_path):
    with contextlib.closing(Spool(tmp_path, MIN_BYTES)) as spool:
        spool.append("a", NOW, key("aaaaaa"))
        spool.delivered("a", 0)
        for number in range(300):
            spool.append("a", NOW, follower("aaaaaa", f"{number:06x}", 20_000))
        assert sum(loss.frames for loss in losses(spool, THINNED)) > 200
        assert spool.oldest("a", 0).sequence == 1, "the sender may have it in hand"


def test_a_damaged_key_is_counted_and_its_followers_are_left_to_the_server(tmp_path):
    spool = Spool(tmp_path, 10 * MB)
    spool.append("a", NOW, key("aaaaaa", 3 * PAGE))
    spool.append("a", NOW, follower("aaaaaa"))
    spool.close()
    with contextlib.closing(sqlite3.connect(tmp_path / "frames.db")) as db:
        db.execute("UPDATE frames SET jpeg = zeroblob(LENGTH(jpeg)) WHERE sequence = 0")
        db.commit()
    spool = Spool(tmp_path, 10 * MB)
    assert [frame.sequence for frame in drain(spool)] == [1]
    assert sum(loss.frames for loss in losses(spool, DAMAGED)) == 1
    assert not spool.has("a", "aaaaaa")
    spool.close()


@pytest.mark.slow
def test_keys_are_known_again_after_their_database_was_salvaged(tmp_path):
    spool = Spool(tmp_path, 10 * MB)
    for name in range(20):
        spool.append("a", NOW, key(f"{name:06x}", 20_000))
        for number in range(5):
            spool.append("a", NOW, follower(f"{name:06x}", f"ff{name:02x}{number:02x}", 3000))
    spool.close()
    with (tmp_path / "frames.db").open("r+b") as file:
        file.seek(PAGE)
        file.write(os.urandom(PAGE))
    spool = Spool(tmp_path, 10 * MB)
    kept = {identity_of(frame.jpeg).id for frame in drain_nothing(spool)}
    for name in range(20):
        assert spool.has("a", f"{name:06x}") == (f"{name:06x}" in kept)
    spool.close()


def drain_nothing(spool):
    """Every frame that waits, which goes on to wait."""
    found, after = [], -1
    while (frame := spool.oldest("a", after)) is not None:
        found.append(frame)
        after = frame.sequence
    return found


class Stream(RuleBasedStateMachine):
    """Two cameras fill a small spool. No frame waits in it whose key neither waits nor was delivered."""

    @initialize()
    def begin(self):
        self.folder = Path(tempfile.mkdtemp())
        self.spool = Spool(self.folder, MIN_BYTES)
        self.number = self.thinned = 0
        self.delivered = {"a": set(), "b": set()}
        self.bases = {"a": [], "b": []}
        self.put = 0

    def append(self, camera, jpeg):
        self.spool.append(camera, NOW, jpeg)
        self.put += 1
        self.thinned += sum(loss.frames for loss in losses(self.spool, THINNED))

    def name(self):
        self.number += 1
        return f"{self.number:06x}"

    @rule(camera=st.sampled_from("ab"), size=st.sampled_from([500, 20_000, 90_000]))
    def send_a_key(self, camera, size):
        name = self.name()
        self.append(camera, key(name, size))
        self.bases[camera] = [name]

    @rule(camera=st.sampled_from("ab"), size=st.sampled_from([500, 40_000]))
    def send_a_patch(self, camera, size):
        if self.bases[camera] and self.knows(camera, self.bases[camera][0]):
            name = self.name()
            self.append(camera, patch(name, self.bases[camera][0], size))
            self.bases[camera] = [self.bases[camera][0], name]

    @rule(camera=st.sampled_from("ab"), number=st.integers(1, 12), size=st.sampled_from([500, 9_000, 30_000]))
    def send_followers(self, camera, number, size):
        for _ in range(number):
            if self.bases[camera] and all(self.knows(camera, base) for base in self.bases[camera]):
                self.append(camera, follower(self.bases[camera][-1], self.name(), size))

    @rule(camera=st.sampled_from("ab"), number=st.integers(1, 6))
    def deliver(self, camera, number):
        done = -1
        for _ in range(number):
            frame = self.spool.oldest(camera, done)
            if frame is None:
                return
            done = frame.sequence
            self.delivered[camera].add(identity_of(frame.jpeg).id)
            self.spool.delivered(camera, done)

    @rule()
    def start_anew(self):
        self.spool.close()
        self.spool = Spool(self.folder, MIN_BYTES)
        self.bases = {"a": [], "b": []}

    def knows(self, camera, base):
        return self.spool.has(camera, base) or base in self.delivered[camera]

    @invariant()
    def what_waits_can_be_decoded(self):
        for camera in "ab":
            after = -1
            while (frame := self.spool.oldest(camera, after)) is not None:
                after = frame.sequence
                base = identity_of(frame.jpeg).base_id
                assert base is None or self.knows(camera, base)

    def teardown(self):
        self.spool.close()
        shutil.rmtree(self.folder)


TestStream = pytest.mark.slow(Stream.TestCase)
TestStream.settings = settings(max_examples=30, stateful_step_count=25, deadline=None)
