"""What `capture.py check` finds."""

import datetime
import json
import os
import re
import shutil
import socket
import ssl
import subprocess
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.subscribeoptions import SubscribeOptions

from device import health
from device.capture import check_command
from device.check import machine, run_checks, storage
from device.check.broker import check_broker
from device.check.certificate import check_certificate
from device.check.http_server import check_http_server
from device.check.isolated import check_camera, check_encoder, check_numpy
from device.check.machine import check_clock, check_frequency, check_power, check_temperature
from device.check.result import Check
from device.check.runner import limited
from device.check.storage import check_folder, check_spool
from device.config import CameraConfig, Config, DeliveryConfig, EncodingConfig, MqttConfig, SpoolConfig, ViewConfig
from tests.brokers import needs_broker
from tests.service import Service, make_token
from tests.waiting import until

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Folder of the server's data."""
    return tmp_path_factory.mktemp("server")


@pytest.fixture(scope="module")
def token_file(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("token") / "token"
    path.write_text(make_token(data, "--camera", "camera"))
    path.chmod(0o600)
    return str(path)


@pytest.fixture(scope="module")
def server(data, token_file):
    """A real server that wants the token."""
    service = Service("--auth", "on", data=data)
    yield service.url
    service.stop()
    assert service.lines == []  # no check was taken for a frame


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    """An own certificate authority, and certificates by it: of this machine for 90 days and for 3, of another name."""
    folder = tmp_path_factory.mktemp("authority")

    def openssl(*arguments):
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)

    openssl(
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-keyout",
        "ca.key",
        "-out",
        "ca.pem",
        "-days",
        "365",
        "-subj",
        "/CN=test authority",
    )
    for name, host, days in (("good", "DNS:localhost", 90), ("soon", "DNS:localhost", 3), ("other", "DNS:other", 90)):
        (folder / f"{name}.ext").write_text(f"subjectAltName={host}\n")
        openssl(
            "req",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-keyout",
            f"{name}.key",
            "-out",
            f"{name}.csr",
            "-subj",
            "/CN=rjpeg test",
        )
        openssl(
            "x509",
            "-req",
            "-in",
            f"{name}.csr",
            "-CA",
            "ca.pem",
            "-CAkey",
            "ca.key",
            "-CAcreateserial",
            "-out",
            f"{name}.pem",
            "-days",
            str(days),
            "-extfile",
            f"{name}.ext",
        )
    return folder


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return listening.getsockname()[1]


@pytest.fixture
def broker(tmp_path):
    """Start mosquitto with the given lines of configuration; its port."""
    executable = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin")
    if executable is None:
        pytest.skip("no mosquitto here")
    processes = []

    def start(*lines):
        port = free_port()
        (tmp_path / "mosquitto.conf").write_text(
            "\n".join([f"listener {port} 127.0.0.1", f"user {os.environ.get('USER', 'root')}", *lines, ""])
        )
        processes.append(
            subprocess.Popen([executable, "-c", str(tmp_path / "mosquitto.conf")], stderr=subprocess.DEVNULL)
        )
        end = time.monotonic() + 20
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
            except OSError:
                assert time.monotonic() < end
                assert processes[-1].poll() is None
                time.sleep(0.02)
            else:
                return port

    yield start
    for process in processes:
        process.terminate()
        process.wait(20)


@pytest.fixture
def https_server(authority):
    """A TLS port with a certificate of the authority, by name; its port."""
    stopped = threading.Event()
    threads = []

    def start(name):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(authority / f"{name}.pem", authority / f"{name}.key")
        listening = socket.create_server(("127.0.0.1", 0))
        listening.settimeout(0.05)

        def serve():
            while not stopped.is_set():
                try:
                    connection, _ = listening.accept()
                    connection.settimeout(5)
                    with context.wrap_socket(connection, server_side=True) as secured:
                        secured.recv(1)
                except OSError:
                    continue
            listening.close()

        threads.append(threading.Thread(target=serve))
        threads[-1].start()
        return listening.getsockname()[1]

    yield start
    stopped.set()
    for thread in threads:
        thread.join()


def to_server(url, **more):
    return Config(delivery=DeliveryConfig(server=url, timeout_seconds=5, **more))


