"""A camera that is removed: of it nothing is left, of others all."""

from pathlib import Path

import numpy as np
import pytest
import requests

import rjpeg
from server.api import cameras as cameras_api
from server.cli import main
from server.store import Store, removal
from server.store.tables import cameras, frames, metadata
from tests.server.stores import MEASURES, NOON, check_sums, received, rows_of, stored_files
from tests.server.test_bases import Stream
from tests.service import make_token


def sent(store: Store, camera: str) -> Stream:
    stream = Stream(store, camera)
    stream.send("key", "aaaaaa")
    stream.send("patch", "bbbbbb", "aaaaaa")
    stream.send("follower", "cccccc", "bbbbbb")
    stream.send("follower", "dddddd", "aaaaaa")
    stream.send("plain")
    store.importance.write(camera, rjpeg.Importance(1, np.zeros((3, 4), np.float32)), NOON)
    return stream


def test_a_camera_goes_with_its_frames_files_counters_and_maps(store: Store, tmp_path: Path) -> None:
    for camera in ("gate", "yard"):
        sent(store, camera)
    before = {row["id"] for row in rows_of(store, "frames")}
    assert store.remove_camera("gate") == 5
    assert store.camera_names() == ["yard"]
    assert store.remove_camera("gate") is None
    assert store.remove_camera("nobody") is None
    check_sums(store)
    assert {key.partition("/")[0] for key in stored_files(tmp_path / "frames")} == {"yard"}
    assert rows_of(store, "trash") == []
    [yard] = rows_of(store, "cameras")
    for table in ("minutes", "importance", "frames"):
        assert {row["camera_id"] for row in rows_of(store, table)} == {yard["id"]}, table
    # it is a new camera when it sends again, and no id is used twice
    sent(store, "gate")
    assert not before & {row["id"] for row in rows_of(store, "frames") if row["camera_id"] != yard["id"]}
    assert store.camera("gate").frames == 5


def test_more_frames_than_one_transaction_deletes_go_too(store: Store) -> None:
    stream = Stream(store, "gate")
    stream.send("key", "aaaaaa")
    for number in range(7):
        stream.send("follower", f"{number:06x}", "aaaaaa")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("server.store.deletion.MAX_TOGETHER", 3)
        assert store.remove_camera("gate") == 8
    assert store.camera_names() == []


def test_a_camera_that_sends_meanwhile_stays_with_its_new_frames(store: Store, monkeypatch) -> None:
    sent(store, "gate")
    remove = removal._remove_row

    def remove_late(database, camera, camera_id):
        store.add(received("gate", 99), MEASURES, None)
        remove(database, camera, camera_id)

    monkeypatch.setattr(removal, "_remove_row", remove_late)
    assert store.remove_camera("gate") == 5
    assert store.camera("gate").frames == 1
    check_sums(store)


def test_every_table_with_rows_of_a_camera_is_known() -> None:
    named = {table.name for table in metadata.sorted_tables if "camera_id" in table.c}
    assert named == {table.name for table in removal.OF_A_CAMERA} | {frames.name}
    assert cameras not in removal.OF_A_CAMERA
    assert [table.name for table in removal.OF_A_NAME] == ["alerts"]


@pytest.mark.slow
def test_a_manager_removes_a_silent_camera_over_http(start, jpeg, tmp_path, monkeypatch) -> None:
    data = tmp_path / "data"
    camera, reader = make_token(data, "--camera", "yard"), make_token(data, "--reader")
    manager, of_gate = make_token(data, "--manager"), make_token(data, "--manager", "--camera", "gate")
    service = start("--auth", "on", data=data)
    headers = {"Content-Type": "image/jpeg", "Authorization": f"Bearer {camera}"}
    requests.post(service.post_url("yard"), data=jpeg, headers=headers, timeout=30).raise_for_status()

    def remove(token, name="yard"):
        return requests.delete(
            f"{service.url}/v1/cameras/{name}", headers={"Authorization": f"Bearer {token}"}, timeout=30
        )

    assert [remove(token).status_code for token in (camera, reader, of_gate, "x")] == [403, 403, 403, 401]
    assert requests.delete(f"{service.url}/v1/cameras/yard", auth=("me", manager), timeout=30).status_code == 401
    live = remove(manager)
    assert live.status_code == 409
    assert "camera yard sent a frame 0 s ago: stop it, and remove it after 30 s" in live.json()["error"]
    assert remove(manager, "nobody").status_code == 404
    # what the page shows as silent is removable after half a minute; the command line does not wait
    assert cameras_api.REMOVABLE_SECONDS == 30
    service.stop()
    assert main(["remove-camera", "yard", "--data", str(data)]) == 0
    service = start("--auth", "on", data=data)
    answer = requests.get(f"{service.url}/v1/cameras", headers={"Authorization": f"Bearer {reader}"}, timeout=30)
    assert answer.json()["cameras"] == []
    requests.post(service.post_url("yard"), data=jpeg, headers=headers, timeout=30).raise_for_status()


def test_a_camera_that_is_not_there_is_told_with_those_that_are(tmp_path, capsys) -> None:
    assert main(["remove-camera", "yard", "--data", str(tmp_path)]) == 1
    assert "no camera 'yard' in sqlite:///" in (said := capsys.readouterr().err)
    assert "cameras: there are none" in said
