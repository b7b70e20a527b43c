"""What `python -m server` gives to readers."""

import io
import urllib.parse

import cv2
import numpy as np
import pytest
import requests

import rjpeg
from rjpeg import _maps as maps
from tests.waiting import until

HEADERS = {"Content-Type": "image/jpeg"}


def post(service, jpeg, camera, sequence, time="2026-03-04T05:06:07Z", **headers):
    headers = HEADERS | {"Rjpeg-Sequence": str(sequence), "Rjpeg-Capture-Time": time} | headers
    answer = requests.post(service.post_url(camera), data=jpeg, headers=headers, timeout=30)
    assert answer.status_code == 201, answer.text
    return answer.json()


@pytest.fixture(scope="module")
def stored(steady, jpeg, photograph):
    """The service, and the record of a Region JPEG of camera `region` and of an ordinary one of camera `plain`."""
    service, _ = steady
    ordinary = cv2.imencode(".jpg", photograph)[1].tobytes()
    return service, post(service, jpeg, "region", 1), post(service, ordinary, "plain", 1)


@pytest.mark.slow
def test_cameras_are_listed_by_name_with_their_last_minute(start, jpeg):
    service = start()
    assert service.get("/v1/cameras").json() == {"cameras": [], "next": None}
    post(service, jpeg, "b", 1, "2026-03-04T05:06:07Z")
    last = post(service, jpeg, "b", 2, "2026-03-04T05:06:09Z")
    post(service, jpeg, "a", 1)
    [a, b] = service.get("/v1/cameras").json()["cameras"]
    assert (a["camera"], b["camera"]) == ("a", "b")
    assert b == service.get("/v1/cameras/b").json() | {key: b[key] for key in ("fps", "bitrate", "silent_seconds")}
    assert (b["frames"], b["bytes"], b["last_frame"]) == (2, 2 * len(jpeg), last["id"])
    assert b["first_capture_time"] == "2026-03-04T05:06:07.000000Z"
    assert b["last_capture_time"] == "2026-03-04T05:06:09.000000Z"
    assert b["last_received_time"] == last["received_time"]
    assert 0 < b["fps"] <= 2
    assert b["bitrate"] == pytest.approx(b["fps"] * 8 * len(jpeg), rel=0.01)
    assert b["bpp"] == pytest.approx(last["bpp"], abs=1e-4)
    assert b["drops"] is None


@pytest.mark.slow
def test_frames_are_listed_newest_first_page_by_page(start, jpeg):
    service = start()
    for number in range(7):
        post(service, jpeg, "cam", number, f"2026-03-04T05:06:{10 + number}Z")
    url, pages = "/v1/cameras/cam/frames?limit=3", []
    while url:
        answer = service.get(url).json()
        pages.append([frame["sequence"] for frame in answer["frames"]])
        url = answer["next"]
    assert pages == [[6, 5, 4], [3, 2, 1], [0]]
    between = service.get("/v1/cameras/cam/frames?since=2026-03-04T05:06:12Z&until=2026-03-04T05:06:15Z&limit=2").json()
    assert [frame["sequence"] for frame in between["frames"]] == [4, 3]
    rest = service.get(between["next"]).json()
    assert [frame["sequence"] for frame in rest["frames"]] == [2]
    assert rest["next"] is None


@pytest.mark.slow
def test_one_frame_is_given_by_its_id_or_as_the_latest(stored):
    service, region, _ = stored
    assert service.get(f"/v1/cameras/region/frames/{region['id']}").json() == region
    assert service.get("/v1/cameras/region/frames/latest").json() == region
    assert service.get(f"/v1/cameras/region/frames/{region['id']}/results").json() == {"results": None}


@pytest.mark.slow
@pytest.mark.parametrize(
    "path",
    [
        "/v1/cameras/nobody",
        "/v1/cameras/nobody/frames",
        "/v1/cameras/nobody/timeline",
        "/v1/cameras/nobody/stream",
        "/v1/cameras/nobody/frames/latest",
        "/v1/cameras/nobody/frames/1/jpeg",
        "/v1/cameras/region/frames/999999/map",
        "/v1/cameras/region/frames/9223372036854775807/picture",
    ],
)
def test_what_is_not_there_is_answered_404(stored, path):
    answer = stored[0].get(path)
    assert answer.status_code == 404
    assert answer.json()["error"].startswith("no such")


def test_a_timeline_of_no_time_has_no_pieces_and_one_of_some_milliseconds_has_few(stored):
    service, *_ = stored
    when = "2026-03-04T05:06:07"
    for end, pieces in ((".000Z", 0), (".0005Z", 0), (".003Z", 3), (".900Z", 60)):
        found = service.get(f"/v1/cameras/region/timeline?since={when}.000Z&until={when}{end}").json()
        assert len(found["bins"]) == pieces
    assert service.get(f"/v1/cameras/region/timeline?since={when}.001Z&until={when}.000Z").status_code == 400


