"""Followers that a broker gave to one worker while their key waits for another one."""

import asyncio

import numpy as np
import pytest

import rjpeg
from rjpeg.errors import StorageError
from server import config
from server.frames import ReceivedFrame
from server.mqtt import late
from server.mqtt.late import LateFrames
from server.service import make_service
from tests.server.stores import NOON, SECOND


@pytest.fixture
def service(tmp_path):
    settings = config.load(str(config.DEFAULT_PATH))
    settings.storage.data = str(tmp_path / "data")
    with make_service(settings, access_required=False, emit=lambda _: None) as service:
        yield service


@pytest.fixture
def frame(stream):
    """Return the frame of a place in the stream."""

    def make(place, camera="yard"):
        return ReceivedFrame(
            camera=camera,
            sequence=place,
            capture_time=NOON + place * SECOND,
            received_time=NOON + place * SECOND,
            jpeg=stream.files[place].jpeg,
            metrics={"temperature": 51.5},
        )

    return make


def shown(service, camera="yard"):
    """What each stored frame of a camera shows, by its number."""
    decoder, pictures = rjpeg.Decoder(), {}
    for row in service.store.frames(camera, limit=100):
        base = None
        for file in service.store.bases_of(row):
            base = decoder.base_of(file.jpeg, base)
        pictures[row.sequence] = decoder.decode(service.store.jpeg(row), base)
    return pictures


def test_followers_are_stored_once_their_key_is_there_also_by_another_worker(service, stream, frame, tmp_path):
    places = range(1, len(stream.files))
    assert {stream.files[place].kind for place in places} == {"patch", "follower"}

    async def run():
        killed = LateFrames(service, tmp_path / "late")
        # followers of patches before these
        for place in reversed(places):
            assert await killed.put(frame(place))
        await killed.try_again()
        assert len(killed) == len(places)
        assert service.store.cameras() == []
        await service.receiver.take(frame(0))
        other = LateFrames(service, tmp_path / "late")
        # a follower may be older than the patch that it needs
        for _ in range(3):
            await other.try_again()
        assert len(other) == 0
        # the one that was not killed after all finds nothing
        await killed.try_again()
        assert len(killed) == 0

    asyncio.run(run())
    assert list((tmp_path / "late").iterdir()) == []
    for place, picture in shown(service).items():
        np.testing.assert_array_equal(picture, stream.decoded[place].frame)
    rows = {row.sequence: row for row in service.store.frames("yard", limit=100)}
    assert sorted(rows) == list(range(len(stream.files)))
    assert rows[1].metrics == {"temperature": 51.5}
    assert (rows[1].capture_time, rows[1].received_time) == (NOON + SECOND, NOON + SECOND)


def test_one_that_was_stored_before_it_could_be_forgotten_is_not_stored_twice(service, frame, tmp_path):
    async def run():
        kept = LateFrames(service, tmp_path / "late")
        await kept.put(frame(1))
        for place in (0, 1):
            await service.receiver.take(frame(place))
        await kept.try_again()
        assert len(kept) == 0

    asyncio.run(run())
    assert [row.sequence for row in service.store.frames("yard")] == [1, 0]


def test_a_camera_without_keys_holds_up_no_other(service, frame, tmp_path):
    async def run():
        kept = LateFrames(service, tmp_path / "late")
        for camera in ("keyless", "yard"):
            for place in (1, 2):
                await kept.put(frame(place, camera))
        await service.receiver.take(frame(0))
        await kept.try_again()
        assert len(kept) == 2

    asyncio.run(run())
    assert [summary.name for summary in service.store.cameras()] == ["yard"]


def test_what_is_damaged_or_too_old_is_given_up_and_what_was_cut_is_not_read(service, frame, tmp_path, caplog):
    now = 1000.0

    async def run():
        nonlocal now
        kept = LateFrames(service, tmp_path / "late", max_days=1, clock=lambda: now)
        await kept.put(frame(1))
        [path] = (tmp_path / "late").iterdir()
        path.write_bytes(path.read_bytes()[:-1])
        (tmp_path / "late" / "half.late.part").write_bytes(b"half")
        (tmp_path / "late" / "other").write_bytes(b"")
        now += 1
        await kept.put(frame(1, "keyless"))
        await kept.try_again()
        assert len(kept) == 1
        now += 86400
        await kept.try_again()
        assert len(kept) == 1
        now += 1
        await kept.try_again()
        assert len(kept) == 0

    asyncio.run(run())
    assert "is damaged and given up" in caplog.text
    assert "a follower of camera keyless is given up" in caplog.text
    assert service.store.cameras() == []


def test_no_camera_fills_the_disk(service, frame, tmp_path, monkeypatch):
    size = len(frame(1).jpeg)
    monkeypatch.setattr(late, "MAX_BYTES_OF_CAMERA", 2 * size)
    monkeypatch.setattr(late, "MAX_BYTES", 3 * size)

    async def run():
        kept = LateFrames(service, tmp_path / "late")
        taken = [await kept.put(frame(1, camera)) for camera in ("a", "a", "a", "b", "b")]
        assert taken == [True, True, False, True, False]

    asyncio.run(run())


def test_a_disk_that_takes_nothing_is_an_error_and_leaves_nothing(service, frame, tmp_path):
    (tmp_path / "late").write_text("no folder")

    async def run():
        kept = LateFrames(service, tmp_path / "late")
        with pytest.raises(StorageError, match="late can't be written"):
            await kept.put(frame(1))
        assert len(kept) == 0

    asyncio.run(run())
