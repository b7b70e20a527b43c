"""What `python -m server` shows readers of a camera's followers."""

import io
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest
import requests

import rjpeg
from rjpeg.client import Client
from server.api.pictures import KEPT_COLOR, NOT_SENT_COLOR
from tests.service import Service
from tests.waiting import until

pytestmark = pytest.mark.slow


def send(service, stream, camera="cam", places=None):
    """Post a stream's files a second after each other; their records."""
    records = []
    for place in range(len(stream.files)) if places is None else places:
        headers = {
            "Content-Type": "image/jpeg",
            "Rjpeg-Sequence": str(place),
            "Rjpeg-Capture-Time": f"2026-03-04T05:06:{place:02d}Z",
        }
        body = stream.files[place].jpeg
        answer = requests.post(service.post_url(camera), data=body, headers=headers, timeout=60)
        assert answer.status_code == 201, answer.text
        records.append(answer.json())
    return records


@pytest.fixture(scope="module")
def shown(stream, tmp_path_factory):
    """A service that has a stream, and the records of its frames. Its memory holds a single base."""
    folder = tmp_path_factory.mktemp("followers")
    size = rjpeg.Decoder().base_of(stream.files[0].jpeg).nbytes
    (folder / "server.yaml").write_text(f"decoding: {{base_bytes: {size}}}\n")
    service = Service("--config", folder / "server.yaml", data=folder / "data")
    yield service, send(service, stream)
    service.stop()


def kept_pixels(decoded):
    """(H, W) bool: what a follower takes from its base."""
    coded = decoded.kept.repeat(16, axis=0).repeat(16, axis=1)[: decoded.coding_size[0], : decoded.coding_size[1]]
    return cv2.resize(coded.astype(np.uint8), decoded.frame.shape[1::-1], interpolation=cv2.INTER_NEAREST) == 1


def metric(service, name):
    lines = dict(line.rsplit(" ", 1) for line in service.get("/metrics").text.splitlines() if line[0] != "#")
    return float(lines[name])


def test_every_frame_is_decoded_to_what_the_stream_shows_in_any_order(shown, stream):
    service, records = shown
    for place in [*range(len(records)), *range(len(records))[::-1]]:
        np.testing.assert_array_equal(service.picture(records[place]), stream.decoded[place].frame)
        kept = stream.decoded[place].kept
        assert records[place]["kept"] == (None if kept is None else pytest.approx(kept.mean(), abs=1e-4))
    assert metric(service, "rjpeg_base_bytes") <= rjpeg.Decoder().base_of(stream.files[0].jpeg).nbytes
    assert metric(service, "rjpeg_bases_decoded") > 3, "one that was dropped is read again"


def test_only_what_a_follower_sends_is_shown_if_asked_for(shown, stream):
    service, records = shown
    for place in (0, 1, len(records) - 1):
        path = f"/v1/cameras/cam/frames/{records[place]['id']}/picture?format=npy"
        answer, whole = service.get(path + "&view=sent"), service.get(path)
        assert answer.headers["ETag"] != whole.headers["ETag"]
        sent, decoded = np.load(io.BytesIO(answer.content)), stream.decoded[place]
        if decoded.kept is None:
            np.testing.assert_array_equal(sent, decoded.frame)
            continue
        kept = kept_pixels(decoded)
        assert (sent[kept] == NOT_SENT_COLOR).all()
        np.testing.assert_array_equal(sent[~kept], decoded.frame[~kept])
    assert service.get("/v1/cameras/cam/frames/latest/picture?view=both").status_code == 400


def test_the_map_of_a_follower_says_what_is_kept_how_good_it_is_and_what_the_rest_costs(shown, stream):
    service, records = shown
    key = service.get(f"/v1/cameras/cam/frames/{records[0]['id']}/map").json()
    assert key["kept"] is None
    for place in (1, stream.first("patch"), len(records) - 1):
        decoded = stream.decoded[place]
        answer = service.get(f"/v1/cameras/cam/frames/{records[place]['id']}/map").json()
        np.testing.assert_array_equal(answer["kept"], decoded.kept)
        assert answer["levels"] is answer["predictor"] is None
        assert answer["refined"] == 0
        bits = np.array(answer["bits"])
        assert (bits[decoded.kept] == 0).all()
        assert (bits[~decoded.kept] > 0).all()
        assert bits.sum() == pytest.approx(8 * rjpeg.inspect(stream.files[place].jpeg)["segments"]["scan"], rel=0.1)
        if len(stream.chain(place)) == 1:
            # a region that is kept is as good as in the key
            quality, of_key = np.array(answer["quality"]), np.array(key["quality"])
            np.testing.assert_allclose(quality[decoded.kept], of_key[decoded.kept], rtol=0.05)


