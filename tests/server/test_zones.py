"""The cameras' zones: who sets and reads them, and how a camera learns of new ones."""

import datetime
import json
from typing import Any

import numpy as np
import pytest
import requests

from rjpeg._zones import CameraZones, Zone, check_zones, pack_zones, parse_zones, unpack_zones
from rjpeg.client import Client
from rjpeg.errors import InputError
from server.errors import OutdatedError
from server.store import Store
from server.store.documents import KEPT_VERSIONS
from tests.server.stores import MEASURES, NOON, received
from tests.service import Service

TRIANGLE = [(0.0, 0.0), (0.5, 0.0), (0.5, 0.4)]
DOOR = Zone("private", TRIANGLE, "door")
JSON = {"Content-Type": "application/json"}
FIRST = int(NOON.timestamp())


def test_versions_only_grow_and_the_last_ten_are_kept(store: Store) -> None:
    store.add(received("gate", 1), MEASURES, None)
    assert store.zones.read("gate") is None
    for number in range(13):
        assert store.zones.write("gate", [DOOR] * number, NOON) == FIRST + number
    version, data = store.zones.read("gate")
    assert unpack_zones(data) == CameraZones(FIRST + 12, [DOOR] * 12)
    assert store.zones.version("gate") == version == FIRST + 12
    kept = [number for number in range(20) if store.zones.read("gate", FIRST + number) is not None]
    assert kept == list(range(13 - KEPT_VERSIONS, 13))
    # a clock that was set back takes no version twice, and maps of importance are counted by themselves
    assert store.zones.write("gate", [], NOON - datetime.timedelta(days=1)) == FIRST + 13
    assert store.importance.version("gate") is None


def test_a_camera_that_was_removed_never_gets_a_version_again_that_its_device_may_have(store: Store) -> None:
    store.add(received("gate", 1), MEASURES, None)
    before = store.zones.write("gate", [], NOON)
    store.remove_camera("gate")
    assert store.zones.read("gate") is None
    store.add(received("gate", 1), MEASURES, None)
    assert store.zones.write("gate", [DOOR], NOON + datetime.timedelta(seconds=1)) == before + 1


def test_zones_that_were_set_meanwhile_are_not_overwritten(store: Store) -> None:
    store.add(received("gate", 1), MEASURES, None)
    first = store.zones.write("gate", [DOOR], NOON, expected=lambda version: version == 0)
    with pytest.raises(OutdatedError, match="gate"):
        store.zones.write("gate", [], NOON, expected=lambda version: version == 0)
    assert unpack_zones(store.zones.read("gate")[1]).zones == [DOOR]
    assert store.zones.write("gate", [], NOON, expected=lambda version: version == first) == first + 1
    assert store.zones.write("nobody", [], NOON) is None


@pytest.mark.parametrize(
    ("zones", "says"),
    [
        ([], None),
        ([{"kind": "watched", "polygon": [[0, 0], [1, 0], [1, 1]]}], None),
        ([{"kind": "secret", "polygon": TRIANGLE}], "secret"),
        ([{"polygon": TRIANGLE}], "kind"),
        ([{"kind": "private", "polygon": TRIANGLE[:2]}], "length >= 3"),
        ([{"kind": "private", "polygon": [[0, 0], [1, 0], [1.1, 1]]}], "<= 1"),
        ([{"kind": "private", "polygon": [[0, 0], [1, 0], [1, 1, 1]]}], "length 2"),
        ([{"kind": "private", "polygon": TRIANGLE, "level": 4}], "level"),
        ([{"kind": "private", "polygon": TRIANGLE, "name": "x" * 65}], "length <= 64"),
        ([{"kind": "private", "polygon": TRIANGLE}] * 65, "length <= 64"),
        (
            [{"kind": "private", "polygon": [[0, 0]] * 100}] * 11,
            "11 zones of 1100 corners, expected at most 64 of 1000",
        ),
    ],
)
def test_what_are_no_zones_is_refused_in_words(zones: Any, says: str | None) -> None:
    given = json.dumps({"zones": zones}).encode()
    stored = json.dumps({"version": 7, "zones": zones}).encode()
    if says is None:
        assert parse_zones(given) == unpack_zones(stored).zones
        return
    for read, data in ((parse_zones, given), (unpack_zones, stored)):
        with pytest.raises(InputError, match=says):
            read(data)


def test_the_largest_zones_fit_a_message_that_a_device_takes() -> None:
    name = "\N{GRINNING FACE}" * 64
    many = [Zone("private", [(0.123456789, 1 / 3)] * 15, name)] * 64
    data = pack_zones(many, 2**32 - 1)
    assert unpack_zones(data).zones[0].polygon[0] == (0.12346, 0.33333)
    for wrong in (b"", b"[]", b"{", b"\xff", b'{"zones": []}', b'{"version": -1, "zones": []}', data + b" " * 2**16):
        with pytest.raises(InputError, match="zones"):
            unpack_zones(wrong)


@pytest.mark.parametrize(
    ("zones", "says"),
    [
        ([Zone("secret", TRIANGLE)], "secret"),  # type: ignore[arg-type]
        ([Zone("private", [(0, 0), (2, 0), (1, 1)])], "<= 1"),
        ([Zone("private", [(0, 0), (float("nan"), 0), (1, 1)])], "null"),
        ([Zone("private", np.zeros((3, 2)))], "expected a list of Zone"),  # type: ignore[arg-type]
        ("private", "array"),
        (None, "array"),
    ],
)
def test_a_program_that_gives_wrong_zones_is_told_in_words(zones: Any, says: str) -> None:
    with pytest.raises(InputError, match=says):
        check_zones(zones)