def certificate_of(url, **more):
    return limited("certificate", lambda: check_certificate(to_server(url, **more)))


def server_of(config):
    check = check_broker if config.delivery.server.startswith("mqtt") else check_http_server
    return limited("server", lambda: check(config))


@pytest.mark.slow
def test_a_device_in_order_passes(server, token_file, pictures, monkeypatch):
    monkeypatch.setattr(health, "clock_synchronized", lambda: True)
    config = Config(
        cameras=[CameraConfig(id="camera", source=str(pictures))],
        encoding=EncodingConfig(quality=50),
        delivery=DeliveryConfig(server=server, token_file=token_file),
        view=ViewConfig(listen="127.0.0.1:0"),
    )
    found = {entry.name: entry for entry in run_checks(config)}
    assert [entry for entry in found.values() if entry.ok is False] == []
    assert found["camera camera"].found.endswith(": 151x113")
    assert found["encoder"].found.startswith("a 640x480 frame in ")
    assert found["server"].found == f"{server} answers and takes the token"
    assert found["local page"].ok is True


@pytest.mark.slow
def test_a_device_in_disorder_is_told_everything_at_once(tmp_path, capfd):
    config = Config(
        cameras=[CameraConfig(id="a", source=987), CameraConfig(id="a", source=str(tmp_path / "none.mp4"))],
        encoding=EncodingConfig(quality=50, model=str(tmp_path / "no-model")),
        delivery=DeliveryConfig(
            server="http://127.0.0.1:1",
            token_file=str(tmp_path / "no-token"),
            policy="record",
            spool=SpoolConfig(folder=str(tmp_path / "spool"), max_bytes=10**15),
        ),
        view=ViewConfig(listen="0.0.0.0:0"),
    )
    failed = " | ".join(f"{entry.name}: {entry.found}" for entry in run_checks(config) if entry.ok is False)
    for expected in (
        "configuration: cameras: every id only once; a is there more often",
        "encoder: ",
        "no-model",
        "camera a: camera 987 is missing",
        "none.mp4",
        "spool: ",
        "1000000.0 GB wanted",
        "server: can't read token file",
        "local page: view.listen 0.0.0.0:0 can be reached from other machines",
    ):
        assert expected in failed
    assert capfd.readouterr() == ("", "")
    assert not (tmp_path / "spool").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "crashes: signal SIGSEGV"),
        ("import os; os.abort()", "crashes: signal SIGABRT"),
        ("raise SystemExit(3)", "crashes: exit status 3"),
        ("import time; time.sleep(100)", "no result after 3 s"),
    ],
)
def test_a_runtime_that_crashes_or_hangs_does_not_take_the_check_with_it(tmp_path, monkeypatch, code, found):
    (tmp_path / "tflite_runtime").mkdir()
    (tmp_path / "tflite_runtime" / "__init__.py").write_text("")
    (tmp_path / "tflite_runtime" / "interpreter.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("RJPEG_RUNTIME", "tflite_runtime")
    result = limited("encoder", lambda: check_encoder(None, seconds=3.0))
    assert result.ok is False
    assert found in result.found
    assert result.remedy


def test_numpy_2_with_the_old_runtime_is_found_out_before_it_crashes(monkeypatch):
    pytest.importorskip("tflite_runtime")
    monkeypatch.setenv("RJPEG_RUNTIME", "tflite_runtime")
    monkeypatch.setattr(np, "__version__", "2.1.0")
    result = check_numpy()
    assert (result.ok, result.remedy) == (False, "pip install 'numpy<2'")
    assert "NumPy 2.1.0" in result.found


@pytest.mark.slow
def test_a_right_token_is_told_from_a_wrong_one(server, token_file, tmp_path):
    assert server_of(to_server(server, token_file=token_file)).ok is True
    (tmp_path / "wrong").write_text("guess")
    wrong = server_of(to_server(server, token_file=str(tmp_path / "wrong")))
    assert (wrong.ok, wrong.found) == (False, f"{server} refuses the token (401)")
    missing = server_of(to_server(server))
    assert (missing.ok, missing.found) == (False, f"{server} wants a token (401)")


@pytest.mark.slow
def test_every_camera_shows_a_token_of_its_own(server, data, tmp_path):
    def found(second):
        cameras = [CameraConfig(id=name, source=str(tmp_path)) for name in ("left", second)]
        delivery = DeliveryConfig(server=server, timeout_seconds=5, token_file=str(tmp_path / "{camera}.token"))
        return server_of(Config(cameras=cameras, delivery=delivery))

    for name in ("left", "right"):
        (tmp_path / f"{name}.token").write_text(make_token(data, "--camera", name))
    (tmp_path / "other.token").write_text((tmp_path / "right.token").read_text())
    assert found("right").ok is True
    wrong = found("other")
    assert (wrong.ok, wrong.found) == (False, f"{server} refuses the token of camera other (403)")


def test_a_netrc_does_not_stand_in_for_the_token(server, tmp_path, monkeypatch):
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login a password b\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    assert "wants a token" in server_of(to_server(server)).found


@pytest.mark.parametrize(
    ("status", "ok", "found"),
    [(404, False, "answers 404"), (301, False, "answers 301"), (503, None, "is busy"), (403, False, "wants a token")],
)
def test_answers_of_another_server_are_told_apart(recorder, status, ok, found):
    recorder.answers = [(status, {"Location": "http://127.0.0.1:1/"})]
    result = server_of(to_server(recorder.url))
    assert result.ok is ok
    assert found in result.found


@pytest.mark.parametrize("status", [200, 302, 400, 401, 403, 415, 422, 500, 511])
def test_a_portal_in_front_is_not_taken_for_the_server(recorder, status):
    recorder.answers = [(status, {"Content-Type": "text/html"}, b"<title>Welcome to the hotel</title>")]
    result = server_of(to_server(recorder.url))
    assert (result.ok, f"answers {status} (text/html)" in result.found) == (False, True)
    assert "portal or proxy" in result.remedy


@pytest.mark.slow
def test_a_server_that_is_not_there_or_says_nothing_is_reported_in_time():
    assert "Connection refused" in server_of(to_server("http://user:pass@127.0.0.1:1")).found
    assert "pass" not in server_of(to_server("http://user:pass@127.0.0.1:1")).found
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        for scheme in ("http", "mqtt"):
            config = to_server(f"{scheme}://127.0.0.1:{port}")
            config.delivery.timeout_seconds = 0.3
            started = time.monotonic()
            assert server_of(config).ok is False
            assert time.monotonic() - started < 5
    assert "out of range" in server_of(to_server("mqtt://127.0.0.1:99999")).found


def test_a_broker_takes_the_right_password_and_says_why_it_refuses_another(broker, token_file, tmp_path):
    subprocess.run(
        ["mosquitto_passwd", "-b", "-c", tmp_path / "users", "cam", Path(token_file).read_text()],
        check=True,
        capture_output=True,
    )
    port = broker("allow_anonymous false", f"password_file {tmp_path / 'users'}")
    url = f"mqtt://127.0.0.1:{port}"
    assert server_of(to_server(url, token_file=token_file, mqtt=MqttConfig(username="cam"))).ok is True
    for config in (to_server(url), to_server(url, token_file=token_file, mqtt=MqttConfig(username="other"))):
        result = server_of(config)
        assert result.ok is False
        assert re.search(r"refuses: (Not authorized|Bad user name or password)", result.found)


@pytest.mark.slow
def test_a_broker_with_tls_is_believed_by_its_authority_only(broker, authority):
    port = broker("allow_anonymous true", f"certfile {authority / 'good.pem'}", f"keyfile {authority / 'good.key'}")
    url = f"mqtts://localhost:{port}"
    trusting = {"ca_file": str(authority / "ca.pem")}
    assert server_of(to_server(url, **trusting)).ok is True
    assert certificate_of(url, **trusting).ok is True
    assert "unable to get local issuer" in server_of(to_server(url)).found
    assert server_of(to_server(f"mqtt://localhost:{port}")).ok is False


def users(broker, folder, *cameras, username="{camera}"):
    """A configuration of several cameras whose passwords are in files of their own."""
    for user in ("one", "two"):
        (folder / f"{user}.password").write_text(f"password-{user}")
    delivery = DeliveryConfig(
        server=broker.tls_url,
        token_file=str(folder / "{camera}.password"),
        ca_file=str(broker.ca_file),
        timeout_seconds=5,
        mqtt=MqttConfig(topic="site", username=username),
    )
    return Config(cameras=[CameraConfig(id=camera) for camera in cameras], delivery=delivery)


@pytest.mark.slow
@needs_broker
def test_every_camera_connects_as_itself_and_publishes_empty_metrics(start_broker, tmp_path):
    broker, messages = start_broker(), []
    viewer = Client(CallbackAPIVersion.VERSION2, protocol=MQTTProtocolVersion.MQTTv5)
    viewer.on_message = lambda _client, _data, message: messages.append(message)
    subscribed = threading.Event()
    viewer.on_subscribe = lambda *_: subscribed.set()
    viewer.connect("127.0.0.1", broker.port)
    viewer.loop_start()
    viewer.subscribe("#", options=SubscribeOptions(qos=1, retainAsPublished=True))
    assert subscribed.wait(10)
    result = server_of(users(broker, tmp_path, "one", "two"))
    assert (result.ok, result.found) == (True, f"{broker.tls_url} takes the connection and what is published")
    until(lambda: len(messages) == 2)
    viewer.disconnect()
    viewer.loop_stop()
    assert [(message.topic, message.payload, message.qos, message.retain) for message in messages] == [
        ("site/one/metrics", b"{}", 1, False),
        ("site/two/metrics", b"{}", 1, False),
    ]


@needs_broker
def test_a_camera_that_may_not_write_its_topic_is_found_out_and_told_who_has_to_allow_it(start_broker, tmp_path):
    broker = start_broker()
    (tmp_path / "garage.password").write_text("password-one")
    result = server_of(users(broker, tmp_path, "one", "garage", username="one"))
    assert result.ok is False
    assert result.found == f"{broker.tls_url} doesn't take site/garage/metrics from user one: Not authorized"
    assert "let user one write under site/garage/#" in result.remedy


@needs_broker
def test_the_password_of_every_camera_is_tried(start_broker, tmp_path):
    config = users(start_broker(), tmp_path, "one", "two")
    (tmp_path / "two.password").write_text("wrong")
    result = server_of(config)
    assert result.ok is False
    assert re.search(r"refuses: (Not authorized|Bad user name or password) \(user two\)", result.found)
    config.delivery.mqtt.username = None
    assert "mqtt.username is needed where token_file gives a password" in server_of(config).found


def test_a_broker_that_acknowledges_nothing_is_told(broker):
    port = broker("allow_anonymous true", "max_qos 0")
    result = server_of(to_server(f"mqtt://127.0.0.1:{port}"))
    assert (result.ok, "acknowledges no messages" in result.found) == (False, True)


def test_a_broker_that_ends_the_connection_over_a_topic_says_why():
    def serve(listening):
        connection, _ = listening.accept()
        with connection:
            connection.recv(4096)
            connection.sendall(b"\x20\x03\x00\x00\x00")  # CONNACK: success
            connection.recv(4096)
            connection.sendall(b"\xe0\x01\x87")  # DISCONNECT: not authorized
            connection.recv(4096)

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=serve, args=[listening], daemon=True)
        thread.start()
        result = server_of(to_server(f"mqtt://127.0.0.1:{listening.getsockname()[1]}"))
        thread.join(10)
    assert result.ok is False
    assert result.found.endswith("rjpeg/camera/metrics from a client without a user name: Not authorized")
    assert "access list" in result.remedy


