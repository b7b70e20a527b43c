"""Tokens, roles, sessions, TLS: who may send and see what."""

import base64
import contextlib
import json
import re
import socket
import subprocess
import sys
import time
import urllib.parse
from pathlib import Path

import pytest
import requests

from server import config as configuration
from server.api.guard import is_local_name
from tests.service import Service, make_token

ROOT = Path(__file__).resolve().parents[2]
JPEG = {"Content-Type": "image/jpeg"}


def tokens(data, *arguments):
    command = [sys.executable, "-m", "server", "tokens", *arguments, "--data", str(data)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)


def bearer(token):
    return {"Authorization": f"Bearer {token}"}


@pytest.fixture(scope="module")
def guarded(tmp_path_factory):
    """A service that wants tokens, and tokens of each kind by name; camera `yard` has one frame."""
    data = tmp_path_factory.mktemp("guarded")
    secrets = {
        "yard": make_token(data, "--camera", "yard"),
        "gate": make_token(data, "--camera", "gate"),
        "reader": make_token(data, "--reader"),
        "reader of gate": make_token(data, "--reader", "--camera", "gate"),
    }
    service = Service("--auth", "on", data=data)
    yield service, secrets
    service.stop()
    said = "".join(service.messages)
    assert not any(secret in said for secret in secrets.values())


@pytest.fixture(scope="module")
def frame(guarded, jpeg):
    service, secrets = guarded
    answer = requests.post(service.post_url("yard"), data=jpeg, headers=JPEG | bearer(secrets["yard"]), timeout=30)
    assert answer.status_code == 201
    return answer.json()


@pytest.mark.slow
def test_without_a_right_token_nothing_is_taken_and_nothing_shown(guarded, frame, jpeg):
    service, secrets = guarded
    right = secrets["yard"]
    for wrong in (
        None,
        "Bearer",
        "Bearer x",
        f"Bearer {right[:-1]}",
        f"Bearer {right}x",
        f"Basic {right}",
        "Bearer \xe9",
        right,
        f"Bearer {right.swapcase()}",
        "Bearer rjpeg_1_" + "A" * 43,
    ):
        headers = {} if wrong is None else {"Authorization": wrong.encode("latin-1")}
        answers = [requests.post(service.post_url("yard"), data=jpeg, headers=JPEG | headers, timeout=10)]
        answers += [
            service.get(path, headers=headers)
            for path in (
                "/v1/cameras",
                "/v1/cameras/yard",
                "/v1/cameras/yard/frames/latest/jpeg",
                "/v1/events",
                "/v1/cameras/yard/stream",
                "/metrics",
            )
        ]
        for answer in answers:
            assert answer.status_code == 401, wrong
            assert re.search("a token is needed|wrong or was revoked", answer.json()["error"]), wrong
            asked = answer.headers["WWW-Authenticate"]
            # players give a password only when they are asked for it; a browser shall not ask for one
            assert asked.startswith("Basic ") if answer.url.endswith("/stream") else asked == "Bearer"
    assert service.get("/healthz").status_code == service.get("/readyz").status_code == 200
    assert len(service.get("/v1/cameras/yard/frames", headers=bearer(secrets["reader"])).json()["frames"]) == 1


def test_who_lacks_a_token_is_told_how_one_is_made(guarded):
    service, _ = guarded
    refused = requests.post(service.post_url("yard"), data=b"", headers=JPEG, timeout=10)
    assert refused.json()["error"] == (
        "a token is needed: on the server, `python -m server tokens add --camera yard` makes one; "
        "send it as `Authorization: Bearer TOKEN`"
    )
    assert "`python -m server tokens add --reader`" in service.get("/v1/cameras").json()["error"]
    wrong = service.get("/v1/cameras", headers=bearer("x")).json()["error"]
    assert wrong.startswith("the token is wrong or was revoked: ")


@pytest.mark.slow
def test_a_token_in_the_address_is_none(guarded, frame):
    service, secrets = guarded
    for name in ("token", "access_token", "rjpeg"):
        assert service.get(f"/v1/cameras?{name}={secrets['reader']}").status_code == 401


