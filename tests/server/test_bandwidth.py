"""What a camera's frames would take as plain JPEG files of the same quality."""

import asyncio
import datetime
import itertools

import cv2
import numpy as np
import pytest

import rjpeg
from device.sources.sample import SampleSource
from server.api import bandwidth
from server.api.bandwidth import Comparisons, plain_bits, sample_times
from server.api.pictures import Pictures
from server.frames import ReceivedFrame
from server.processing.processor import Processor

NOON = datetime.datetime(2026, 11, 23, 12, 0, 0, 123456, tzinfo=datetime.UTC)
SECOND = datetime.timedelta(seconds=1)


@pytest.fixture(scope="module")
def decoder():
    return rjpeg.Decoder()


def nearest_plain(frame, shown):
    """Bytes of the smallest plain JPEG that is as near to a frame as what is shown of another file."""

    def distance(picture):
        luma = [cv2.cvtColor(each, cv2.COLOR_BGR2GRAY).astype(float) for each in (picture, frame)]
        return np.mean((luma[0] - luma[1]) ** 2)

    for quality in range(1, 101):
        settings = [cv2.IMWRITE_JPEG_QUALITY, quality, cv2.IMWRITE_JPEG_OPTIMIZE, 1]
        jpeg = cv2.imencode(".jpg", frame, settings)[1]
        if distance(cv2.imdecode(jpeg, cv2.IMREAD_COLOR)) <= distance(shown):
            return len(jpeg)
    raise AssertionError("no quality is as near")


@pytest.mark.slow
@pytest.mark.parametrize("quality", [30, 50, 70])
def test_the_figure_is_near_that_of_the_picture_that_nobody_has_any_more(encoder, decoder, photograph, quality):
    frame = cv2.resize(photograph, (320, 240), interpolation=cv2.INTER_CUBIC)
    frame = np.clip(frame + np.random.default_rng(0).normal(0, 2, frame.shape), 0, 255).astype(np.uint8)
    decoded = decoder.decode_with_details(encoder.encode(frame, quality, coding_size=(240, 320)))
    truth = 8 * nearest_plain(frame, decoded.frame) / (240 * 320)
    assert plain_bits(decoded, encoder) == pytest.approx(truth, rel=0.25)


@pytest.mark.slow
@pytest.mark.parametrize("quality", [30, 50, 70])
def test_the_figure_of_followers_is_near_that_of_the_pictures_that_nobody_has_any_more(encoder, quality):
    source = SampleSource("cam", (480, 272), 5.0)
    sender, receiver, ratios = rjpeg.StreamEncoder(encoder), rjpeg.StreamDecoder(), []
    for number in range(0, 80, 5):
        frame = source.frame(number)
        coded = sender.encode(frame, quality, coding_size=frame.shape[:2])
        shown = receiver.decode_with_details(coded.jpeg)
        if coded.kind != "key" and number % 10 == 0:
            truth = 8 * nearest_plain(frame, shown.frame) / (frame.shape[0] * frame.shape[1])
            ratios.append(plain_bits(shown, encoder) / truth)
    mean = np.exp(np.mean(np.log(ratios)))
    print(f"quality {quality}: {mean:.2f} times the truth over {len(ratios)} followers, {min(ratios):.2f} at least")
    assert mean == pytest.approx(1, abs=0.4)


def test_a_follower_counts_with_its_own_steps_and_no_finer_ones(encoder, stream):
    key, follower = (plain_bits(stream.decoded[place], encoder) for place in (0, 1))
    assert 0.3 * key < follower < key


def test_of_a_frame_that_was_coded_smaller_the_plain_file_is_as_small(encoder, decoder, photograph):
    whole, half = (
        plain_bits(decoder.decode_with_details(encoder.encode(photograph, 50, coding_size=size)), encoder)
        for size in ((150, 201), (80, 96))
    )
    assert 0.15 < half / whole < 0.7


def test_an_ordinary_jpeg_and_a_tiny_one_have_no_figure(encoder, decoder, photograph):
    ordinary = decoder.decode_with_details(cv2.imencode(".jpg", photograph)[1].tobytes())
    assert plain_bits(ordinary, encoder) is None
    tiny = decoder.decode_with_details(encoder.encode(photograph[:12, :12], 50, coding_size=(12, 12)))
    assert plain_bits(tiny, encoder) is None


@pytest.mark.parametrize("seconds", [0, 1, 11, 12, 59, 3600])
def test_a_sample_is_spread_over_the_time_and_ends_with_the_last_frame(seconds):
    last = NOON + seconds * SECOND
    times = sample_times(NOON, last)
    assert times[0] == last
    assert all(NOON <= when <= last for when in times)
    assert len(set(times)) == len(times) <= bandwidth.MAX_SAMPLE
    if seconds >= 11:
        assert len(times) > bandwidth.MAX_SAMPLE // 2
        steps = {earlier - later for later, earlier in itertools.pairwise(times[:0:-1])}
        assert len(steps) == 1


def test_most_of_a_sample_stays_as_time_goes_on():
    before, after = (set(sample_times(NOON, NOON + seconds * SECOND)) for seconds in (3000, 3010))
    assert len(before & after) >= len(before) - 2


class Clock:
    """Seconds that only the test lets pass."""

    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def compared(store, encoder, photograph):
    """A function that asks about cameras while frames are compared, and the numbers of frames that were coded again."""
    processor = Processor(workers=1, max_pixels=2**20)
    clock, rounds = Clock(), []

    async def ask_each(comparisons, cameras):
        done = asyncio.Event()
        working = asyncio.ensure_future(comparisons.keep_comparing(done.set))
        answers = []
        for camera, after in cameras:
            clock.now += after
            asked = comparisons.ask(camera)
            if after >= bandwidth.REFRESH_SECONDS:
                async with asyncio.timeout(60):
                    await done.wait()
                done.clear()
                asked = comparisons.ask(camera)
            answers.append(asked)
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)
        return answers

    def run(*cameras):
        pictures = Pictures(store, processor, 1, restore=False)
        counted = pictures.run

        async def run_counted(work, *arguments):
            rounds.append(work is plain_bits)
            return await counted(work, *arguments)

        pictures.run = run_counted
        try:
            return asyncio.run(ask_each(Comparisons(store, pictures, processor.model, clock=clock), cameras))
        finally:
            pictures.close()

    yield run, rounds
    processor.close()


def add(store, jpeg, number, camera="cam"):
    height, width = rjpeg.Decoder().frame_size(jpeg)
    measures = {"bytes": len(jpeg), "bpp": 8 * len(jpeg) / (height * width), "width": width, "height": height}
    when = NOON + number * SECOND
    frame = ReceivedFrame(camera=camera, sequence=number, capture_time=when, received_time=when, jpeg=jpeg)
    return store.add(frame, measures, None)


LONG = bandwidth.REFRESH_SECONDS


def test_frames_are_coded_again_once_and_only_those_of_cameras_that_are_asked_for(compared, store, jpeg):
    run, rounds = compared
    for number in range(3):
        add(store, jpeg, number)
        add(store, jpeg, number, "other")
    first, second, soon = run(("cam", LONG), ("cam", LONG), ("cam", 1))
    assert first.frames == 3
    assert first == second == soon
    assert sum(rounds) == 3


def test_a_camera_without_frames_or_with_damaged_ones_has_no_figure(compared, store, jpeg):
    run, _ = compared
    add(store, jpeg[: len(jpeg) // 2], 0)
    assert run(("cam", LONG), ("nobody", LONG)) == [None, None]