def test_a_broker_that_gives_no_importance_map_is_no_failure():
    def serve(listening):
        connection, _ = listening.accept()
        with connection:
            connection.recv(4096)
            connection.sendall(b"\x20\x03\x00\x00\x00")  # CONNACK: success
            number = connection.recv(4096)[2 + 2 + len("rjpeg/camera/metrics") :][:2]
            connection.sendall(b"\x40\x02" + number)  # PUBACK: success
            number = connection.recv(4096)[2:4]
            connection.sendall(b"\x90\x04" + number + b"\x00\x87")  # SUBACK: not authorized
            connection.recv(4096)

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=serve, args=[listening], daemon=True)
        thread.start()
        result = server_of(to_server(f"mqtt://127.0.0.1:{listening.getsockname()[1]}"))
        thread.join(10)
    assert result.ok is None
    assert "gets no importance map: Not authorized" in result.found
    assert "read rjpeg/camera/importance" in result.remedy


@pytest.mark.slow
def test_without_ca_file_an_https_server_is_trusted_by_the_systems_authorities(authority, monkeypatch):
    service = Service("--tls-certificate", authority / "good.pem", "--tls-key", authority / "good.key")
    try:
        url = service.url.replace("127.0.0.1", "localhost")
        for found in (server_of(to_server(url)), certificate_of(url)):
            assert found.ok is False
            assert "unable to get local issuer certificate" in found.found
        # so OpenSSL is told of another file than the system's
        monkeypatch.setenv("SSL_CERT_FILE", str(authority / "ca.pem"))
        assert server_of(to_server(url)).found == f"{url} answers"
        assert certificate_of(url).ok is True
    finally:
        service.stop()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "host", "trusted", "found", "remedy"),
    [
        ("good", "localhost", True, "valid for (89|90) days", ""),
        ("soon", "localhost", True, "expires in [23] days", "renew it"),
        ("other", "localhost", True, "Hostname mismatch", "use the name"),
        ("good", "localhost", False, "unable to get local issuer certificate", "delivery.ca_file"),
    ],
)
def test_a_certificate_is_looked_at(https_server, authority, name, host, trusted, found, remedy):
    ca_file = str(authority / "ca.pem") if trusted else None
    result = certificate_of(f"https://{host}:{https_server(name)}", ca_file=ca_file)
    assert result.level == ("ok" if not remedy else "warning" if name == "soon" else "failed")
    assert re.search(found, result.found)
    assert remedy in result.remedy


