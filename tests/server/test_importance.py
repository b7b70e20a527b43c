"""The cameras' maps of importance: who sets and reads them, and how a camera learns of a new one."""

import datetime
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import requests

import rjpeg
from rjpeg.client import Client
from rjpeg.errors import InputError
from server.store import Store
from server.store.documents import KEPT_VERSIONS, ImportanceMaps
from tests.server.stores import MEASURES, NOON, received
from tests.service import Service, make_token

OpenStore = Callable[..., Store]
OCTAVES = np.arange(-6, 6, dtype=np.float32).reshape(3, 4) / 4
BINARY = {"Content-Type": "application/octet-stream"}


def importance(octaves: np.ndarray = OCTAVES, version: int = 0) -> rjpeg.Importance:
    return rjpeg.Importance(version, octaves)


def test_the_store_counts_versions_and_keeps_the_last_ten(store: Store) -> None:
    store.add(received("gate", 1), MEASURES, None)
    assert store.importance.read("gate") is None
    for number in range(1, 14):
        assert store.importance.write("gate", importance(OCTAVES + number / 4), NOON) == number
    assert store.importance.version("gate") == 13
    version, data = store.importance.read("gate")
    found = rjpeg.unpack_importance(data)
    assert (version, found.version) == (13, 13)
    np.testing.assert_array_equal(found.octaves, OCTAVES + 13 / 4)
    kept = [number for number in range(15) if store.importance.read("gate", number) is not None]
    assert kept == list(range(14 - KEPT_VERSIONS, 14))


def test_a_camera_that_never_sent_a_frame_gets_no_map(store: Store) -> None:
    for camera in ("gate", "", "\0", "x" * 100):
        assert store.importance.write(camera, importance(), NOON) is None
        assert store.importance.read(camera) is None
        assert store.importance.version(camera) is None


def test_another_program_learns_of_a_new_map_when_its_knowledge_is_not_fresh(open_store: OpenStore, database_url: str):
    store = open_store(database_url)
    store.add(received("gate", 1), MEASURES, None)
    time = [100.0]
    other = ImportanceMaps(store.database, clock=lambda: time[0])
    assert not other.is_fresh
    other.refresh()
    assert other.is_fresh
    assert other.version("gate") is None
    store.importance.write("gate", importance(), NOON)
    time[0] += 60
    assert not other.is_fresh
    other.refresh()
    assert other.version("gate") == 1


def test_maps_that_are_set_at_once_get_a_version_each(store: Store) -> None:
    store.add(received("gate", 1), MEASURES, None)
    with ThreadPoolExecutor(4) as threads:
        versions = list(threads.map(lambda _: store.importance.write("gate", importance(), NOON), range(12)))
    assert sorted(versions) == list(range(1, 13))


@pytest.fixture(scope="module")
def cameras(steady: tuple[Service, object], jpeg: bytes) -> Service:
    """A server that needs no token and has two cameras."""
    service, _ = steady
    for camera in ("mapped", "unmapped"):
        answer = requests.post(service.post_url(camera), data=jpeg, headers={"Content-Type": "image/jpeg"}, timeout=30)
        assert answer.status_code == 201
    return service


def put(service: Service, data: bytes, camera: str = "mapped", **headers: str):
    url = f"{service.url}/v1/cameras/{camera}/importance"
    return requests.put(url, data=data, headers=BINARY | headers, timeout=30)


@pytest.mark.slow
def test_a_map_that_was_set_is_given_out_with_its_version(cameras: Service, jpeg: bytes) -> None:
    path = "/v1/cameras/mapped/importance"
    assert cameras.get(path).status_code == 404
    answer = put(cameras, rjpeg.pack_importance(OCTAVES, 4711))
    assert answer.status_code == 200
    assert answer.json() == {"camera": "mapped", "version": 1, "rows": 3, "cols": 4}
    assert answer.headers["Rjpeg-Importance"] == "1"
    answer = cameras.get(path)
    assert (answer.status_code, answer.headers["ETag"]) == (200, '"1"')
    found = rjpeg.unpack_importance(answer.content)
    assert found.version == 1
    np.testing.assert_array_equal(found.octaves, OCTAVES)
    unchanged = cameras.get(path, headers={"If-None-Match": '"1"'})
    assert (unchanged.status_code, unchanged.content) == (304, b"")
    assert put(cameras, rjpeg.pack_importance(OCTAVES + 1, 0)).json()["version"] == 2
    assert cameras.get(path, headers={"If-None-Match": '"1"'}).status_code == 200
    assert cameras.get(f"{path}?version=1").content == answer.content
    assert cameras.get(f"{path}?version=3").status_code == 404
    # the answer to a frame names it at once
    for camera, expected in (("mapped", "2"), ("unmapped", None)):
        headers = {"Content-Type": "image/jpeg", "Rjpeg-Sequence": "9", "Rjpeg-Capture-Time": "2026-03-04T05:06:07Z"}
        for status in (201, 200):
            answer = requests.post(cameras.post_url(camera), data=jpeg, headers=headers, timeout=30)
            assert (answer.status_code, answer.headers.get("Rjpeg-Importance")) == (status, expected)