def test_a_camera_sends_frames_of_its_own_name_and_reads_nothing(guarded, frame, jpeg):
    service, secrets = guarded
    for name in ("gate", "reader", "reader of gate"):
        headers = JPEG | bearer(secrets[name])
        answer = requests.post(service.post_url("yard"), data=jpeg, headers=headers, timeout=10)
        assert answer.status_code == 403, name
    for path in ("/v1/cameras", "/v1/cameras/yard", "/v1/events", "/metrics"):
        assert service.get(path, headers=bearer(secrets["yard"])).status_code == 403


def test_a_reader_sees_all_cameras_or_the_one_that_its_token_is_for(guarded, frame, jpeg):
    service, secrets = guarded
    assert requests.post(service.post_url("gate"), data=jpeg, headers=JPEG | bearer(secrets["gate"]), timeout=10).ok
    for name, seen in (("reader", ["gate", "yard"]), ("reader of gate", ["gate"])):
        cameras = service.get("/v1/cameras", headers=bearer(secrets[name])).json()["cameras"]
        assert [camera["camera"] for camera in cameras] == seen
    of_gate = bearer(secrets["reader of gate"])
    assert service.get("/v1/cameras/gate/frames/latest/jpeg", headers=of_gate).content == jpeg
    for path in (
        "/v1/cameras/yard",
        "/v1/cameras/yard/frames/latest/jpeg",
        "/v1/events?camera=yard",
        "/metrics",
        "/v1/cameras/yard/stream",
    ):
        assert service.get(path, headers=of_gate).status_code == 403, path
    with service.get("/v1/events", headers=of_gate, stream=True) as events:
        lines = events.iter_lines(chunk_size=1, decode_unicode=True)
        assert next(lines) == "event: heartbeat"
        for name in ("yard", "gate"):
            answer = requests.post(service.post_url(name), data=jpeg, headers=JPEG | bearer(secrets[name]), timeout=10)
            assert answer.status_code == 201
        first = next(line for line in lines if line.startswith('data: {"id"'))
        assert json.loads(first.removeprefix("data: "))["camera"] == "gate", "no event of another camera came before"


def test_a_session_lets_a_browser_read_and_not_send(guarded, frame, jpeg):
    service, secrets = guarded
    with requests.Session() as browser:
        answer = browser.post(service.url + "/v1/session", json={"token": secrets["reader"]}, timeout=10)
        assert answer.status_code == 204
        cookie = answer.headers["Set-Cookie"].lower()
        assert all(part in cookie for part in ("httponly", "samesite=strict", "path=/"))
        assert "secure" not in cookie, "it would be kept back without TLS"
        assert browser.get(service.url + "/v1/cameras/yard/frames/latest/picture", timeout=10).ok
        answer = browser.post(service.post_url("yard"), data=jpeg, headers=JPEG, timeout=10)
        assert answer.status_code == 401, "cookies are for GET"
        assert browser.delete(service.url + "/v1/session", timeout=10).status_code == 204
        assert browser.get(service.url + "/v1/cameras", timeout=10).status_code == 401


@pytest.mark.slow
@pytest.mark.parametrize(
    ("body", "content_type", "status"),
    [
        (b'{"token": "x"}', "application/json", 401),
        (b'{"token": "x"}', "text/plain", 415),
        (b'{"token": "x"}', None, 415),
        (b"{", "application/json", 400),
        (b"[]", "application/json", 400),
        (b'{"token": 1}', "application/json", 400),
        (b'{"token": ""}', "application/json", 400),
        (b'{"token": "x", "more": 1}', "application/json", 400),
        (b'{"token": "\xff"}', "application/json", 400),
        (b'{"token": "' + b"x" * 5000 + b'"}', "application/json", 413),
    ],
)
def test_a_session_with_anything_but_a_reader_s_token_is_refused(guarded, body, content_type, status):
    service, secrets = guarded
    headers = {} if content_type is None else {"Content-Type": content_type}
    answer = requests.post(service.url + "/v1/session", data=body, headers=headers, timeout=10)
    assert answer.status_code == status
    assert answer.json()["error"]
    assert "Set-Cookie" not in answer.headers
    answer = requests.post(service.url + "/v1/session", json={"token": secrets["yard"]}, timeout=10)
    assert answer.status_code == 401


