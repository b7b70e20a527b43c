"""No cache shows a picture to whom it is not for: after log-out, revocation, or of another store."""

import contextlib
import signal
import time

import pytest
import requests
from hypothesis import given, settings
from hypothesis import strategies as some

from server.api.answers import StoredFile, matches
from server.api.streams import RECHECK_SECONDS
from tests.service import make_token

VIEWS = [
    "jpeg",
    "picture",
    "picture?format=jpeg",
    "picture?format=npy&restore=true",
    "map",
    "map.png",
    "map.png?of=bits",
]


def post(service, jpeg, camera="cam", token=None):
    headers = {"Content-Type": "image/jpeg"} | ({} if token is None else {"Authorization": f"Bearer {token}"})
    answer = requests.post(service.post_url(camera), data=jpeg, headers=headers, timeout=60)
    assert answer.status_code == 201, answer.text
    return answer.json()


def revoke(data, token):
    from server.cli import main

    assert main(["tokens", "revoke", token.split("_")[1], "--data", str(data)]) == 0


@pytest.mark.slow
def test_what_a_browser_has_is_not_sent_again_and_asked_for_each_time(start, jpeg, encoder, photograph):
    service = start()
    first, second = post(service, jpeg), post(service, encoder.encode(photograph, quality=30))
    tags = set()
    for frame in (first, second):
        for view in VIEWS:
            path = f"/v1/cameras/cam/frames/{frame['id']}/{view}"
            answer = service.get(path)
            assert answer.status_code == 200, path
            assert answer.headers["Cache-Control"] == "private, no-cache"
            tag = answer.headers["ETag"]
            tags.add(tag)
            again = service.get(path, headers={"If-None-Match": f'"other", {tag}'})
            assert (again.status_code, again.content) == (304, b"")
            assert (again.headers["ETag"], again.headers["Cache-Control"]) == (tag, "private, no-cache")
            assert service.get(path, headers={"If-None-Match": '"other"'}).content == answer.content
    assert len(tags) == 2 * len(VIEWS), "no two views, nor frames, have one tag"
    latest = service.get("/v1/cameras/cam/frames/latest/picture", headers={"If-None-Match": "*"})
    assert (latest.status_code, latest.headers["Cache-Control"]) == (200, "no-store")
    assert "ETag" not in latest.headers


@pytest.mark.slow
def test_a_tag_opens_nothing_without_a_token(start, jpeg, tmp_path):
    camera, reader = make_token(tmp_path, "--camera", "cam"), make_token(tmp_path, "--reader")
    other = make_token(tmp_path, "--reader", "--camera", "other")
    service = start("--auth", "on", data=tmp_path)
    frame = post(service, jpeg, token=camera)
    path = f"/v1/cameras/cam/frames/{frame['id']}/picture"
    service.token = reader
    tag = service.get(path).headers["ETag"]
    assert service.get(path, headers={"If-None-Match": tag}).status_code == 304
    service.token = other
    for known in (tag, "*"):
        assert service.get(path, headers={"If-None-Match": known}).status_code == 403
    service.token = None
    for known in (tag, "*"):
        assert service.get(path, headers={"If-None-Match": known}).status_code == 401
    assert requests.delete(service.url + "/v1/session", timeout=10).headers["Clear-Site-Data"] == '"cache"'
    service.token = reader
    revoke(tmp_path, reader)
    time.sleep(2)
    assert service.get(path, headers={"If-None-Match": tag}).status_code == 401


@pytest.mark.slow
def test_the_same_number_of_another_store_has_another_tag(start, jpeg, tmp_path):
    tags = set()
    for folder in ("one", "two"):
        service = start(data=tmp_path / folder)
        frame = post(service, jpeg)
        assert frame["id"] == 1
        tags.add(service.get("/v1/cameras/cam/frames/1/jpeg").headers["ETag"])
        service.stop()
    assert len(tags) == 2


@pytest.mark.slow
@settings(max_examples=100, deadline=None)
@given(
    some.lists(
        some.tuples(
            some.binary(max_size=20),
            some.text("ab", max_size=3),
            some.text("ab", max_size=3),
            some.sampled_from(["jpeg", "map"]),
        ),
        unique=True,
        min_size=2,
        max_size=5,
    )
)
def test_whatever_differs_makes_another_tag(each):
    tags = [StoredFile(None, jpeg, identity, model).tag(view) for jpeg, identity, model, view in each]
    assert len(set(tags)) == len(each)


@pytest.mark.parametrize(
    ("header", "match"),
    [
        ("", False),
        ('"a"', True),
        ('W/"a"', True),
        ('"b","a"', True),
        ('"b" , W/"a"', True),
        ("*", True),
        ("a", False),
        ('"A"', False),
        ('"ab"', False),
    ],
)
def test_tags_are_compared_as_the_standard_says(header, match):
    assert matches(header, '"a"') is match


STREAMS = [
    "/v1/cameras/cam/stream?fps=0.01",
    "/v1/cameras/cam/stream?view=plain&fps=0.001",
    "/v1/cameras/cam/stream",
    "/v1/events",
    "/v1/events?camera=cam",
]


def opened(stack, service):
    """All kinds of streams, of which something came already."""
    found = [stack.enter_context(contextlib.closing(service.get(path, stream=True))) for path in STREAMS]
    for answer in found:
        assert answer.raw.read(20)
    return found


@pytest.mark.slow
def test_streams_of_any_pace_end_within_two_seconds_of_a_revocation(start, jpeg, tmp_path):
    camera, reader = make_token(tmp_path, "--camera", "cam"), make_token(tmp_path, "--reader")
    service = start("--auth", "on", data=tmp_path)
    post(service, jpeg, token=camera)
    service.token = reader
    with contextlib.ExitStack() as stack:
        streams = opened(stack, service)
        revoke(tmp_path, reader)
        started = time.monotonic()
        for answer in streams:
            answer.raw.read()
        # a second for tokens to be read again, half a one for a stream to ask
        assert time.monotonic() - started < 1 + RECHECK_SECONDS + 0.5
    assert "Traceback" not in "".join(service.messages)


@pytest.mark.slow
def test_streams_of_any_pace_do_not_keep_the_service_from_stopping(start, jpeg):
    service = start()
    post(service, jpeg)
    with contextlib.ExitStack() as stack:
        streams = opened(stack, service)
        started = time.monotonic()
        service.process.send_signal(signal.SIGTERM)
        for answer in streams:
            answer.raw.read()
        assert service.process.wait(30) == 0
        assert time.monotonic() - started < 5
    assert "Traceback" not in "".join(service.messages)