def test_corners_may_be_numbers_of_numpy() -> None:
    corners = [tuple(corner) for corner in np.array(TRIANGLE, np.float32)]
    assert check_zones((Zone("private", corners),))[0].polygon[2] == pytest.approx((0.5, 0.4))


# --- over HTTP -----------------------------------------------------------------------------------------------------


def put(service: Service, zones: Any, camera: str = "yard", **headers: str):
    data = zones if isinstance(zones, bytes) else json.dumps({"zones": zones})
    return requests.put(f"{service.url}/v1/cameras/{camera}/zones", data=data, headers=JSON | headers, timeout=30)


@pytest.fixture(scope="module")
def service(steady: tuple[Service, object], jpeg: bytes) -> Service:
    """A server that needs no token and has two cameras."""
    found, _ = steady
    for camera in ("yard", "bare"):
        answer = requests.post(found.post_url(camera), data=jpeg, headers={"Content-Type": "image/jpeg"}, timeout=30)
        assert answer.status_code == 201
    return found


@pytest.mark.slow
def test_zones_that_were_set_are_given_out_with_their_version(service: Service, jpeg: bytes) -> None:
    path = "/v1/cameras/yard/zones"
    answer = service.get(path)
    assert (answer.json(), answer.headers["ETag"]) == ({"version": 0, "zones": []}, '"0"')
    zones = [{"kind": "private", "polygon": [[0.0, 0.0], [0.5, 0.0], [0.5, 0.4]], "name": "door"}]
    answer = put(service, zones, **{"If-Match": '"0"'})
    assert answer.status_code == 200
    version = answer.json()["version"]
    assert answer.json() == {"version": version, "zones": zones}
    assert answer.headers["Rjpeg-Zones"] == str(version)
    tag = answer.headers["ETag"]
    answer = service.get(path)
    assert (answer.json(), answer.headers["ETag"]) == ({"version": version, "zones": zones}, tag)
    assert service.get(path, headers={"If-None-Match": tag}).status_code == 304
    # another window has set them meanwhile
    for if_match, status in (('"0"', 412), (f"W/{tag}", 412), ("none", 412), (f'"1", {tag}', 200), ("*", 200)):
        answer = put(service, [], **{"If-Match": if_match})
        assert answer.status_code == status, if_match
        assert status == 200 or "set meanwhile" in answer.json()["error"]
    newest = answer.json()["version"]
    assert newest == service.get(path).json()["version"] > version + 1
    assert service.get(f"{path}?version={version}").json()["zones"] == zones
    assert service.get(f"{path}?version={newest + 1}").status_code == 404
    # what GET answers may be sent back
    assert put(service, json.dumps({"version": version, "zones": zones}).encode()).json()["version"] > newest
    newest = service.get(path).json()["version"]
    # the answer to a frame names it at once
    for camera, expected in (("yard", str(newest)), ("bare", None)):
        headers = {"Content-Type": "image/jpeg", "Rjpeg-Sequence": "9", "Rjpeg-Capture-Time": "2026-03-04T05:06:07Z"}
        for status in (201, 200):
            answer = requests.post(service.post_url(camera), data=jpeg, headers=headers, timeout=30)
            assert (answer.status_code, answer.headers.get("Rjpeg-Zones")) == (status, expected)


@pytest.mark.slow
def test_the_client_sets_and_reads_zones(service: Service, jpeg: bytes) -> None:
    requests.post(service.post_url("drawn"), data=jpeg, headers={"Content-Type": "image/jpeg"}, timeout=30)
    with Client(service.url) as client:
        with pytest.raises(InputError, match="404"):
            client.zones("nobody")
        assert client.zones("drawn") == CameraZones(0, [])
        version = client.set_zones("drawn", [DOOR], replaces=0)
        assert client.zones("drawn") == CameraZones(version, [DOOR])
        with pytest.raises(InputError, match="set meanwhile"):
            client.set_zones("drawn", [], replaces=version - 1)
        with pytest.raises(InputError, match="404"):
            client.set_zones("nobody", [])
        with pytest.raises(InputError, match="<= 1"):
            client.set_zones("drawn", [Zone("private", [(0, 0), (2, 0), (1, 1)])])
        assert client.set_zones("drawn", [], replaces=version) == client.zones("drawn").version > version


@pytest.mark.slow
def test_wrong_requests_are_refused_and_change_nothing(service: Service) -> None:
    zone = {"kind": "watched", "polygon": TRIANGLE}
    assert put(service, [zone], "nobody").status_code == 404
    assert service.get("/v1/cameras/nobody/zones").status_code == 404
    assert put(service, [zone], "bare", **{"Content-Type": "text/plain"}).status_code == 415
    assert put(service, bytes(2**16 + 1), "bare").status_code == 413
    for body, why in ((b"{", "can't be read"), (b"{}", "zones"), (b'{"zones": [{}]}', "kind")):
        answer = put(service, body, "bare")
        assert answer.status_code == 400
        assert why in answer.json()["error"]
    assert put(service, [zone] * 65, "bare").status_code == 400
    assert service.get("/v1/cameras/bare/zones").json() == {"version": 0, "zones": []}


@pytest.mark.slow
def test_zones_survive_a_restart_of_the_server(start, jpeg, tmp_path) -> None:
    service = start(data=tmp_path)
    requests.post(service.post_url("yard"), data=jpeg, headers={"Content-Type": "image/jpeg"}, timeout=30)
    answer = put(service, [{"kind": "ignored", "polygon": TRIANGLE}])
    service.stop()
    service = start(data=tmp_path)
    assert service.get("/v1/cameras/yard/zones").json() == answer.json()
    answer = requests.post(service.post_url("yard"), data=jpeg, headers={"Content-Type": "image/jpeg"}, timeout=30)
    assert answer.headers["Rjpeg-Zones"] == str(service.get("/v1/cameras/yard/zones").json()["version"])
