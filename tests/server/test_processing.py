"""The Processor: threads, batches, and tasks that misbehave."""

import asyncio
import ctypes
import dataclasses
import datetime
import functools
import gc
import logging
import re
import subprocess
import sys
import threading
import time
import weakref
from pathlib import Path

import cv2
import numpy as np
import pytest

import rjpeg
from rjpeg.errors import JpegError, ModelError
from server.frames import ReceivedFrame
from server.processing import processor as processing
from server.processing.decoding import FrameDecoder
from server.processing.processor import Processor
from tests.waiting import until

ROOT = Path(__file__).resolve().parents[2]
NOW = datetime.datetime(2026, 3, 4, 5, 6, 7, 89, tzinfo=datetime.UTC)


def received(jpeg, sequence=0, camera="cam"):
    return ReceivedFrame(camera=camera, sequence=sequence, capture_time=NOW, received_time=NOW, jpeg=jpeg)


@pytest.fixture
def make():
    """Make processors that are closed at the end."""
    made = []

    def maker(*, workers=2, max_pixels=2**24, **options):
        made.append(Processor(workers=workers, max_pixels=max_pixels, **options))
        return made[-1]

    yield maker
    for processor in made:
        processor.close()


def process_all(processor, jpegs, limit=30):
    """What becomes of each file, sent all at once: Processed or the error."""

    async def run():
        frames = [processor.process(received(jpeg, number)) for number, jpeg in enumerate(jpegs)]
        return await asyncio.wait_for(asyncio.gather(*frames, return_exceptions=True), limit)

    return asyncio.run(run())


@pytest.fixture(scope="module")
def files(encoder, photograph):
    """Files of several sizes, an ordinary JPEG, and two that are broken."""
    files = [encoder.encode(cv2.resize(photograph, size), quality=60) for size in ((201, 150), (64, 48), (17, 1))]
    plain = cv2.imencode(".jpg", photograph)[1].tobytes()
    return [*files, plain, files[0][:-10], b"no picture"]


@pytest.mark.parametrize(("workers", "batch"), [(1, 1), (1, 8), (3, 4)])
def test_frames_become_what_the_decoder_makes_of_them_one_by_one(make, files, workers, batch):
    many = files * 5
    results = process_all(make(workers=workers, batch=batch), many)
    decoder = rjpeg.Decoder()
    for jpeg, result in zip(many, results, strict=True):
        if isinstance(result, JpegError):
            with pytest.raises(type(result), match=f"^{re.escape(str(result))}$"):
                decoder.decode(jpeg)
            continue
        expected = decoder.decode_with_details(jpeg)
        np.testing.assert_array_equal(result.decoded.frame, expected.frame)
        np.testing.assert_array_equal(result.decoded.quality_map, expected.quality_map)
        assert result.results is None


def process_stream(processor, stream, places):
    async def run():
        frames = (
            ReceivedFrame(
                camera="cam",
                sequence=place,
                capture_time=NOW,
                received_time=NOW,
                jpeg=stream.files[place].jpeg,
                bases=stream.bases(place),
            )
            for place in places
        )
        return await asyncio.gather(*map(processor.process, frames), return_exceptions=True)

    return asyncio.run(run())


@pytest.mark.parametrize(("workers", "base_bytes"), [(1, 2**28), (3, 2**28), (2, 1)])
def test_followers_become_what_their_stream_gives_in_any_order_among_other_files(make, stream, workers, base_bytes):
    processor = make(workers=workers, base_bytes=base_bytes)
    places = [*range(len(stream.files))] * 2
    places = places[::-1] + places[::3]
    for place, result in zip(places, process_stream(processor, stream, places), strict=True):
        expected = stream.decoded[place]
        np.testing.assert_array_equal(result.decoded.frame, expected.frame)
        kept = None if expected.kept is None else pytest.approx(expected.kept.mean(), abs=1e-4)
        assert result.measures["kept"] == kept
        assert (result.measures["width"], result.measures["height"]) == (208, 160)


def test_a_follower_costs_no_further_decoding_while_its_base_is_kept(make, stream):
    processor = make()
    process_stream(processor, stream, range(len(stream.files)))
    made = processor.bases.made
    needed = {base for place in range(len(stream.files)) for base in stream.chain(place)}
    assert made == len(needed) > 1
    process_stream(processor, stream, range(len(stream.files)))
    assert processor.bases.made == made