@pytest.mark.slow
def test_a_revoked_token_ends_within_two_seconds_and_with_it_its_streams(start, jpeg, tmp_path):
    camera, reader = make_token(tmp_path, "--camera", "cam"), make_token(tmp_path, "--reader")
    service = start("--auth", "on", data=tmp_path)
    headers = JPEG | bearer(camera)
    assert requests.post(service.post_url(), data=jpeg, headers=headers, timeout=10).status_code == 201
    streams = [
        service.get(path, headers=bearer(reader), stream=True) for path in ("/v1/events", "/v1/cameras/cam/stream")
    ]
    listed = [json.loads(line) for line in tokens(tmp_path, "list", "--json").stdout.splitlines()]
    for token in listed:
        assert tokens(tmp_path, "revoke", str(token["id"])).returncode == 0
    time.sleep(2)
    assert requests.post(service.post_url(), data=jpeg, headers=headers, timeout=10).status_code == 401
    assert service.get("/v1/cameras", headers=bearer(reader)).status_code == 401
    for stream in streams:
        with contextlib.closing(stream):
            started = time.monotonic()
            stream.raw.read()
            assert time.monotonic() - started < 5


@pytest.mark.slow
def test_tokens_are_made_listed_and_revoked_on_the_command_line_and_kept_as_hashes(tmp_path):
    made = tokens(tmp_path, "add", "--camera", "yard", "--note", "by the gate")
    secret = made.stdout.strip()
    assert secret.startswith("rjpeg_1_")
    assert len(base64.urlsafe_b64decode(secret.split("_", 2)[2] + "=")) == 32
    assert "only time" in made.stderr
    tokens(tmp_path, "add", "--reader")
    [first, second] = [json.loads(line) for line in tokens(tmp_path, "list", "--json").stdout.splitlines()]
    assert (first["id"], first["role"], first["camera"], first["note"]) == (1, "camera", "yard", "by the gate")
    assert (second["role"], second["camera"]) == ("reader", None)
    assert "by the gate" in tokens(tmp_path, "list").stdout
    kept = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert secret.split("_", 2)[2].encode() not in kept
    assert tokens(tmp_path, "revoke", "1").returncode == 0
    again = tokens(tmp_path, "revoke", "1")
    assert (again.returncode, again.stderr.splitlines()[-1]) == (1, "error: there is no token 1")
    assert len(tokens(tmp_path, "list", "--json").stdout.splitlines()) == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["add"], 1),
        (["add", "--camera", "../x"], 1),
        (["add", "--camera", "a", "--note", "a\nb"], 1),
        (["revoke", "x"], 2),
        (["revoke"], 2),
        ([], 2),
        (["remove", "1"], 2),
    ],
)
def test_a_wrong_command_line_says_so(tmp_path, arguments, code):
    result = tokens(tmp_path, *arguments)
    assert result.returncode == code
    assert "error: " in result.stderr
    assert "Traceback" not in result.stderr
    assert result.stdout == ""


