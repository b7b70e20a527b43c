"""Alerts in the store, over HTTP, by webhook and on a broker."""

import contextlib
import datetime
import json
import queue
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import cv2
import numpy as np
import paho.mqtt.client as paho
import pytest
import requests

from server.alerts.announcer import Announcer
from server.alerts.pictures import boxed_jpeg, draw_boxes
from server.alerts.webhook import PatientRetry, Webhooks
from server.config import MqttConfig, WebhookConfig
from server.store import Alert, Store
from server.store.alerts import Alerts
from tests.brokers import needs_broker
from tests.waiting import until

NOON = datetime.datetime(2026, 3, 4, 12, 0, 0, tzinfo=datetime.UTC)
SECOND = datetime.timedelta(seconds=1)
ALERT = Alert(camera="door", rule="somebody", label="person", score=0.5, frame=3, start=NOON)
ALWAYS = (datetime.datetime.min.replace(tzinfo=datetime.UTC), datetime.datetime.max.replace(tzinfo=datetime.UTC))

TASK = """
def look(frame, meta):
    if frame.mean() < 64:
        return []
    return [{"index": 0, "score": 0.75, "label": "person", "box": [8, 8, 40, 56]}]
"""


# --- the store -------------------------------------------------------------------------------------------


def test_an_alert_is_stored_when_it_begins_and_when_it_ends(store: Store) -> None:
    added = store.alerts.add(ALERT)
    assert store.alerts.unfinished() == [added]
    assert store.alerts.between("door", *ALWAYS, 10) == ([added], False)
    ended = Alert(**{**vars(added), "end": NOON + SECOND, "score": 0.75})
    store.alerts.finish(ended)
    assert store.alerts.unfinished() == []
    assert store.alerts.between("door", *ALWAYS, 10) == ([ended], False)
    assert store.alerts.between("gate", *ALWAYS, 10) == ([], False)


def test_the_same_alert_of_two_programs_is_one(store: Store) -> None:
    assert store.alerts.add(ALERT) is not None
    assert store.alerts.add(ALERT) is None
    assert store.alerts.add(Alert(**{**vars(ALERT), "rule": "other"})) is not None