def test_a_follower_without_its_base_is_an_error_and_so_is_one_with_another(make, stream):
    processor, place = make(), stream.first("follower")
    jpeg = stream.files[place].jpeg
    [alone] = process_all(processor, [jpeg])
    assert isinstance(alone, rjpeg.KeyMissingError)
    assert alone.id == stream.files[place].base_id
    assert isinstance(process_all(processor, [jpeg, stream.files[0].jpeg])[1].decoded.frame, np.ndarray)
    patch = stream.first("patch")
    wrong = dataclasses.replace(received(jpeg), bases=(*stream.bases(place), stream.bases(patch + 1)[-1]))
    with pytest.raises(JpegError):
        asyncio.run(processor.process(wrong))


def test_the_task_sees_a_follower_s_whole_frame(make, stream):
    processor = make(task=lambda frame, meta: [float(frame.mean()), meta["width"], meta["bytes"]])
    place = stream.first("follower")
    [result] = process_stream(processor, stream, [place])
    assert result.results == [float(stream.decoded[place].frame.mean()), 208, len(stream.files[place].jpeg)]


def test_measures_are_those_of_the_command_line(make, files):
    line = FrameDecoder().process(files[0], None)
    [result] = process_all(make(), files[:1])
    times = result.measures.pop("ms")
    assert set(times) == {"decode", "wait"}
    assert times["decode"] > line.pop("ms")["decode"] / 100 > 0
    assert {"kind": "key", "id": rjpeg.identify(files[0]).id, "base_id": None} | result.measures == line
    assert (line["width"], line["height"], line["bytes"]) == (201, 150, len(files[0]))


def test_the_task_sees_the_picture_and_what_is_known_of_it_and_its_answer_is_the_result(make, files):
    def look(frame, meta):
        return meta | {"mean": float(frame.mean())}

    [result] = process_all(make(task=look), files[:1])
    assert result.results == {
        "camera": "cam",
        "sequence": 0,
        "capture_time": "2026-03-04T05:06:07.000089Z",
        "width": 201,
        "height": 150,
        "bytes": len(files[0]),
        "mean": float(rjpeg.Decoder().decode(files[0]).mean()),
    }
    assert set(result.measures["ms"]) == {"decode", "task", "wait"}


def fail(error, frame, meta):
    raise error


@pytest.mark.parametrize(
    ("task", "text"),
    [
        (functools.partial(fail, ValueError("bad\nthing")), "ValueError: bad thing"),
        (functools.partial(fail, SystemExit(3)), "SystemExit: 3"),
        (functools.partial(fail, MemoryError()), "MemoryError"),
        (functools.partial(fail, RuntimeError("\ud800" * 1000)), "RuntimeError: ??"),
        (lambda frame, meta: float("nan"), "Out of range float values are not JSON compliant"),
        (lambda frame, meta: [frame], "not JSON serializable"),
        (lambda frame, meta: {"a": "\ud800"}, "surrogates not allowed"),
        (lambda frame, meta: "x" * 70000, "the answer has 70002 bytes as JSON, more than 65536"),
        (lambda frame, meta: frame.fill(0), "read-only"),
        (lambda: 1, "takes 0 positional arguments but 2 were given"),
    ],
)
def test_a_task_that_fails_leaves_an_error_in_the_results_and_the_frame_as_it_was(make, files, task, text, monkeypatch):
    # what pytest collects of the log has to be UTF-8 where it runs on several processes
    monkeypatch.setattr(logging.getLogger("server.processing.answer"), "disabled", True)
    processor = make(task=task)
    for result in process_all(processor, files[:2]) + process_all(processor, files[:2]):
        assert list(result.results) == ["error"]
        assert text in result.results["error"]
        assert len(result.results["error"]) <= 300
        assert result.decoded.frame.any()


class Careful:
    """A task that only so many threads may call at a time, and that notices when there are more."""

    def __init__(self, threads, seconds=0.005):
        self.threads, self.seconds = threads, seconds
        self.running = self.most = 0
        self.lock = threading.Lock()

    def __call__(self, frame, meta):
        with self.lock:
            self.running += 1
            self.most = max(self.most, self.running)
        time.sleep(self.seconds)
        with self.lock:
            self.running -= 1
        return meta["sequence"]