def test_a_port_without_tls_and_a_missing_authority_are_told(server, tmp_path):
    result = certificate_of(server.replace("http:", "https:"))
    assert result.ok is False
    assert "TLS port" in result.remedy
    assert "delivery.ca_file" in certificate_of(server.replace("http:", "https:"), ca_file=str(tmp_path / "no")).remedy


def test_a_clock_that_is_wrong_or_set_by_nobody_is_told(monkeypatch):
    monkeypatch.setattr(health, "clock_synchronized", lambda: False)
    assert (check_clock().ok, "not synchronized" in check_clock().found) == (None, True)
    monkeypatch.setattr(health, "clock_synchronized", lambda: None)
    assert check_clock().ok is None
    monkeypatch.setattr(health, "clock_synchronized", lambda: True)
    assert check_clock().ok is True
    monkeypatch.setattr(machine, "WRITTEN", datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=1))
    assert "long ago" in check_clock().found


def test_the_kernel_tells_whether_the_clock_is_synchronized():
    assert health.clock_synchronized() in (True, False, None)


def test_a_folder_that_cannot_be_written_is_told(tmp_path):
    assert check_folder("output folder", str(tmp_path / "new" / "deep"), 1).ok is True
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("")
    result = check_folder("output folder", str(tmp_path / "file"), 1)
    assert (result.ok, "Not a directory" in result.found) == (False, True)