def test_all_methods_of_a_path_are_named(stored):
    service, *_ = stored
    for path, methods in (
        ("/v1/cameras/region/frames", "GET, POST"),
        ("/v1/cameras/region/importance", "GET, PUT"),
        ("/v1/session", "DELETE, POST"),
        ("/healthz", "GET"),
    ):
        answer = requests.options(service.url + path, timeout=10)
        assert (answer.status_code, answer.headers["Allow"]) == (405, methods)


def test_files_come_as_plain_bytes_if_that_is_what_is_asked_for(stored):
    service, region, _ = stored
    for view, kind in (("jpeg", "image/jpeg"), ("map.png", "image/png")):
        url = f"{service.url}/v1/cameras/region/frames/{region['id']}/{view}"
        usual = requests.get(url, timeout=10)
        plain = requests.get(url, headers={"Accept": "application/octet-stream"}, timeout=10)
        assert (usual.headers["Content-Type"], plain.headers["Content-Type"]) == (kind, "application/octet-stream")
        assert usual.content == plain.content


def test_a_frame_of_another_camera_is_not_there(stored):
    service, region, _ = stored
    assert service.get(f"/v1/cameras/plain/frames/{region['id']}").status_code == 404


@pytest.mark.parametrize(
    "path",
    [
        "frames/0",
        "frames/-1",
        "frames/9223372036854775808",
        "frames/last",
        "frames/1.0",
        "frames?limit=0",
        "frames?limit=1001",
        "frames?before=0",
        "frames?since=yesterday",
        "frames/latest/picture?format=gif",
        "frames/latest/map.png?of=luma",
        "timeline?bins=0",
        "timeline?bins=1001",
        "stream?fps=0",
        "stream?view=both",
        "timeline?since=2026-01-01T00:00:01Z&until=2026-01-01T00:00:00Z",
        "stream?fps=nan",
        "frames/latest/picture?restore=perhaps",
    ],
)
def test_a_malformed_question_is_answered_400_and_says_what_is_wrong(stored, path):
    answer = stored[0].get(f"/v1/cameras/region/{path}")
    assert answer.status_code == 400
    assert answer.json()["error"]


def test_the_picture_is_what_the_library_decodes_in_every_form(stored, jpeg):
    service, region, _ = stored
    expected = rjpeg.Decoder().decode(jpeg)
    base = f"/v1/cameras/region/frames/{region['id']}/picture"
    png = service.get(base)
    assert png.headers["Content-Type"] == "image/png"
    assert png.headers["Cache-Control"] == "private, no-cache"
    np.testing.assert_array_equal(cv2.imdecode(np.frombuffer(png.content, np.uint8), cv2.IMREAD_COLOR), expected)
    np.testing.assert_array_equal(np.load(io.BytesIO(service.get(base + "?format=npy").content)), expected)
    lossy = cv2.imdecode(np.frombuffer(service.get(base + "?format=jpeg").content, np.uint8), cv2.IMREAD_COLOR)
    assert cv2.PSNR(lossy, expected) > 30
    assert service.get("/v1/cameras/region/frames/latest/picture").headers["Cache-Control"] == "no-store"


@pytest.mark.slow
def test_a_picture_is_restored_where_that_is_asked_for(stored, start, jpeg):
    service, region, _ = stored
    restored = rjpeg.Decoder(restore=True).decode(jpeg)
    base = f"/v1/cameras/region/frames/{region['id']}/picture?format=npy"
    np.testing.assert_array_equal(np.load(io.BytesIO(service.get(base + "&restore=true").content)), restored)
    assert (np.load(io.BytesIO(service.get(base + "&restore=false").content)) != restored).any()
    other = start("--restore")
    record = post(other, jpeg, "cam", 1)
    np.testing.assert_array_equal(other.picture(record), restored)


def test_the_map_says_levels_quality_and_bits_of_every_region(stored, jpeg):
    service, region, _ = stored
    answer = service.get(f"/v1/cameras/region/frames/{region['id']}/map").json()
    facts = rjpeg.inspect(jpeg)
    details = rjpeg.Decoder().decode_with_details(jpeg)
    assert (answer["rows"], answer["cols"]) == (facts["rows"], facts["cols"])
    np.testing.assert_array_equal(answer["levels"], facts["quality_map"])
    np.testing.assert_allclose(answer["quality"], facts["quality_factors"], atol=0.01)
    np.testing.assert_array_equal(answer["predictor"], details.predictor_map)
    np.testing.assert_array_equal(answer["bits"], rjpeg.region_bits(jpeg).round(1))
    assert answer["refined"] == facts["refined_levels"]


def test_an_ordinary_jpeg_has_bits_but_no_map(stored):
    service, _, plain = stored
    base = f"/v1/cameras/plain/frames/{plain['id']}"
    answer = service.get(base + "/map").json()
    assert answer["levels"] is answer["quality"] is answer["predictor"] is None
    assert np.shape(answer["bits"]) == (answer["rows"], answer["cols"]) == (10, 13)
    assert service.get(base + "/map.png").status_code == 404
    assert service.get(base + "/map.png?of=bits").status_code == 200