def server(*arguments):
    command = [sys.executable, "-m", "server", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--listen", "0.0.0.0:0", "--auth", "off"], "tokens add"),
        (["--listen", "127.0.0.1:99999"], "expected HOST:PORT"),
        (["--listen", "192.0.2.1:80"], "can't listen on 192.0.2.1:80"),
        (["--listen", "no-such-host.invalid:80"], "can't listen on no-such-host.invalid:80"),
        (["--listen", "127.0.0.1:0", "--tls-key", "{tmp}/a"], "certificate and key"),
        (["--listen", "127.0.0.1:0", "--tls-certificate", "{tmp}/no", "--tls-key", "{tmp}/no"], "{tmp}/no"),
        (["--listen", "127.0.0.1:0", "--tls-certificate", "{tmp}/a", "--tls-key", "{tmp}/a"], "can't use TLS files"),
        (["--config", "{tmp}/no.yaml"], "can't read configuration"),
        (["--config", "{tmp}/unknown.yaml"], "unknown field `lissten`"),
        (["--config", "{tmp}/wrong.yaml"], "$.limits.pending"),
        (["--config", "{tmp}/a"], "configuration"),
        (["--listen", "127.0.0.1:0", "--model", "{tmp}/nowhere"], "nowhere"),
        (["--listen", "127.0.0.1:0", "--task", "{tmp}/nowhere.tflite"], "nowhere.tflite"),
        (["--listen", "127.0.0.1:0", "--task", "{tmp}/task.yaml"], "task.yaml"),
        (["--listen", "127.0.0.1:0", "--database", "mongodb://x"], "mongodb"),
        (["--listen", "127.0.0.1:0", "--data", "{tmp}/a/b"], "{tmp}/a"),
    ],
)
def test_what_cannot_work_ends_with_one_line_that_says_why(tmp_path, arguments, message):
    (tmp_path / "a").write_text("no: [such, thing")
    (tmp_path / "unknown.yaml").write_text("lissten: 127.0.0.1:0")
    (tmp_path / "wrong.yaml").write_text("limits: {pending: 0}")
    (tmp_path / "task.yaml").write_text("kind: magic")
    more = [] if "--data" in arguments else ["--data", tmp_path / "data"]
    result = server(*(a.format(tmp=tmp_path) for a in arguments), *more)
    assert result.returncode == 1
    assert result.stdout == ""
    lines = [line for line in result.stderr.splitlines() if not line.startswith("listening on")]
    assert lines[-1].startswith("error: ")
    assert message.format(tmp=tmp_path) in lines[-1]
    assert "Traceback" not in result.stderr


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [["frobnicate"], ["--workers", "0"], ["--auth", "maybe"], ["serve", "extra"]])
def test_wrong_usage_exits_with_2(arguments):
    result = server(*arguments)
    assert result.returncode == 2
    assert "usage:" in result.stderr


@pytest.mark.slow
def test_away_from_loopback_a_token_is_needed_by_itself(start, tmp_path, jpeg):
    reader = make_token(tmp_path, "--reader")
    service = start("--listen", "0.0.0.0:0", data=tmp_path)
    url = f"http://127.0.0.1:{urllib.parse.urlsplit(service.url).port}"
    assert requests.get(url + "/v1/cameras", timeout=10).status_code == 401
    assert requests.get(url + "/v1/cameras", headers=bearer(reader), timeout=10).status_code == 200
    assert any("tokens travel unencrypted" in message for message in service.messages)


@pytest.mark.slow
@pytest.mark.parametrize(("auth", "status"), [("on", 401), ("off", 200), ("auto", 200), ("'on'", 401)])
def test_auth_in_the_configuration_is_on_off_or_auto(start, tmp_path, auth, status):
    (tmp_path / "server.yaml").write_text(f"auth: {auth}")
    assert start("--config", tmp_path / "server.yaml").get("/v1/cameras").status_code == status


@pytest.mark.slow
def test_over_tls_everything_is_encrypted_and_the_cookie_is_for_tls_only(start, tmp_path, jpeg):
    made = ["-keyout", "key.pem", "-out", "cert.pem"]
    names = ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    subprocess.run(
        [
            "openssl",
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-nodes",
            *made,
            "-days",
            "2",
            "-subj",
            "/CN=localhost",
            *names,
        ],
        cwd=tmp_path,
        check=True,
        capture_output=True,
    )
    reader = make_token(tmp_path / "data", "--reader")
    files = ["--tls-certificate", tmp_path / "cert.pem", "--tls-key", tmp_path / "key.pem"]
    service = start("--auth", "on", *files, data=tmp_path / "data")
    assert service.url.startswith("https://")
    answer = requests.post(
        service.url + "/v1/session", json={"token": reader}, timeout=10, verify=str(tmp_path / "cert.pem")
    )
    assert answer.status_code == 204
    assert "secure" in answer.headers["Set-Cookie"].lower()
    host = urllib.parse.urlsplit(service.url)
    with socket.create_connection((host.hostname, host.port), 10) as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert b"ok" not in connection.recv(4096), "nothing is answered without TLS"