def test_a_spool_in_memory_is_told(monkeypatch, tmp_path):
    monkeypatch.setattr(storage, "_file_system", lambda path: "tmpfs")
    result = check_spool(str(tmp_path), 1)
    assert (result.ok, "lost with the power" in result.found) == (False, True)


def test_what_the_spool_holds_already_counts_as_room(tmp_path, monkeypatch):
    monkeypatch.setattr(storage, "_file_system", lambda path: "ext4")
    (tmp_path / "spool.db").write_bytes(bytes(1000))
    disk = os.statvfs(tmp_path)
    free = disk.f_bavail * disk.f_frsize
    assert check_spool(str(tmp_path), free // 2).ok is True
    assert check_spool(str(tmp_path), 2 * free).ok is False


@pytest.mark.parametrize(
    ("flags", "ok"),
    [(set(), True), ({"under_voltage_since_boot"}, None), ({"under_voltage", "under_voltage_since_boot"}, None)],
)
def test_a_weak_power_supply_is_told(monkeypatch, flags, ok):
    everything = dict.fromkeys(health.THROTTLED_BITS.values(), False)
    monkeypatch.setattr(health, "throttled", lambda: everything | dict.fromkeys(flags, True))
    assert check_power().ok is ok
    assert bool(check_power().remedy) is bool(flags)


@pytest.mark.parametrize(
    ("degrees", "ok"), [({}, None), ({"cpu": 50.0}, True), ({"cpu": 75.0}, None), ({"a": 20.0, "cpu": 85.0}, None)]
)
def test_heat_is_told(monkeypatch, degrees, ok):
    monkeypatch.setattr(health, "temperatures", lambda: degrees)
    assert check_temperature().ok is ok


def test_a_clock_that_nothing_sets_is_a_warning(monkeypatch):
    monkeypatch.setattr(health, "clock_synchronized", lambda: False)
    assert check_clock().level == "warning"
    monkeypatch.setattr(health, "clock_synchronized", lambda: None)
    assert check_clock().level == "note"


@pytest.mark.parametrize(
    ("found", "code", "last"),
    [
        ([Check("a", True, "x"), Check("b", None, "no sensor")], 0, "0 failed, 0 warnings"),
        ([Check("a", True, "x"), Check("b", None, "hot", "cool it")], 3, "0 failed, 1 warning"),
        ([Check("a", False, "x", "mend it"), Check("b", None, "hot", "cool it")], 1, "1 failed, 1 warning"),
        ([Check("a", False, "x")], 1, "1 failed, 0 warnings"),
    ],
)
def test_the_exit_status_tells_warnings_from_failures(monkeypatch, capsys, found, code, last):
    monkeypatch.setattr("device.check.run_checks", lambda _: iter(found))
    assert check_command(Config(), as_json=False) == code
    *shown, total = capsys.readouterr().out.splitlines()
    assert total == last
    assert sum(line.startswith("warning ") for line in shown) == sum(each.level == "warning" for each in found)
    assert sum(line.startswith("FAILED ") for line in shown) == sum(each.level == "failed" for each in found)
    assert check_command(Config(), as_json=True) == code
    assert [each["level"] for each in json.loads(capsys.readouterr().out)] == [each.level for each in found]


def test_no_finding_about_the_server_has_its_password():
    for url in ("http://me:ge/he?im@127.0.0.1:9", "http://me:geheim@127.0.0.1:9", "http://127.0.0.1:9/?token=geheim"):
        result = server_of(to_server(url))
        assert result.ok is False
        assert "127.0.0.1:9" in result.found
        assert "ge/" not in result.found
        assert "heim" not in result.found


def test_a_processor_that_saves_power_is_told(monkeypatch):
    monkeypatch.setattr(health, "governors", lambda: {"powersave"})
    assert check_frequency().remedy
    monkeypatch.setattr(health, "governors", lambda: {"ondemand"})
    assert check_frequency().ok is True


def test_a_check_that_fails_unexpectedly_or_hangs_reports_itself():
    def odd():
        raise ZeroDivisionError("a\x1b[31m\nb")

    result = limited("odd", odd)
    assert (result.ok, result.found) == (False, "the check itself failed: ZeroDivisionError: a [31m b")
    hang = threading.Event()
    assert "no result" in limited("slow", hang.wait, seconds=0.1).found
    hang.set()


@pytest.mark.slow
def test_a_camera_that_hangs_is_given_up():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        source = f"http://127.0.0.1:{silent.getsockname()[1]}/video"
        result = check_camera(CameraConfig(id="yard", source=source), seconds=1.0)
    assert (result.ok, result.found) == (False, "no result after 1 s")


@pytest.mark.slow
def test_all_checks_are_there_for_a_program_too():
    names = [entry.name for entry in run_checks(Config(delivery=DeliveryConfig(server="mqtt://127.0.0.1:1")))]
    assert names == [
        "configuration",
        "64 bits",
        "NumPy",
        "encoder",
        "camera camera",
        "clock",
        "server",
        "power",
        "temperature",
        "frequency",
    ]
