"""What other programs see of a camera: stream and snapshot, by a password or a signed link."""

import contextlib
import time
import urllib.parse

import av
import cv2
import numpy as np
import pytest
import requests

import rjpeg
from server.api.access import MAX_LINK_SECONDS
from server.store import tokens
from server.store.database import Database
from tests.service import Service
from tests.waiting import until

SIZE = (320, 240)
VIEWS = ("/v1/cameras/yard/stream", "/v1/cameras/yard/snapshot")


@contextlib.contextmanager
def tokens_of(data):
    """Yield the tokens of a service's folder."""
    data.mkdir(exist_ok=True)
    store = tokens.TokenDatabase(Database(f"sqlite:///{data}/server.sqlite3"))
    yield store
    store.database.close()


@pytest.fixture(scope="module")
def guarded(tmp_path_factory, photograph):
    """A service that wants tokens, its tokens by name, and a frame of camera `yard` whose file is reduced."""
    data = tmp_path_factory.mktemp("viewers")
    with tokens_of(data) as store:
        secrets = {
            "yard": tokens.make(store, "camera", "yard"),
            "reader": tokens.make(store, "reader"),
            "reader of gate": tokens.make(store, "reader", "gate"),
            "manager": tokens.make(store, "manager"),
        }
    service = Service("--auth", "on", data=data)
    frame = cv2.resize(photograph, SIZE, interpolation=cv2.INTER_CUBIC)
    jpeg = rjpeg.Encoder().encode(frame, quality=30, coding_size=(160, 208))
    headers = {"Content-Type": "image/jpeg", "Authorization": f"Bearer {secrets['yard']}"}
    requests.post(service.post_url("yard"), data=jpeg, headers=headers, timeout=30).raise_for_status()
    yield service, secrets
    service.stop()
    said = "".join(service.messages)
    assert not any(secret in said for secret in secrets.values())
    assert "signature=" not in said


def size_of(jpeg):
    """Return (width, height) of a file in a viewer that knows nothing."""
    height, width = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR).shape[:2]
    return width, height


def first_part(service, path, **options):
    """Return the first picture of a stream."""
    with service.get(path, stream=True, **options) as answer:
        assert answer.status_code == 200, answer.text
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += answer.raw.read(1)
        length = next(line for line in head.split(b"\r\n") if line.startswith(b"Content-Length: "))
        return answer.raw.read(int(length.split(b": ")[1]))


def link(service, token, **query):
    """Return the path of a signed link."""
    answer = service.get(
        f"/v1/cameras/yard/link?{urllib.parse.urlencode(query)}", headers={"Authorization": f"Bearer {token}"}
    )
    assert answer.status_code == 200, answer.text
    return answer.json()["path"]


def with_query(path, **changed):
    """Return a link with other values."""
    place, _, query = path.partition("?")
    return f"{place}?{urllib.parse.urlencode(dict(urllib.parse.parse_qsl(query)) | changed)}"


def test_stream_and_snapshot_have_the_frame_s_size_though_the_file_is_smaller(guarded):
    service, secrets = guarded
    basic = ("whoever", secrets["reader"])
    sent = service.get("/v1/cameras/yard/frames/latest/jpeg", auth=basic).content
    assert size_of(sent) == (208, 160)
    snapshot = service.get("/v1/cameras/yard/snapshot", auth=basic)
    assert (size_of(snapshot.content), snapshot.headers["Content-Type"]) == (SIZE, "image/jpeg")
    assert snapshot.headers["Cache-Control"] == "no-store"
    assert size_of(first_part(service, "/v1/cameras/yard/stream", auth=basic)) == SIZE
    assert service.get("/v1/cameras/nobody/snapshot", auth=basic).status_code == 404


def test_a_reader_s_token_is_a_password_for_reading_alone(guarded):
    service, secrets = guarded
    for name, status in (("reader", 200), ("reader of gate", 403), ("yard", 403), ("manager", 403)):
        for path in ("/v1/cameras/yard/snapshot", "/v1/cameras/yard"):
            assert service.get(path, auth=("me", secrets[name])).status_code == status, name
    for path in VIEWS:
        wrong = service.get(path, auth=("me", "wrong"))
        assert wrong.status_code == 401
        assert wrong.headers["WWW-Authenticate"].startswith('Basic realm="Region JPEG"')
        for header in ("Basic", "Basic ????", "Basic " + "A" * 9000, f"Basic {secrets['reader']}"):
            assert service.get(path, headers={"Authorization": header}).status_code in (401, 431)
    sends = requests.post(service.post_url("yard"), data=b"", auth=("yard", secrets["yard"]), timeout=10)
    assert sends.status_code == 401, "a browser sends a password by itself, as it does a cookie"