@pytest.mark.parametrize("threads", [1, 2])
def test_a_task_is_called_by_no_more_threads_than_it_stands(make, files, threads):
    task = Careful(threads)
    results = process_all(make(workers=4, task=task), files[:4] * 8)
    assert [result.results for result in results] == list(range(32))
    assert task.most == threads


def test_decoding_stops_while_too_much_waits_for_the_task(make, files, monkeypatch):
    monkeypatch.setattr(processing, "READY_PIXELS", 4 * 64 * 48)
    release = threading.Event()

    def task(frame, meta):
        release.wait(30)

    task.threads = 1
    each, decoded = rjpeg.Decoder.decode_each, []

    def counted(decoder, jpegs):
        decoded.extend(jpegs)
        return each(decoder, jpegs)

    monkeypatch.setattr(rjpeg.Decoder, "decode_each", counted)
    processor = make(workers=2, batch=1, task=task)

    async def run():
        frames = [asyncio.ensure_future(processor.process(received(files[1], number))) for number in range(20)]
        for _ in range(100):
            await asyncio.sleep(0.005)
            if processor.waiting == 19:
                break
        count = len(decoded)
        release.set()
        await asyncio.gather(*frames)
        return count

    # one is at the task, four wait; each of the two threads may have been decoding one when there were three
    assert asyncio.run(run()) <= 6


@pytest.mark.parametrize(("index", "together"), [(0, 1), (1, 4)])
def test_large_frames_are_taken_one_by_one_and_small_ones_together(make, files, monkeypatch, index, together):
    monkeypatch.setattr(processing, "BATCH_PIXELS", 2 * 201 * 150 - 1)
    each, taken, all_wait = rjpeg.Decoder.decode_each, [], threading.Event()

    def counted(decoder, jpegs):
        taken.append(len(jpegs))
        all_wait.wait(30)
        return each(decoder, jpegs)

    monkeypatch.setattr(rjpeg.Decoder, "decode_each", counted)
    processor = make(workers=1, batch=4)

    async def run():
        frames = [asyncio.ensure_future(processor.process(received(files[index]))) for _ in range(13)]
        while processor.waiting + sum(taken) < 13:
            await asyncio.sleep(0.001)
        all_wait.set()
        await asyncio.gather(*frames)

    asyncio.run(run())
    assert max(taken) == together
    assert sum(taken) == 13


def test_closing_finishes_what_waits_and_refuses_what_comes_after(make, files):
    processor = make(workers=1, task=lambda frame, meta: time.sleep(0.02) or meta["sequence"])

    async def run():
        frames = [asyncio.ensure_future(processor.process(received(files[0], number))) for number in range(10)]
        await asyncio.sleep(0)
        await asyncio.to_thread(processor.close)
        with pytest.raises(RuntimeError, match="closed"):
            await processor.process(received(files[0]))
        return [result.results for result in await asyncio.gather(*frames)]

    assert asyncio.run(run()) == list(range(10))
    processor.close()


def test_closing_does_not_wait_for_ever_for_a_call_that_hangs(make, files, monkeypatch):
    monkeypatch.setattr(processing, "CLOSE_SECONDS", 0.3)
    release, called = threading.Event(), threading.Event()
    processor = make(workers=1, task=lambda frame, meta: called.set() or release.wait(60))

    async def run():
        frames = [asyncio.ensure_future(processor.process(received(files[0], number))) for number in range(3)]
        await asyncio.to_thread(called.wait)
        await asyncio.to_thread(processor.close)
        return await asyncio.gather(*frames, return_exceptions=True)

    started = time.monotonic()
    errors = asyncio.run(run())
    assert time.monotonic() - started < 5
    assert {str(error) for error in errors} == {"the processor was closed before the frame was done"}
    release.set()


def test_a_frame_that_nobody_waits_for_any_more_is_not_looked_at(make, files):
    seen = []
    processor = make(workers=1, batch=1, task=lambda frame, meta: seen.append(meta["sequence"]) or time.sleep(0.05))

    async def run():
        frames = [asyncio.ensure_future(processor.process(received(files[0], number))) for number in range(8)]
        await frames[0]
        frames[-1].cancel()
        await asyncio.gather(*frames, return_exceptions=True)

    asyncio.run(run())
    processor.close()
    assert seen == list(range(7))