@pytest.mark.slow
def test_what_is_no_map_is_refused_in_words(cameras: Service) -> None:
    data = rjpeg.pack_importance(OCTAVES, 1)
    assert put(cameras, data, "nobody").status_code == 404
    assert put(cameras, data, "unmapped", **{"Content-Type": "image/jpeg"}).status_code == 415
    for body, why in ((b"", "no such file"), (data[:-1], "expected"), (data[:-1] + b"x", "checksum")):
        answer = put(cameras, body, "unmapped")
        assert answer.status_code == 400
        assert why in answer.json()["error"]
    assert put(cameras, bytes(2**21), "unmapped").status_code == 413
    assert cameras.get("/v1/cameras/unmapped/importance").status_code == 404
    assert cameras.get("/v1/cameras/unmapped/importance?version=0").status_code == 400


@pytest.mark.slow
def test_a_manager_sets_maps_and_zones_and_cameras_and_readers_read_them(start, jpeg, tmp_path) -> None:
    service = start("--auth", "on", data=tmp_path)
    camera, reader, manager = (
        make_token(tmp_path, *of) for of in (("--camera", "yard"), ("--reader",), ("--manager",))
    )
    only_yard, only_gate = (make_token(tmp_path, "--manager", "--camera", name) for name in ("yard", "gate"))
    other_camera = make_token(tmp_path, "--camera", "gate")
    headers = {"Content-Type": "image/jpeg", "Authorization": f"Bearer {camera}"}
    assert requests.post(service.post_url("yard"), data=jpeg, headers=headers, timeout=30).status_code == 201
    session = requests.Session()
    session.post(f"{service.url}/v1/session", json={"token": reader}, timeout=30)
    for name, data, kind in (
        ("importance", rjpeg.pack_importance(OCTAVES, 1), BINARY),
        ("zones", b'{"zones": []}', {"Content-Type": "application/json"}),
    ):
        url = f"{service.url}/v1/cameras/yard/{name}"
        answers = []
        for token in (None, camera, reader, only_gate, manager, only_yard):
            of_token = {} if token is None else {"Authorization": f"Bearer {token}"}
            answers.append(requests.put(url, data=data, headers=kind | of_token, timeout=30).status_code)
        assert answers == [401, 403, 403, 403, 200, 200]
        answers = []
        for token in (None, camera, other_camera, reader, manager, only_gate, only_yard):
            service.token = token
            answers.append(service.get(f"/v1/cameras/yard/{name}").status_code)
        assert answers == [401, 200, 403, 200, 200, 403, 200]
        # a browser's cookie reads, and is not enough to set
        assert session.get(url, timeout=30).status_code == 200
        assert session.put(url, data=data, headers=kind, timeout=30).status_code == 401
    # a manager neither reads pictures nor sends them
    service.token = manager
    assert service.get("/v1/cameras/yard/frames").status_code == 403
    headers["Authorization"] = f"Bearer {manager}"
    assert requests.post(service.post_url("yard"), data=jpeg, headers=headers, timeout=30).status_code == 403


@pytest.mark.slow
def test_the_client_sets_and_reads_maps(cameras: Service) -> None:
    with Client(cameras.url) as client:
        with pytest.raises(InputError, match="404"):
            client.importance("unmapped")
        first = client.set_importance("mapped", OCTAVES)
        assert client.set_importance("mapped", OCTAVES + 2) == first + 1
        found = client.importance("mapped")
        assert found.version == first + 1
        np.testing.assert_array_equal(found.octaves, OCTAVES + 2)
        with pytest.raises(InputError, match="404"):
            client.set_importance("nobody", OCTAVES)
        with pytest.raises(InputError, match="shape"):
            client.set_importance("mapped", np.zeros((2, 2, 2)))


def test_a_map_is_as_old_as_it_was_set(store: Store) -> None:
    store.add(received("gate", 1), MEASURES, None)
    later = NOON + datetime.timedelta(days=1)
    store.importance.write("gate", importance(), later)
    with store.database.reading() as connection:
        [time] = connection.exec_driver_sql("SELECT set_time FROM importance").scalars()
    assert time == int(later.timestamp()) * 10**6 + later.microsecond