@pytest.mark.parametrize("of", ["quality", "bits"])
def test_the_map_as_a_picture_lies_over_the_frame(stored, jpeg, of):
    service, region, _ = stored
    answer = service.get(f"/v1/cameras/region/frames/{region['id']}/map.png?of={of}")
    picture = cv2.imdecode(np.frombuffer(answer.content, np.uint8), cv2.IMREAD_UNCHANGED)
    assert picture.shape == (150, 201, 4)
    assert 0 < picture[..., 3].min() == picture[..., 3].max() < 255
    if of == "quality":
        facts = rjpeg.inspect(jpeg)
        drawn = maps.draw(facts["quality_factors"][..., 0], facts["coding_size"], (150, 201))
        np.testing.assert_array_equal(picture[..., :3], drawn)


@pytest.mark.slow
def test_the_timeline_counts_frames_by_capture_time(start, jpeg):
    service = start()
    for number, second in enumerate((0, 1, 5, 9)):
        post(service, jpeg, "cam", number, f"2026-03-04T05:06:0{second}Z")
    query = urllib.parse.urlencode({"since": "2026-03-04T05:06:00Z", "until": "2026-03-04T05:06:10Z", "bins": 5})
    bins = service.get(f"/v1/cameras/cam/timeline?{query}").json()["bins"]
    assert [item["frames"] for item in bins] == [2, 0, 1, 0, 1]
    assert [item["bytes"] for item in bins] == [2 * len(jpeg), 0, len(jpeg), 0, len(jpeg)]
    nothing = {"frames": 0, "bytes": 0, "followers": 0, "follower_bytes": 0, "bpp": None}
    assert bins[1] == {"start": "2026-03-04T05:06:02.000000Z"} | nothing
    assert bins[0]["bpp"] == pytest.approx(8 * len(jpeg) / (201 * 150), abs=1e-3)
    assert len(service.get("/v1/cameras/cam/timeline").json()["bins"]) == 60


@pytest.mark.slow
def test_bandwidth_of_an_ordinary_jpeg_is_its_own_and_nobody_s_is_not_there(stored):
    service, region, plain = stored
    first = service.get("/v1/cameras/plain/bandwidth").json()
    assert first["bpp"] == pytest.approx(plain["bpp"], abs=1e-4)
    until(lambda: service.get("/v1/cameras/plain/bandwidth").json()["ratio"] == pytest.approx(1, abs=1e-3))
    answer = until(lambda: known(service.get("/v1/cameras/region/bandwidth").json()))
    assert (answer["frames"], answer["bytes"], answer["sample"]) == (1, region["bytes"], 1)
    assert answer["follower_bytes"] == 0
    assert 0.6 < answer["ratio"] < 1.6
    assert service.get("/v1/cameras/nobody/bandwidth").status_code == 404


def known(answer):
    return answer if answer["plain_jpeg_bpp"] is not None else None


@pytest.mark.slow
def test_prometheus_can_read_the_figures(start, jpeg):
    service = start()
    post(service, jpeg, "cam", 1)
    requests.post(service.post_url(), data=b"x", headers=HEADERS, timeout=10)
    requests.post(
        service.post_url(),
        data=jpeg,
        timeout=10,
        headers=HEADERS | {"Rjpeg-Sequence": "1", "Rjpeg-Capture-Time": "2026-03-04T05:06:07Z"},
    )
    answer = service.get("/metrics")
    assert answer.headers["Content-Type"].startswith("text/plain")
    lines = dict(line.rsplit(" ", 1) for line in answer.text.splitlines() if line[0] != "#")
    assert lines['rjpeg_frames_received_total{camera="cam"}'] == "1.0"
    assert lines['rjpeg_received_bytes_total{camera="cam"}'] == str(float(len(jpeg)))
    assert lines['rjpeg_duplicates_total{camera="cam"}'] == "1.0"
    assert lines['rjpeg_frames_failed_total{reason="jpeg"}'] == "1.0"
    assert lines['rjpeg_http_answers_total{method="POST",status="422"}'] == "1.0"
    assert float(lines['rjpeg_stage_seconds_count{stage="decode"}']) == 1
    assert "process_resident_memory_bytes" in lines


@pytest.mark.slow
def test_every_answer_has_the_security_headers(stored):
    service, region, _ = stored
    for path in ("/healthz", "/nowhere", f"/v1/cameras/region/frames/{region['id']}/jpeg", "/openapi.json"):
        headers = service.get(path).headers
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert "default-src 'self'" in headers["Content-Security-Policy"]
        assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
        assert headers["Referrer-Policy"] == "no-referrer"
        assert "Server" not in headers


@pytest.mark.slow
def test_a_reader_that_asks_for_many_pictures_at_a_time_is_told_to_come_later_or_served(stored):
    from concurrent.futures import ThreadPoolExecutor

    service, region, _ = stored
    url = f"/v1/cameras/region/frames/{region['id']}/map.png"
    with ThreadPoolExecutor(60) as pool:
        statuses = {answer.status_code for answer in pool.map(lambda _: service.get(url), range(120))}
    assert statuses <= {200, 429}
    assert 200 in statuses
