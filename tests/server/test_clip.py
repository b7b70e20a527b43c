"""Clips: the frames of some time as a video that other programs read."""

import datetime
import io

import av
import cv2
import numpy as np
import pytest
import requests

from server.api.clip import ClipWriter
from tests.service import make_token

NOON = datetime.datetime(2026, 3, 4, 12, 0, 0, tzinfo=datetime.UTC)
SECOND = datetime.timedelta(seconds=1)


def frame_of(number: int, size: tuple[int, int] = (64, 80)) -> np.ndarray:
    """A gray picture, another for each number."""
    return np.full((*size, 3), 40 + 40 * number, np.uint8)


def read(data: bytes) -> list[tuple[float, float, tuple[int, int]]]:
    """Seconds, gray level, and (width, height) of a file's frames."""
    with av.open(io.BytesIO(data)) as container:
        return [
            (frame.time, float(frame.to_ndarray(format="bgr24").mean()), (frame.width, frame.height))
            for frame in container.decode(video=0)
        ]


def written(frames: list[tuple[np.ndarray, datetime.datetime]]) -> bytes:
    writer = ClipWriter()
    return b"".join([writer.add(*each) for each in frames] + [writer.finish()])


def test_each_frame_is_shown_from_its_capture_time_on():
    times = [0.0, 0.5, 7.25, 7.5]
    data = written([(frame_of(number), NOON + second * SECOND) for number, second in enumerate(times)])
    found = read(data)
    assert [seconds for seconds, _, _ in found] == pytest.approx(times, abs=0.002)
    assert [level for _, level, _ in found] == pytest.approx([40, 80, 120, 160], abs=6)


def test_frames_of_equal_or_earlier_times_follow_each_other():
    found = read(written([(frame_of(number), NOON - number * SECOND) for number in range(3)]))
    assert [seconds for seconds, _, _ in found] == pytest.approx([0, 0.001, 0.002], abs=0.0005)


def test_odd_and_other_sizes_become_the_first_frame_s_even_size():
    frames = [(frame_of(0, (63, 81)), NOON), (frame_of(1, (120, 160)), NOON + SECOND)]
    assert [size for _, _, size in read(written(frames))] == [(82, 64), (82, 64)]


def test_a_clip_that_is_given_up_leaves_nothing_open():
    writer = ClipWriter()
    writer.add(frame_of(0), NOON)
    writer.close()
    writer.close()
    ClipWriter().close()


@pytest.fixture(scope="module")
def filmed(steady):
    """A server with a camera of six frames, a second after each other."""
    service, _ = steady
    for number in range(6):
        body = cv2.imencode(".jpg", frame_of(number), [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes()
        about = {"Rjpeg-Sequence": str(number), "Rjpeg-Capture-Time": (NOON + number * SECOND).isoformat()}
        headers = {"Content-Type": "image/jpeg"} | about
        assert requests.post(service.post_url("filmed"), data=body, headers=headers, timeout=30).status_code == 201
    return service


def clip(service, since, until, camera="filmed", **more):
    query = {"since": (NOON + since * SECOND).isoformat(), "until": (NOON + until * SECOND).isoformat()} | more
    return service.get(f"/v1/cameras/{camera}/clip", params=query)


def test_a_clip_has_the_frames_of_its_time_and_no_others(filmed):
    answer = clip(filmed, 1, 4)
    assert answer.status_code == 200
    assert answer.headers["Content-Type"] == "video/mp4"
    assert answer.headers["Content-Disposition"] == 'attachment; filename="filmed-20260304T120001Z.mp4"'
    found = read(answer.content)
    assert [seconds for seconds, _, _ in found] == pytest.approx([0, 1, 2], abs=0.002)
    assert [level for _, level, _ in found] == pytest.approx([80, 120, 160], abs=6)


@pytest.mark.parametrize(
    ("since", "until", "camera", "more", "status", "text"),
    [
        (1, 1, "filmed", {}, 400, "since must be before until"),
        (10, 20, "filmed", {}, 404, "no frame in this time"),
        (1, 4, "nowhere", {}, 404, "no such camera"),
        (1, 4, "filmed", {"format": "avi"}, 400, "format"),
        (1, 4, "filmed", {"view": "x", "format": ""}, 400, "format"),
    ],
)
def test_a_wrong_request_says_what_is_wrong(filmed, since, until, camera, more, status, text):
    answer = clip(filmed, since, until, camera, **more)
    assert answer.status_code == status
    assert text in answer.json()["error"]


@pytest.mark.slow
def test_followers_are_shown_whole_and_only_those_who_may_see_the_camera_get_a_clip(start, stream, tmp_path):
    data = tmp_path / "data"
    service = start("--auth", "on", data=data)
    sender, reader, other = (
        make_token(data, *flags)
        for flags in (("--camera", "cam"), ("--reader", "--camera", "cam"), ("--reader", "--camera", "gate"))
    )
    for number, file in enumerate(stream.files):
        about = {"Rjpeg-Sequence": str(number), "Rjpeg-Capture-Time": (NOON + number * SECOND).isoformat()}
        headers = {"Content-Type": "image/jpeg", "Authorization": f"Bearer {sender}"} | about
        assert requests.post(service.post_url(), data=file.jpeg, headers=headers, timeout=30).status_code == 201
    for token, status in ((None, 401), (other, 403), (reader, 200)):
        service.token = token
        answer = clip(service, 0, 100, "cam")
        assert answer.status_code == status
    found = read(answer.content)
    assert len(found) == len(stream.files)
    assert len({size for _, _, size in found}) == 1
