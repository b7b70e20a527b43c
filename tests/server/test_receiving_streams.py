"""Keys, patches and followers into `python -m server`: what is taken, what is asked for again, what is kept."""

import random
import signal
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import requests

import rjpeg
from rjpeg.client import Client
from rjpeg.errors import KeyMissingError
from tests.server.streams import Stream
from tests.service import Service
from tests.waiting import until

pytestmark = pytest.mark.slow


def post(service: Service, stream: Stream, place: int, camera: str = "cam", **headers: str) -> requests.Response:
    """Send a file of a stream, a second after the one before."""
    named = {
        "Content-Type": "image/jpeg",
        "Rjpeg-Sequence": str(place),
        "Rjpeg-Capture-Time": f"2026-03-04T05:06:{place:02}.000000Z",
    }
    return requests.post(service.post_url(camera), data=stream.files[place].jpeg, headers=named | headers, timeout=30)


def test_a_stream_is_stored_and_every_frame_is_decoded_as_it_was_sent(start, stream, tmp_path):
    service = start(data=tmp_path)
    records = []
    for place, file in enumerate(stream.files):
        answer = post(service, stream, place)
        assert answer.status_code == 201, answer.text
        record = answer.json()
        records.append(record)
        assert (record["kind"], record["file_id"]) == (file.kind, file.id)
        needed = [records[base]["id"] for base in stream.chain(place)]
        assert [record["key_frame"], record["patch_frame"]] == [*needed, None, None][:2]
    assert service.frames() == records
    # random access, also after a start that knows nothing of the stream
    service.stop(signal.SIGKILL)
    service = start(data=tmp_path)
    for place in (len(records) - 1, 0, len(records) // 2):
        np.testing.assert_array_equal(service.picture(records[place]), stream.decoded[place].frame)
        assert service.jpeg(records[place]) == stream.files[place].jpeg


def test_a_follower_without_its_key_is_answered_409_with_the_key_that_is_missing(steady, stream):
    service, _ = steady
    place = stream.first("follower")
    before = len(service.frames("keyless"))
    answer = post(service, stream, place, "keyless")
    assert answer.status_code == 409
    assert answer.json() == {"error": "key missing", "id": stream.files[place].base_id}
    assert len(service.frames("keyless")) == before
    # the key of another camera is no key of this one
    assert post(service, stream, 0, "keyful").status_code == 201
    assert post(service, stream, place, "keyless").status_code == 409
    # so the camera sends the key again, and then the frame
    assert post(service, stream, 0, "keyless").status_code == 201
    assert post(service, stream, place, "keyless").status_code == 201
    # an answer was lost, and both come once more
    assert post(service, stream, 0, "keyless").status_code == 200
    answer = post(service, stream, place, "keyless")
    assert (answer.status_code, answer.json()["duplicate"]) == (200, True)


@pytest.mark.parametrize("lose", [Path.unlink, lambda path: path.write_bytes(b"cut")], ids=["lost", "damaged"])
def test_a_key_whose_file_was_lost_is_asked_for_stored_again_and_of_use_again(start, stream, tmp_path, lose):
    service, place = start(data=tmp_path), stream.first("follower")
    key = post(service, stream, 0).json()
    service.stop()
    [file] = (tmp_path / "frames" / "cam").rglob("*.jpg")
    lose(file)
    service = start(data=tmp_path)
    answer = post(service, stream, place)
    assert (answer.status_code, answer.json()["id"]) == (409, stream.files[0].id)
    again = post(service, stream, 0)
    assert (again.status_code, again.json()["id"], again.json()["duplicate"]) == (200, key["id"], True)
    record = post(service, stream, place)
    assert record.status_code == 201
    assert service.jpeg(key) == stream.files[0].jpeg
    np.testing.assert_array_equal(service.picture(record.json()), stream.decoded[place].frame)


def test_a_missing_patch_is_asked_for_and_a_missing_key_before_it(steady, stream):
    service, _ = steady
    place = next(number for number in range(len(stream.files)) if len(stream.chain(number)) == 2)
    key, patch = stream.chain(place)
    missing = []
    for sent in (place, patch, key, patch, place):
        answer = post(service, stream, sent, "patched")
        if answer.status_code == 409:
            missing.append(answer.json()["id"])
        else:
            assert answer.status_code == 201
    assert missing == [stream.files[patch].id, stream.files[key].id]


def test_a_follower_that_overtakes_its_key_waits_for_it(start, stream):
    service = start("--workers", "2")
    place = stream.first("follower")
    for number in range(5):
        camera = f"cam{number}"
        with ThreadPoolExecutor(2) as pool:
            key = pool.submit(post, service, stream, 0, camera)
            follower = pool.submit(post, service, stream, place, camera)
        assert key.result().status_code == 201
        # whichever came first: never an error, never a frame without its key
        assert follower.result().status_code in (201, 409)
        for record in service.frames(camera):
            assert record["kind"] == "key" or record["key_frame"] is not None


def test_a_follower_of_another_key_with_the_same_id_is_refused_and_not_shown_wrong(start, stream, tmp_path):
    service = start(data=tmp_path)
    place = stream.first("follower")
    assert post(service, stream, 0).status_code == 201
    # another picture, newer, to which the database gives the key's id
    wrong = rjpeg.Encoder().encode(stream.decoded[-1].frame, quality=30)
    headers = {"Content-Type": "image/jpeg", "Rjpeg-Sequence": "77", "Rjpeg-Capture-Time": "2026-03-04T05:06:00.5Z"}
    assert requests.post(service.post_url(), data=wrong, headers=headers, timeout=30).status_code == 201
    with sqlite3.connect(tmp_path / "server.sqlite3") as database:
        database.execute("UPDATE frames SET file_id = ? WHERE sequence = 77", [stream.files[0].id])
    assert post(service, stream, place).status_code in (409, 422)
    assert [record["kind"] for record in service.frames()] == ["key", "key"]


def test_a_key_is_kept_for_its_followers_and_deleted_with_the_last(start, stream, tmp_path):
    config = tmp_path / "server.yaml"
    sizes = [len(file.jpeg) for file in stream.files]
    limit = sizes[0] + sum(sizes[-2:]) + sum(sizes) // 4
    config.write_text(f"retention: {{bytes: {limit}, every_seconds: 0.1}}")
    service = start("--config", config, data=tmp_path / "data")
    for camera in ("one", "two"):
        for place in range(len(sizes)):
            answer = post(service, stream, place, camera)
            assert answer.status_code in (201, 409)
    until(lambda: sum(camera["bytes"] for camera in service.get("/v1/cameras").json()["cameras"]) <= limit)
    found = service.frames("two")
    assert found
    ids = {record["id"] for record in found}
    for record in found:
        assert {record["key_frame"], record["patch_frame"]} - {None} <= ids
        assert service.picture(record).shape == (160, 208, 3)


def test_a_missing_key_is_no_failure_of_the_frame(start, stream):
    service = start()
    assert post(service, stream, stream.first("follower")).status_code == 409
    metrics = service.get("/metrics").text
    assert 'rjpeg_http_answers_total{method="POST",status="409"} 1.0' in metrics
    assert "rjpeg_frames_failed_total{" not in metrics
    service.stop()
    assert service.records() == []


def test_the_client_names_the_missing_key_so_that_its_encoder_can_do_without(steady, photograph):
    service, _ = steady
    encoder = rjpeg.StreamEncoder()
    with Client(service.url) as client:
        # the key is lost on its way
        key, follower = (encoder.encode(photograph, quality=50) for _ in range(2))
        assert (key.kind, follower.kind) == ("key", "follower")
        with pytest.raises(KeyMissingError) as caught:
            client.send("client", follower.jpeg, sequence=1)
        assert caught.value.id == key.id
        encoder.lost(caught.value.id)
        again = client.send("client", encoder.encode(photograph, quality=50).jpeg, sequence=2)
        last = client.send("client", encoder.encode(photograph, quality=50).jpeg, sequence=3)
        assert (again.kind, last.kind, last.key_frame) == ("key", "follower", again.id)


def test_damaged_followers_are_refused_in_words_and_the_stream_goes_on(start, stream):
    service = start()
    assert post(service, stream, 0).status_code == 201
    place = stream.first("follower")
    chance = random.Random(18)
    for number in range(150):
        damaged = bytearray(stream.files[place].jpeg)
        for _ in range(chance.randint(1, 4)):
            damaged[chance.randrange(2, len(damaged))] = chance.randrange(256)
        named = {"Content-Type": "image/jpeg", "Rjpeg-Sequence": str(100 + number)}
        answer = requests.post(service.post_url(), data=bytes(damaged), headers=named, timeout=30)
        assert answer.status_code in (201, 409, 422), answer.text
    assert post(service, stream, place).status_code == 201
    assert service.stop() == 0
    assert "Traceback" not in "".join(service.messages)