@pytest.mark.slow
def test_a_web_page_from_elsewhere_can_not_read_here_by_a_name_of_its_own(start, tmp_path):
    (tmp_path / "server.yaml").write_text("hosts: [camera-server.lan]")
    service = start("--config", tmp_path / "server.yaml")
    for host, status in (
        ("evil.example", 400),
        ("evil.example:8000", 400),
        ("localhost.evil.example", 400),
        ("localhost", 200),
        ("[::1]:8000", 200),
        ("Camera-Server.lan:8000", 200),
        ("127.0.0.1", 200),
        ("", 400),
    ):
        assert service.get("/v1/cameras", headers={"Host": host}).status_code == status, host


@pytest.mark.slow
@pytest.mark.parametrize(
    ("host", "local"),
    [
        ("127.0.0.1", True),
        ("127.0.0.1:80", True),
        ("[::1]", True),
        ("[::1]:80", True),
        ("localhost:1", True),
        ("LOCALHOST", True),
        ("192.168.1.2:8000", True),
        ("example.com", False),
        ("127.0.0.1.example.com", False),
        ("1.example.com:80", False),
        ("", False),
        (":80", False),
    ],
)
def test_only_addresses_and_localhost_are_names_that_lead_nowhere_else(host, local):
    assert is_local_name(host) is local


def test_a_server_and_its_tokens_are_found_from_any_folder_and_the_page_has_the_right_command(tmp_path, monkeypatch):
    config = configuration.load(configuration.DEFAULT_PATH)
    (tmp_path / "my.yaml").write_text("retention: {days: 3}\n")
    monkeypatch.chdir(tmp_path)
    for path in (configuration.DEFAULT_PATH, tmp_path / "my.yaml"):
        found = configuration.load(path)
        assert configuration.database_url(found) == f"sqlite:///{ROOT}/out/server/server.sqlite3"
        assert configuration.files_url(found) == f"{ROOT}/out/server/frames"
    assert configuration.token_command(config) == "python -m server tokens add"
    config.storage.data = "elsewhere"
    assert configuration.database_url(config) == f"sqlite:///{tmp_path}/elsewhere/server.sqlite3"
    assert configuration.token_command(config) == "python -m server tokens add --data FOLDER"
    config.storage.database = "postgresql://me:secret@db/frames"
    assert configuration.token_command(config) == "python -m server tokens add --database URL"


def test_the_login_page_shows_the_command_for_this_server_and_the_log_the_whole_of_it(guarded):
    service, _ = guarded
    page = service.get("/").text
    assert "-m server tokens add --data FOLDER --reader</code>" in page
    assert "TOKENS" not in page
    assert str(service.data) not in page, "nobody else need know where it is"
    told = next(line for line in service.messages if "a reader's token, for the page: " in line)
    command = told.rstrip().partition("for the page: ")[2]
    made = subprocess.run(["sh", "-c", command], cwd="/", capture_output=True, text=True, timeout=60, check=True)
    assert service.get("/v1/cameras", headers=bearer(made.stdout.strip())).status_code == 200
    assert f"it is for sqlite:///{service.data}/server.sqlite3" in made.stderr
    assert "no server has kept anything" not in made.stderr


@pytest.mark.slow
def test_a_token_for_a_store_that_is_not_there_yet_comes_with_a_warning(tmp_path):
    made = tokens(tmp_path / "new", "add", "--reader")
    assert made.returncode == 0
    assert f"no server has kept anything in {tmp_path}/new yet" in made.stderr
    assert "no server has kept" not in tokens(tmp_path / "new", "add", "--reader").stderr


def test_docs_list_the_addresses_for_other_programs(guarded):
    service, _ = guarded
    page = service.get("/docs")
    assert page.status_code == 200
    for name in ("VLC", "Home Assistant", "Frigate", "go2rtc", "MediaMTX", "/v1/cameras/CAMERA/stream", "/snapshot"):
        assert name in page.text
    assert "-m server tokens add --data FOLDER --reader --camera CAMERA" in page.text