def test_a_frame_that_nobody_waits_for_any_more_is_not_decoded(make, files, monkeypatch):
    each, release, decoded = rjpeg.Decoder.decode_each, threading.Event(), []

    def held(decoder, jpegs):
        release.wait(30)
        decoded.extend(jpegs)
        return each(decoder, jpegs)

    monkeypatch.setattr(rjpeg.Decoder, "decode_each", held)
    processor = make(workers=1, batch=1)

    async def run():
        frames = [asyncio.ensure_future(processor.process(received(jpeg))) for jpeg in files[:3]]
        await asyncio.sleep(0.05)
        frames[1].cancel()
        await asyncio.sleep(0)
        release.set()
        await asyncio.gather(*frames, return_exceptions=True)

    asyncio.run(run())
    assert decoded == [files[0], files[2]]


def test_pixels_are_limited_and_so_is_what_is_decoded_together(make, files, encoder, photograph):
    pixels = 201 * 150
    results = process_all(make(max_pixels=pixels), [files[0], files[1]] * 4)
    assert not [result for result in results if isinstance(result, Exception)]
    for result in process_all(make(max_pixels=pixels - 1), files[:1]):
        assert isinstance(result, JpegError)
        assert f"larger than the limit of {pixels - 1}" in str(result)


@pytest.mark.slow
def test_pictures_are_let_go_of(make, files):
    processor = make(workers=2, task=lambda frame, meta: None)
    results = process_all(processor, files[:4] * 3)
    frames = [weakref.ref(result.decoded.frame) for result in results]
    del results
    gc.collect()
    until(lambda: not any(frame() is not None for frame in frames))


def test_a_missing_model_is_found_at_the_start(make, tmp_path):
    with pytest.raises(ModelError, match="nowhere"):
        make(model=str(tmp_path / "nowhere"))


def test_a_stored_file_is_decoded_again_in_the_thread_that_asks_restored_or_not(make, files):
    processor = make(restore=True)
    decoded, restored = rjpeg.Decoder().decode(files[0]), rjpeg.Decoder(restore=True).decode(files[0])
    assert (decoded != restored).any()
    for options, expected in (({}, restored), ({"restore": False}, decoded), ({"restore": True}, restored)):
        np.testing.assert_array_equal(processor.decode_stored(files[0], **options).frame, expected)
    np.testing.assert_array_equal(make().decode_stored(files[0], restore=True).frame, restored)
    with pytest.raises(JpegError):
        processor.decode_stored(b"no picture")


def test_a_stored_follower_is_decoded_with_the_files_that_it_needs(make, stream):
    processor = make()
    for place, file in enumerate(stream.files):
        decoded = processor.decode_stored(file.jpeg, processor.bases.of("cam", stream.bases(place)))
        np.testing.assert_array_equal(decoded.frame, stream.decoded[place].frame)
    restored = rjpeg.Decoder(restore=True)
    base = restored.base_of(stream.files[0].jpeg)
    expected = restored.decode(stream.files[1].jpeg, base)
    np.testing.assert_array_equal(processor.decode_stored(stream.files[1].jpeg, base, restore=True).frame, expected)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux" or not hasattr(ctypes.CDLL(None), "mallopt"), reason="needs glibc")
def test_memory_of_one_frame_serves_the_next():
    program = """
import asyncio, datetime, resource
import cv2, numpy as np
import rjpeg
from server.frames import ReceivedFrame
from server.processing.processor import Processor

frame = cv2.resize(np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8), (640, 480))
now = datetime.datetime.now(datetime.UTC)
jpeg = rjpeg.Encoder().encode(frame, quality=50)
processor = Processor(workers=1, max_pixels=2**20, batch=1)

async def run(count):
    for number in range(count):
        await processor.process(
            ReceivedFrame(camera="a", sequence=number, capture_time=now, received_time=now, jpeg=jpeg))

asyncio.run(run(20))
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
asyncio.run(run(20))
print((resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) // 20)
processor.close()
"""
    result = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert int(result.stdout) < 150, "pages taken anew for a frame; 850 where memory is given back"