@pytest.mark.parametrize("of", ["quality", "bits"])
def test_kept_regions_are_gray_on_the_drawn_map(shown, stream, of):
    service, records = shown
    answer = service.get(f"/v1/cameras/cam/frames/{records[1]['id']}/map.png?of={of}")
    picture = cv2.imdecode(np.frombuffer(answer.content, np.uint8), cv2.IMREAD_UNCHANGED)
    kept = kept_pixels(stream.decoded[1])
    assert picture.shape == (160, 208, 4)
    assert (picture[kept][:, :3] == KEPT_COLOR).all()
    assert not (picture[~kept][:, :3] == KEPT_COLOR).all(axis=1).any()


def test_frames_are_found_by_the_id_of_their_file(shown, stream):
    service, records = shown
    for place, file in enumerate(stream.files):
        found = service.get(f"/v1/cameras/cam/frames?file_id={file.id}").json()
        assert [frame["id"] for frame in found["frames"]] == ([records[place]["id"]] if file.kind != "follower" else [])
    assert service.get("/v1/cameras/cam/frames?file_id=123").status_code == 400
    assert service.get("/v1/cameras/cam").json()["last_kind"] == stream.files[-1].kind


def test_the_timeline_tells_what_of_the_bytes_is_of_followers(shown, stream):
    service, records = shown
    query = "since=2026-03-04T05:00:00Z&until=2026-03-04T05:59:00Z&bins=1"
    [piece] = service.get(f"/v1/cameras/cam/timeline?{query}").json()["bins"]
    assert piece["bytes"] - piece["follower_bytes"] == len(stream.files[0].jpeg)
    assert piece["followers"] == len(records) - 1


def test_a_program_s_own_decoder_gets_the_keys_that_it_has_not_seen(shown, stream):
    service, records = shown
    decoder = rjpeg.Decoder()
    with Client(service.url) as client:
        live = client.stream("cam", decoder=decoder)
        np.testing.assert_array_equal(next(live), stream.decoded[-1].frame)
        for place, record in enumerate(records):
            chain = client.bases("cam", record["id"])
            assert chain == [stream.files[base].jpeg for base in stream.chain(place)]
        found = client.map("cam", records[1]["id"])
        np.testing.assert_array_equal(found.kept, stream.decoded[1].kept)
        frame = client.frame("cam", records[1]["id"])
        assert (frame.kind, frame.file_id, frame.key_frame) == ("follower", stream.files[1].id, records[0]["id"])


def test_live_pictures_and_events_are_of_whole_frames(start, stream):
    service = start()
    last = stream.first("patch") + 1
    send(service, stream, places=range(last))
    with Client(service.url) as client, Client(service.url) as other, ThreadPoolExecutor(1) as pool:
        pictures = client.stream("cam")
        assert cv2.PSNR(next(pictures), stream.decoded[last - 1].frame) > 30
        event = pool.submit(next, other.events("cam"))
        until(lambda: metric(service, "rjpeg_streams") == 2)
        [record] = send(service, stream, places=[last])
        assert event.result(30).kept == record["kept"]
        until(lambda: cv2.PSNR(next(pictures), stream.decoded[last].frame) > 30)


def test_a_task_is_asked_about_whole_frames(start, stream, tmp_path):
    (tmp_path / "mean_task.py").write_text("def look(frame, meta):\n    return [float(frame.mean()), *frame.shape]\n")
    (tmp_path / "task.yaml").write_text("kind: python\nfunction: mean_task:look\n")
    service = start("--task", tmp_path / "task.yaml", environment={"PYTHONPATH": str(tmp_path)})
    for place, record in enumerate(send(service, stream)):
        assert record["results"] == [float(stream.decoded[place].frame.mean()), 160, 208, 3]


def test_bandwidth_is_of_all_files_beside_plain_ones_of_the_same_frames(shown, stream):
    service, records = shown
    answer = {}

    def compared():
        answer.update(service.get("/v1/cameras/cam/bandwidth").json())
        return answer["sample"] == len(records)

    until(compared, seconds=60)
    size = sum(len(file.jpeg) for file in stream.files)
    assert (answer["frames"], answer["bytes"]) == (len(records), size)
    assert answer["bytes"] - answer["follower_bytes"] == len(stream.files[0].jpeg)
    assert answer["bpp"] == pytest.approx(8 * size / (len(records) * 160 * 208), abs=1e-3)
    # plain files are about as large as the key, each
    of_key = 8 * len(stream.files[0].jpeg) / (160 * 208)
    assert 0.5 * of_key < answer["plain_jpeg_bpp"] < 1.5 * of_key
    assert answer["ratio"] == pytest.approx(answer["plain_jpeg_bpp"] / answer["bpp"], abs=0.01)
    assert answer["ratio"] > 2