def test_those_that_touch_a_time_are_listed_newest_first(store: Store) -> None:
    for number in range(5):
        start = NOON + 10 * number * SECOND
        added = store.alerts.add(Alert(**{**vars(ALERT), "start": start}))
        if number < 4:
            store.alerts.finish(Alert(**{**vars(added), "end": start + 5 * SECOND}))

    def starts(since: int, until: int, limit: int = 10) -> tuple[list[int], bool]:
        found, more = store.alerts.between("door", NOON + since * SECOND, NOON + until * SECOND, limit)
        return [(each.start - NOON) // SECOND for each in found], more

    assert starts(0, 100) == ([40, 30, 20, 10, 0], False)
    assert starts(5, 11) == ([10, 0], False)
    assert starts(6, 10) == ([], False)
    assert starts(1000, 2000) == ([40], False), "it goes on"
    assert starts(0, 100, 2) == ([40, 30], True)


def test_of_a_camera_only_the_newest_are_kept(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.store.alerts.MAX_KEPT", 3)
    other = store.alerts.add(Alert(**{**vars(ALERT), "camera": "gate"}))
    for number in range(5):
        store.alerts.add(Alert(**{**vars(ALERT), "start": NOON + number * SECOND}))
    kept, _ = Alerts(store.database).between("door", *ALWAYS, 10)
    assert [(each.start - NOON) // SECOND for each in kept] == [4, 3, 2]
    assert store.alerts.between("gate", *ALWAYS, 10) == ([other], False)


# --- webhooks --------------------------------------------------------------------------------------------


class Receiver:
    """A server that notes what it is sent, and answers as it is told to."""

    def __init__(self, *statuses: int, headers: dict[str, str] | None = None) -> None:
        self.got: queue.Queue[tuple[str, dict[str, str], Any]] = queue.Queue()
        answers = iter(statuses)
        received = self.got

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                received.put((self.path, dict(self.headers), json.loads(body)))
                self.send_response(next(answers, 204))
                for name, value in (headers or {}).items():
                    self.send_header(name, value)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def do_GET(self) -> None:
                self.do_POST()

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=[0.01], daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


@contextlib.contextmanager
def receiving(*statuses: int, **more: Any) -> Iterator[Receiver]:
    receiver = Receiver(*statuses, **more)
    try:
        yield receiver
    finally:
        receiver.close()


@contextlib.contextmanager
def calling(retries: int = 2) -> Iterator[tuple[Webhooks, list[int]]]:
    """Webhooks that wait for nothing between two calls, and a list that grows by each that is given up."""
    given_up: list[int] = []
    quick = PatientRetry(
        total=retries,
        redirect=False,
        backoff_factor=0,
        status_forcelist=(503,),
        allowed_methods=("POST",),
        raise_on_status=False,
        respect_retry_after_header=False,
    )
    webhooks = Webhooks(lambda: given_up.append(1), retries=quick)
    try:
        yield webhooks, given_up
    finally:
        webhooks.close()


def test_a_webhook_gets_json_and_its_token(tmp_path) -> None:
    (tmp_path / "token").write_text("secret\n")
    with receiving() as receiver, calling() as (webhooks, given_up):
        webhooks.call(WebhookConfig(url=receiver.url + "/a?b=c", token_file=str(tmp_path / "token")), {"id": 1})
        path, headers, body = receiver.got.get(timeout=10)
    assert (path, body) == ("/a?b=c", {"id": 1})
    assert headers["Authorization"] == "Bearer secret"
    assert headers["Content-Type"] == "application/json"
    assert given_up == []


def test_a_call_that_may_succeed_later_is_repeated() -> None:
    with receiving(503, 503) as receiver, calling() as (webhooks, given_up):
        webhooks.call(WebhookConfig(url=receiver.url), {"id": 1})
        assert [receiver.got.get(timeout=10)[2] for _ in range(3)] == [{"id": 1}] * 3
        webhooks.call(WebhookConfig(url=receiver.url), {"id": 2})
        assert receiver.got.get(timeout=10)[2] == {"id": 2}
    assert given_up == []


@pytest.mark.parametrize("statuses", [(404,), (503, 503, 503)])
def test_a_call_that_is_refused_is_given_up_counted_and_told_without_its_path(statuses, caplog) -> None:
    with receiving(*statuses) as receiver, calling() as (webhooks, given_up):
        webhooks.call(WebhookConfig(url=receiver.url + "/secret-path"), {"id": 1})
        until(lambda: given_up)
    assert f"webhook at {receiver.url[7:]}" in caplog.text
    assert "secret-path" not in caplog.text


def test_a_redirect_is_not_followed() -> None:
    with receiving() as inner, receiving(307, headers={"Location": inner.url}) as outer, calling() as (hooks, given_up):
        hooks.call(WebhookConfig(url=outer.url), {"id": 1})
        until(lambda: given_up)
        assert inner.got.empty()


def test_nobody_there_is_given_up_and_the_next_call_is_made(caplog) -> None:
    with receiving() as gone:
        pass
    with receiving() as receiver, calling() as (webhooks, given_up):
        webhooks.call(WebhookConfig(url=gone.url + "/secret-path"), {"id": 1})
        webhooks.call(WebhookConfig(url=receiver.url), {"id": 2})
        assert receiver.got.get(timeout=10)[2] == {"id": 2}
    assert given_up == [1]
    assert f"webhook at {gone.url[7:]}: a call is given up: Connection refused" in caplog.text
    assert "secret-path" not in caplog.text


# --- pictures --------------------------------------------------------------------------------------------


def test_boxes_are_drawn_where_they_are_and_the_frame_stays_as_it_was() -> None:
    frame = np.full((240, 320, 3), 128, np.uint8)
    drawn = draw_boxes(frame, [{"score": 0.75, "label": "person", "box": [100, 50, 200, 150]}])
    assert (frame == 128).all()
    changed = np.argwhere((drawn != frame).any(axis=2))
    assert changed.min(axis=0).tolist() == [50, 100]
    assert changed.max(axis=0).tolist() == [150, 200]
    assert (drawn[80:140, 110:190] == 128).all()


@pytest.mark.parametrize(
    "results", [None, {}, [], [{"score": 1, "box": "x"}], [{"score": 1, "box": [1, 2, 10**400, 3]}]]
)
def test_an_answer_without_boxes_draws_nothing(results) -> None:
    frame = np.full((48, 64, 3), 128, np.uint8)
    np.testing.assert_array_equal(draw_boxes(frame, results), frame)


def test_a_large_picture_is_reduced() -> None:
    found = cv2.imdecode(np.frombuffer(boxed_jpeg(np.zeros((1000, 2560, 3), np.uint8), []), np.uint8), 1)
    assert found.shape == (500, 1280, 3)


# --- a broker --------------------------------------------------------------------------------------------


class Listener:
    """What a broker's topics hold."""

    def __init__(self, broker: Any, topic: str = "#") -> None:
        self.retained: dict[str, bytes] = {}
        self.seen: list[tuple[str, bytes]] = []
        self._client = paho.Client(paho.CallbackAPIVersion.VERSION2)
        self._client.on_message = self._note
        self._client.on_connect = lambda client, *_: client.subscribe(topic, 1)
        self._client.connect("127.0.0.1", broker.port)
        self._client.loop_start()

    def _note(self, _client: Any, _data: Any, message: Any) -> None:
        self.seen.append((message.topic, message.payload))

    def last(self, topic: str) -> bytes | None:
        return dict(self.seen).get(topic)

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


@pytest.fixture
def listener(broker) -> Iterator[Listener]:
    found = Listener(broker)
    yield found
    found.close()


@needs_broker
def test_a_broker_is_told_of_sensors_states_and_pictures_and_that_the_server_has_gone(broker, listener) -> None:
    announcer = Announcer(MqttConfig(broker=broker.url, topic="found"))
    announcer.watch("door", "person")
    until(lambda: listener.last("found/door/person") == b"OFF")
    announcer.tell("door", "person", on=True, message={"event": "begin"}, picture=b"jpeg")
    until(lambda: listener.last("found/door/person") == b"ON")
    assert listener.last("found/door/person/picture") == b"jpeg"
    until(lambda: json.loads(listener.last("found/door/person/alert") or b"null") == {"event": "begin"})
    announcer.tell("door", "person", on=False, message={"event": "end"}, picture=None)
    until(lambda: listener.last("found/door/person") == b"OFF")
    announcer.close()
    until(lambda: listener.last("found/status") == b"offline")


@needs_broker
def test_home_assistant_finds_a_sensor_and_an_image_of_one_device(broker, listener) -> None:
    announcer = Announcer(MqttConfig(broker=broker.url, topic="found/here"))
    announcer.watch("door", "person")
    places = [f"homeassistant/{kind}/found_here/door-person/config" for kind in ("binary_sensor", "image")]
    until(lambda: all(listener.last(place) for place in places))
    sensor, image = (json.loads(listener.last(place)) for place in places)
    announcer.close()
    assert sensor["state_topic"] == "found/here/door/person"
    assert image["image_topic"] == "found/here/door/person/picture"
    assert sensor["unique_id"] != image["unique_id"]
    assert sensor["device"] == image["device"]
    assert sensor["availability_topic"] == "found/here/status"


@needs_broker
def test_what_changed_while_the_broker_was_away_is_said_when_it_is_back(broker) -> None:
    announcer = Announcer(MqttConfig(broker=broker.url, topic="found"))
    announcer.watch("door", "person")
    before = Listener(broker)
    until(lambda: before.last("found/door/person") == b"OFF")
    before.close()
    broker.stop()
    announcer.tell("door", "person", on=True, message={}, picture=None)
    broker.start()
    after = Listener(broker)
    until(lambda: after.last("found/door/person") == b"ON", 30)
    until(lambda: after.last("found/status") == b"online", 30)
    after.close()
    announcer.close()


# --- the service -----------------------------------------------------------------------------------------


def post(service, level: int, second: int, camera: str = "door") -> dict[str, Any]:
    jpeg = cv2.imencode(".jpg", np.full((64, 80, 3), level, np.uint8))[1].tobytes()
    headers = {
        "Content-Type": "image/jpeg",
        "Rjpeg-Sequence": str(second),
        "Rjpeg-Capture-Time": (NOON + second * SECOND).isoformat(),
    }
    answer = requests.post(service.post_url(camera), data=jpeg, headers=headers, timeout=30)
    assert answer.status_code == 201, answer.text
    return answer.json()


@needs_broker
@pytest.mark.slow
def test_the_service_marks_calls_and_publishes_and_goes_on_after_a_restart(start, broker, listener, tmp_path) -> None:
    (tmp_path / "alert_task.py").write_text(TASK)
    with receiving() as receiver:
        (tmp_path / "config.yaml").write_text(
            f"""
task: {{kind: python, function: "alert_task:look"}}
rules:
  - name: somebody
    classes: [person]
    cameras: [door]
    pause: 5
    webhook: {{url: "{receiver.url}/hook"}}
mqtt: {{broker: "{broker.url}", topic: found, classes: [person]}}
"""
        )
        arguments = ("--config", tmp_path / "config.yaml")
        options = {"data": tmp_path / "data", "environment": {"PYTHONPATH": str(tmp_path)}}
        service = start(*arguments, **options)
        first = post(service, 200, 0)
        post(service, 200, 0, camera="elsewhere")
        _, _, begun = receiver.got.get(timeout=20)
        assert (begun["event"], begun["camera"], begun["class"], begun["frame"]) == (
            "begin",
            "door",
            "person",
            first["id"],
        )
        assert service.get(begun["picture"]).headers["Content-Type"] == "image/png"
        for topic in ("found/door/somebody", "found/door/person", "found/elsewhere/person"):
            until(lambda topic=topic: listener.last(topic) == b"ON")
        picture = cv2.imdecode(np.frombuffer(listener.last("found/door/somebody/picture"), np.uint8), 1)
        assert picture.shape == (64, 80, 3)
        assert abs(int(picture[40, 20, 0]) - 200) < 12
        assert (np.abs(picture[56, 10:38].astype(int) - 200) > 40).any(), "the box"
        service.stop()
        until(lambda: listener.last("found/status") == b"offline")

        service = start(*arguments, **options)
        listed = service.get("/v1/cameras/door/alerts").json()
        assert [(each["rule"], each["until"], each["frame"]) for each in listed["alerts"]] == [
            ("somebody", None, first["id"])
        ]
        assert service.get("/v1/cameras/elsewhere/alerts").json() == {"alerts": [], "more": False}
        post(service, 200, 3)
        post(service, 0, 4)
        post(service, 0, 10)
        _, _, ended = receiver.got.get(timeout=20)
        assert (ended["event"], ended["id"]) == ("end", begun["id"])
        assert ended["until"] == "2026-03-04T12:00:03.000000Z"
        until(lambda: listener.last("found/door/somebody") == b"OFF")
        assert receiver.got.empty()
        assert "rjpeg_webhooks_failed_total 0" in service.get("/metrics").text
        assert service.get("/v1/cameras/nowhere/alerts").status_code == 404


@pytest.mark.slow
def test_a_rule_goes_by_the_zone_of_its_name_from_when_it_is_drawn(start, tmp_path) -> None:
    (tmp_path / "alert_task.py").write_text(TASK)
    (tmp_path / "config.yaml").write_text(
        'task: {kind: python, function: "alert_task:look"}\nrules: [{name: somebody, classes: [person], zone: step}]\n'
    )
    environment = {"PYTHONPATH": str(tmp_path)}
    service = start("--config", tmp_path / "config.yaml", data=tmp_path / "data", environment=environment)
    post(service, 200, 0)
    warning = "rule somebody finds nothing: camera door has no zone 'step'"
    until(lambda: warning in "".join(service.messages))
    # the box's lower edge has its middle at 0.3, 0.875
    zones = [{"kind": "watched", "name": "step", "polygon": [[0, 0.8], [0.5, 0.8], [0.5, 1], [0, 1]]}]
    url = f"{service.url}/v1/cameras/door/zones"
    assert requests.put(url, json={"zones": zones}, timeout=30).status_code == 200
    second = post(service, 200, 1)
    until(lambda: service.get("/v1/cameras/door/alerts").json()["alerts"])
    [alert] = service.get("/v1/cameras/door/alerts").json()["alerts"]
    assert (alert["rule"], alert["frame"]) == ("somebody", second["id"])