def test_a_player_shows_the_stream_by_user_name_and_password_in_the_address(guarded):
    service, secrets = guarded
    address = service.url.replace("://", f"://viewer:{secrets['reader']}@")
    with av.open(f"{address}/v1/cameras/yard/stream", timeout=20) as opened:
        frame = next(opened.decode(video=0))
    assert (frame.width, frame.height) == SIZE
    link_to = service.url + link(service, secrets["reader"])
    with av.open(link_to, timeout=20) as opened:
        frame = next(opened.decode(video=0))
    assert (frame.width, frame.height) == SIZE


@pytest.mark.parametrize("of", ["stream", "snapshot"])
def test_a_link_shows_one_thing_of_one_camera_and_holds_no_token(guarded, of):
    service, secrets = guarded
    path = link(service, secrets["reader"], of=of, seconds=60)
    assert path.startswith(f"/v1/cameras/yard/{of}?")
    assert secrets["reader"].split("_", 2)[2] not in path
    with service.get(path, stream=True) as shown:
        assert shown.status_code == 200
    other = "snapshot" if of == "stream" else "stream"
    query = path.partition("?")[2]
    for elsewhere in (f"/v1/cameras/yard/{other}?{query}", f"/v1/cameras/gate/{of}?{query}"):
        assert service.get(elsewhere).status_code == 403
    for elsewhere in ("/v1/cameras/yard", "/v1/cameras/yard/frames/latest/jpeg", "/v1/cameras", "/v1/events"):
        assert service.get(f"{elsewhere}?{query}").status_code == 401
    assert requests.post(f"{service.post_url('yard')}?{query}", timeout=10).status_code == 401


def test_a_link_that_was_changed_or_whose_time_is_up_is_refused(guarded):
    service, secrets = guarded
    path = link(service, secrets["reader"], of="snapshot", seconds=1)
    now = int(time.time())
    for changed in (
        {"until": now + 3600},
        {"until": 0},
        {"by": 1},
        {"by": 10**12},
        {"signature": "A" * 43},
    ):
        refused = service.get(with_query(path, **changed))
        assert refused.status_code == 403, changed
        assert "make a new one" in refused.json()["error"]
        assert "WWW-Authenticate" not in refused.headers
    assert service.get(with_query(path, signature="ä" * 43)).status_code == 400
    until(lambda: service.get(path).status_code == 403, 10)


def test_a_link_lasts_a_week_at_most_and_is_for_readers_to_make(guarded):
    service, secrets = guarded
    for seconds in ("0", "-1", str(MAX_LINK_SECONDS + 1), "x"):
        asked = service.get(f"/v1/cameras/yard/link?seconds={seconds}", auth=("me", secrets["reader"]))
        assert asked.status_code == 400
    for name in ("yard", "manager", "reader of gate"):
        assert service.get("/v1/cameras/yard/link", auth=("me", secrets[name])).status_code == 403
    assert service.get("/v1/cameras/yard/link").status_code == 401
    assert service.get("/v1/cameras/nobody/link", auth=("me", secrets["reader"])).status_code == 404


@pytest.mark.slow
def test_a_link_and_its_streams_end_with_time_and_with_the_token_that_made_it(start, jpeg, tmp_path):
    with tokens_of(tmp_path) as store:
        camera, reader = tokens.make(store, "camera", "yard"), tokens.make(store, "reader")
    service = start("--auth", "on", data=tmp_path)
    headers = {"Content-Type": "image/jpeg", "Authorization": f"Bearer {camera}"}
    requests.post(service.post_url("yard"), data=jpeg, headers=headers, timeout=30).raise_for_status()
    with service.get(link(service, reader, seconds=2), stream=True) as shown:
        began = time.monotonic()
        assert b"image/jpeg" in b"".join(shown.iter_content(None)), "and then it ends by itself"
        assert time.monotonic() - began < 5
    path = link(service, reader)
    with service.get(path, stream=True) as shown:
        parts = shown.iter_content(None)
        next(parts)
        with tokens_of(tmp_path) as store:
            assert tokens.revoke(store, int(reader.split("_")[1]))
        assert list(parts) is not None, "the stream ends"
    assert service.get(path).status_code == 403


def test_without_tokens_a_link_is_the_plain_address(steady, jpeg):
    service, _ = steady
    requests.post(service.post_url("yard"), data=jpeg, headers={"Content-Type": "image/jpeg"}, timeout=30)
    assert service.get("/v1/cameras/yard/link?of=snapshot").json() == {
        "path": "/v1/cameras/yard/snapshot",
        "until": None,
    }
    assert service.get("/v1/cameras/yard/snapshot").status_code == 200
