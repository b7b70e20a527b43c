"""`capture.py check`: what would not work on this device, and how to mend it.

Each check has a time limit. What may crash or hang beyond that, a camera's driver or the TFLite runtime, runs in a
process of its own: this file, as a script.
"""

import contextlib
import datetime
import importlib.metadata
import importlib.util
import json
import os
import platform
import secrets
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

if not __package__:
    # run as a script: the checkout, not this folder, is where packages are found
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import msgspec
import numpy as np
import requests
from urllib3.exceptions import HTTPError

import rjpeg
from device import config as configuration
from device import health
from device.config import CameraConfig, Config, for_camera, token_file_of
from device.delivery.answers import error_text, kind_of
from device.delivery.http_sender import ANSWER_BYTES, Adapter
from device.delivery.mqtt_sender import Connection, new_client
from device.delivery.sender import cause, is_loopback, trusted
from device.metrics import Metrics
from device.sources import frame_size, open_source
from device.view import View
from rjpeg._files import read_token
from rjpeg._protocol import PORTS, broker_address
from rjpeg._runtime import RUNTIMES, runtime_name
from rjpeg.errors import ConfigError, DeliveryError, RjpegError

__all__ = ["Check", "run_checks"]

CAMERA_SECONDS = 45.0  # to open it, several tries of its driver included, and for a frame
ENCODER_SECONDS = 120.0
OTHER_SECONDS = 30.0
CERTIFICATE_DAYS = 14
HOT, TOO_HOT = 70.0, 80.0  # degrees Celsius; at 80 a Raspberry Pi begins to slow down
SPARE_BYTES = 100_000_000
# a clock that shows a time before this program was written is wrong, whatever it thinks
WRITTEN = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
FRAME = (480, 640, 3)


class Check(NamedTuple):
    """One thing that was looked at.

    Attributes:
        name: what.
        ok: True; False: it has to be mended; None: it doesn't apply, can't be told, or is only a hint.
        found: what there is.
        remedy: what to do; empty where there is nothing to do.
    """

    name: str
    ok: bool | None
    found: str
    remedy: str = ""


def run_checks(config: Config) -> Iterator[Check]:
    """All checks of a configuration, one after another. Raises nothing; what fails is a check that says so."""
    target = config.delivery
    yield _limited("configuration", lambda: _configuration(config))
    yield _limited("64 bits", _userland)
    yield _limited("NumPy", _numpy)
    yield _limited("encoder", lambda: _encoder(config.encoding.model), ENCODER_SECONDS + 5)
    for camera in config.cameras:
        yield _limited(f"camera {camera.id}", partial(_camera, camera), CAMERA_SECONDS + 5)
    yield _limited("clock", _clock)
    if target.out is not None:
        yield _limited("output folder", lambda: _folder("output folder", str(target.out), SPARE_BYTES))
    elif target.policy == "record":
        yield _limited("spool", lambda: _spool(target.spool.folder, target.spool.max_bytes))
    if target.server is not None:
        limit = max(OTHER_SECONDS, 4 * target.timeout_seconds)
        scheme = urllib.parse.urlsplit(target.server).scheme
        if scheme in ("https", "mqtts"):
            yield _limited("certificate", lambda: _certificate(config), limit)
        # one camera after another, and the first that fails ends it
        limit *= len(config.cameras)
        yield _limited("server", lambda: (_mqtt if scheme.startswith("mqtt") else _http)(config), limit)
    if config.view.listen is not None:
        yield _limited("local page", lambda: _view(config))
    yield _limited("power", _power)
    yield _limited("temperature", _temperature)
    yield _limited("frequency", _frequency)


def _limited(name: str, function: Callable[[], Check], seconds: float = OTHER_SECONDS) -> Check:
    """What a check finds, that it failed, or that it took too long; as one line without control characters."""
    found: list[Check] = []

    def work() -> None:
        try:
            found.append(function())
        except RjpegError as error:
            found.append(Check(name, False, str(error)))
        except Exception as error:  # noqa: BLE001
            found.append(
                Check(name, False, f"the check itself failed: {type(error).__name__}: {error}", "please report this")
            )

    thread = threading.Thread(target=work, name=f"check {name}", daemon=True)
    thread.start()
    thread.join(seconds)
    if not found:
        return Check(name, False, f"no result after {seconds:.0f} s", "something hangs; look into the system's log")
    return Check(name, found[0].ok, _one_line(found[0].found), _one_line(found[0].remedy))


def _configuration(config: Config) -> Check:
    configuration.check(config)
    for camera in config.cameras:
        path = token_file_of(config.delivery, camera.id)
        if path is not None:
            read_token(path)
            if Path(path).stat().st_mode & 0o077:
                return Check("configuration", None, f"others can read the token in {path}", f"chmod 600 {path}")
    number = len(config.cameras)
    return Check("configuration", True, f"{number} camera{'s' if number > 1 else ''}")


def _userland() -> Check:
    found = f"{platform.machine()}, Python {platform.python_version()}"
    if sys.maxsize < 2**32:
        return Check("64 bits", False, f"{found}, 32 bits", "install the 64-bit Raspberry Pi OS; the runtime needs it")
    return Check("64 bits", True, found)


def _numpy() -> Check:
    wanted = os.environ.get("RJPEG_RUNTIME")
    runtime = next((name for name in ([wanted] if wanted else RUNTIMES) if importlib.util.find_spec(name)), None)
    if runtime is None:
        return Check(
            "NumPy", False, "there is no TFLite runtime", "install rjpeg anew: pip install --force-reinstall ."
        )
    found = f"NumPy {np.__version__}, {runtime} {importlib.metadata.version(runtime.replace('_', '-'))}"
    if runtime == "tflite_runtime" and int(np.__version__.partition(".")[0]) >= 2:
        return Check("NumPy", False, f"{found}: it crashes with NumPy 2", "pip install 'numpy<2'")
    return Check("NumPy", True, found)


def _encoder(model: str | None) -> Check:
    said = _in_a_process("encoder", {"model": model}, ENCODER_SECONDS)
    advice = "install rjpeg anew with its own versions: pip install --force-reinstall . --group device"
    if "crash" in said:
        return Check("encoder", False, f"the TFLite runtime crashes: {said['crash']} (NumPy {np.__version__})", advice)
    if "error" in said:
        return Check("encoder", False, said["error"], "check encoding.model" if model else advice)
    return Check("encoder", True, f"a {FRAME[1]}x{FRAME[0]} frame in {said['ms']:.0f} ms, {said['runtime']}")


def _camera(camera: CameraConfig) -> Check:
    name = f"camera {camera.id}"
    said = _in_a_process("camera", msgspec.to_builtins(camera), CAMERA_SECONDS)
    if "crash" in said:
        return Check(name, False, f"its driver crashes: {said['crash']}", "try another pixel_format, size or cable")
    if "error" in said:
        return Check(name, False, said["error"], "check cameras: source, size and pixel_format in the configuration")
    fps = f", {said['fps']:g} frames a second" if said["fps"] else ""
    return Check(name, True, f"{said['name']}: {said['width']}x{said['height']}{fps}")


def _clock() -> Check:
    now = datetime.datetime.now(datetime.UTC)
    shown = now.isoformat(timespec="seconds")
    advice = "sudo timedatectl set-ntp true; frames bear the time they were taken at"
    if now < WRITTEN:
        return Check("clock", False, f"{shown} is long ago", advice)
    synchronized = health.clock_synchronized()
    if synchronized is None:
        return Check("clock", None, f"{shown}; whether it is synchronized can't be told")
    if not synchronized:
        return Check("clock", False, f"{shown}, not synchronized", advice)
    return Check("clock", True, f"{shown}, synchronized")


def _spool(folder: str, max_bytes: int) -> Check:
    used = 0
    with contextlib.suppress(OSError):
        used = sum(path.stat().st_size for path in Path(folder).iterdir())
    check = _folder("spool", folder, max_bytes - used)
    if check.ok and _file_system(Path(folder)) in ("tmpfs", "ramfs"):
        return Check(
            "spool", False, f"{folder} is in memory and lost with the power", "set delivery.spool.folder to a disk"
        )
    return check


def _folder(name: str, folder: str, wanted: int) -> Check:
    """Whether a file can be written in the folder, or where it would be made, and `wanted` bytes of them."""
    place = Path(folder).absolute()
    while not place.exists():
        place = place.parent
    try:
        with tempfile.TemporaryFile(dir=place) as file:
            file.write(b"rjpeg")
            file.flush()
            os.fsync(file.fileno())
        disk = os.statvfs(place)
    except OSError as error:
        who = f"user {os.getuid()}"
        return Check(name, False, f"can't write in {place}: {error.strerror}", f"let {who} write there, or make room")
    free = disk.f_bavail * disk.f_frsize
    found = f"{folder}: {_size(free)} free"
    if free < wanted:
        return Check(name, False, f"{found}, {_size(wanted)} wanted", "make room, or lower delivery.spool.max_bytes")
    return Check(name, True, found)


def _certificate(config: Config) -> Check:
    parts = urllib.parse.urlsplit(str(config.delivery.server))
    host = parts.hostname or ""
    if parts.scheme == "https" and not is_loopback(host) and requests.utils.get_environ_proxies(f"https://{host}"):
        return Check("certificate", None, "not looked at: a proxy is between")
    shown = _shown_certificate(config)
    if isinstance(shown, Check):
        return shown
    days = (ssl.cert_time_to_seconds(shown["notAfter"]) - time.time()) / 86400
    if days < CERTIFICATE_DAYS:
        return Check("certificate", False, f"{host}: expires in {days:.0f} days", "renew it on the server")
    return Check("certificate", True, f"{host}: valid for {days:.0f} days")


def _shown_certificate(config: Config) -> dict[str, Any] | Check:
    """What the server shows and is to be believed, or why it isn't."""
    parts = urllib.parse.urlsplit(str(config.delivery.server))
    host, port = parts.hostname or "", _port(parts)
    try:
        context = trusted(config.delivery.ca_file)
    except ConfigError as error:
        return Check("certificate", False, str(error), "check delivery.ca_file")
    try:
        with (
            socket.create_connection((host, port), config.delivery.timeout_seconds) as connection,
            context.wrap_socket(connection, server_hostname=host) as secured,
        ):
            return dict(secured.getpeercert() or {})
    except ssl.SSLCertVerificationError as error:
        return Check("certificate", False, f"{host}: {error.verify_message}", _certificate_remedy(error.verify_message))
    except ssl.SSLError as error:
        return Check("certificate", False, f"{host}:{port}: {error.reason or error}", "is it a TLS port? check the URL")
    except OSError as error:
        return Check("certificate", False, f"{host}:{port}: {cause(error)}", "check delivery.server and the network")


def _port(parts: urllib.parse.SplitResult) -> int:
    try:
        return parts.port or PORTS[parts.scheme]
    except ValueError as error:
        raise ConfigError(f"delivery.server: {error}") from error


def _certificate_remedy(reason: str) -> str:
    if "not yet valid" in reason:
        return "set this device's clock, or the server's when it made the certificate"
    if "expired" in reason:
        return "renew it on the server; or this device's clock is wrong"
    if "self-signed" in reason or "self signed" in reason or "issuer" in reason:
        return "give the authority that signed it in delivery.ca_file"
    return "use the name in delivery.server that is in the certificate"


def _of_all(config: Config, of_camera: Callable[[Config, str], Check]) -> Check:
    """The check of one camera after another, up to the first that fails."""
    found = []
    for camera in config.cameras:
        found.append(of_camera(config, camera.id))
        if found[-1].ok is False:
            break
    # what fails comes before what is doubtful
    return min(found, key=lambda each: (False, None, True).index(each.ok))


def _http(config: Config) -> Check:
    return _of_all(config, _http_of)


def _http_of(config: Config, camera: str) -> Check:
    target = config.delivery
    server = str(target.server).rstrip("/")
    parts = urllib.parse.urlsplit(server)
    shown = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
    token_file = token_file_of(target, camera)
    token = read_token(token_file) if token_file is not None else None

    def authorize(request: requests.PreparedRequest) -> requests.PreparedRequest:
        if token is not None:
            request.headers["Authorization"] = f"Bearer {token}"
        return request

    with requests.Session() as session:
        for scheme in ("http://", "https://"):
            session.mount(scheme, Adapter(target.ca_file))
        session.trust_env = not is_loopback(parts.hostname or "")
        # any callable does, and is taken before what ~/.netrc says
        session.auth = authorize
        options: dict[str, Any] = {"timeout": target.timeout_seconds, "allow_redirects": False, "stream": True}
        try:
            lives = session.get(f"{server}/healthz", **options).status_code
            # no frame: the token is looked at first, then this type refused
            with session.post(
                f"{server}/v1/cameras/{camera}/frames",
                headers={"Content-Type": "text/plain"},
                data=b"",
                **options,
            ) as answer:
                status, kind = answer.status_code, kind_of(answer.headers)
                own = error_text(answer.raw.read(ANSWER_BYTES, decode_content=False)) is not None
        except (OSError, HTTPError) as error:  # of requests' own errors OSError is the base, too
            return Check(
                "server",
                False,
                f"{shown} can't be reached: {cause(error)}",
                "check delivery.server, the network, and that python -m server runs there",
            )
    if status in (429, 503):
        return Check("server", None, f"{shown} is busy ({status})", "try again")
    if not own:
        advice = "is it python -m server? check delivery.server, and whether a portal or proxy is in front"
        return Check("server", False, f"{shown} answers {status} ({kind})", advice)
    if status in (401, 403):
        wrong = "refuses the token" if token is not None else "wants a token"
        of = f" of camera {camera}" if len(config.cameras) > 1 else ""
        advice = "put the camera's token in delivery.token_file"
        return Check("server", False, f"{shown} {wrong}{of} ({status})", advice)
    if status in (400, 415, 422):
        if lives != 200:
            return Check("server", None, f"{shown} takes frames, but /healthz answers {lives}")
        if token is None:
            return Check("server", True, f"{shown} answers")
        if parts.scheme == "http" and not is_loopback(parts.hostname or ""):
            advice = "use https where others can listen"
            return Check("server", None, f"{shown} takes the token, which goes there unencrypted", advice)
        return Check("server", True, f"{shown} answers and takes the token")
    return Check("server", False, f"{shown} answers {status}", "is it python -m server? check delivery.server")


def _mqtt(config: Config) -> Check:
    tls, host, port = broker_address("delivery.server", str(config.delivery.server))
    if tls and isinstance(problem := _shown_certificate(config), Check):
        return Check("server", False, f"mqtts://{host}:{port} is not believed: {problem.found}", problem.remedy)
    return _of_all(config, _mqtt_of)


def _mqtt_of(config: Config, camera: str) -> Check:
    """Whether the broker takes the camera's connection and what it publishes: metrics that say nothing."""
    target = config.delivery
    tls, host, port = broker_address("delivery.server", str(target.server))
    shown = f"{'mqtts' if tls else 'mqtt'}://{host}:{port}"
    username = for_camera(target.mqtt.username, camera)
    token_file = token_file_of(target, camera)
    if token_file is not None and username is None:
        raise ConfigError("delivery.mqtt.username is needed where token_file gives a password")
    connection = Connection(
        new_client(
            # not the camera's own: a program that runs would lose its connection
            f"rjpeg-check-{secrets.token_hex(4)}",
            username=username,
            password=read_token(token_file) if token_file is not None else None,
            context=trusted(target.ca_file) if tls else None,
            timeout=target.timeout_seconds,
        )
    )
    try:
        try:
            answer = connection.open(host, port, target.timeout_seconds)
        except (OSError, ValueError) as error:
            advice = "check delivery.server, and that a broker runs"
            return Check("server", False, f"{shown} can't be reached: {cause(error)}", advice)
        except DeliveryError:
            advice = "check the port, TLS or not"
            return Check("server", False, f"{shown} doesn't answer as an MQTT 5 broker", advice)
        who = f"user {username}" if username is not None else "a client without a user name"
        if answer.is_failure:
            advice = "check delivery.mqtt.username, and the password in delivery.token_file"
            return Check("server", False, f"{shown} refuses: {answer} ({who})", advice)
        if connection.qos < 1:
            advice = "let it offer QoS 1"
            return Check("server", False, f"{shown} acknowledges no messages (its maximum QoS is 0)", advice)
        topic = f"{target.mqtt.topic}/{camera}"
        refused = f"{shown} doesn't take {topic}/metrics from {who}"
        advice = f"in the broker's access list (ACL), let {who} write under {topic}/#; its log may say more"
        try:
            answer = connection.publish(f"{topic}/metrics", b"{}")
        except DeliveryError as error:
            # what some brokers do where something isn't allowed
            return Check("server", False, f"{refused}: {connection.reason or error}", advice)
        if answer.is_failure:
            return Check("server", False, f"{refused}: {answer}", advice)
        connection.end()
    finally:
        connection.drop()
    return Check("server", True, f"{shown} takes the connection and what is published")


def _view(config: Config) -> Check:
    view, password = config.view, None
    if view.password_file is not None:
        password = read_token(view.password_file)
    page = View(str(view.listen), password, Metrics(), dict)
    page.close()
    return Check("local page", True, f"{view.listen} is free")


def _power() -> Check:
    flags = health.throttled()
    if flags is None:
        return Check("power", None, "no Raspberry Pi: nothing is told of it")
    now = [name for name in ("under_voltage", "throttled", "frequency_capped") if flags[name]]
    advice = "use the board's own power supply and a short cable; cool it"
    if now:
        return Check("power", False, ", ".join(now).replace("_", " "), advice)
    before = [name for name in flags if flags[name]]
    if before:
        return Check("power", None, ", ".join(before).replace("_", " "), advice)
    return Check("power", True, "neither low voltage nor throttling since the start")


def _temperature() -> Check:
    found = health.temperatures()
    if not found:
        return Check("temperature", None, "no sensor")
    hottest = max(found.values())
    shown = ", ".join(f"{sensor} {degrees:.0f} °C" for sensor, degrees in found.items())
    if hottest >= HOT:
        return Check("temperature", False if hottest >= TOO_HOT else None, shown, "add a heat sink or a fan")
    return Check("temperature", True, shown)


def _frequency() -> Check:
    names = health.governors()
    if not names:
        return Check("frequency", None, "not governed")
    shown = f"governor {', '.join(sorted(names))}"
    if "powersave" in names:
        return Check("frequency", None, f"{shown}: the slowest", "sudo cpupower frequency-set -g ondemand")
    return Check("frequency", True, shown)


def _in_a_process(what: str, argument: dict[str, Any], seconds: float) -> dict[str, Any]:
    """What `_child` says; {"crash": ...} where it ended otherwise, {"error": ...} where it didn't end."""
    child = subprocess.Popen(
        [sys.executable, str(Path(__file__).resolve()), what],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=os.environ | {"OPENCV_LOG_LEVEL": "OFF", "PYTHONWARNINGS": "ignore"},
        start_new_session=True,
    )
    try:
        said, _ = child.communicate(json.dumps(argument).encode(), timeout=seconds)
    except subprocess.TimeoutExpired:
        return {"error": f"no result after {seconds:.0f} s"}
    finally:
        if child.poll() is None:
            # and what it may have started itself, such as a GStreamer helper
            os.killpg(child.pid, signal.SIGKILL)
            child.communicate()
    try:
        # a driver may print lines of its own before
        answer = json.loads(said.decode("utf-8", "replace").strip().rpartition("\n")[2])
    except ValueError:
        answer = None
    if child.returncode != 0 or not isinstance(answer, dict):
        code = child.returncode
        return {"crash": f"signal {_signal_name(-code)}" if code < 0 else f"exit status {code}"}
    return answer


def _child(what: str, argument: dict[str, Any]) -> dict[str, Any]:
    """In a process of its own: try the encoder, or a camera."""
    try:
        if what == "encoder":
            encoder = rjpeg.Encoder(argument["model"])
            rows, cols = np.mgrid[: FRAME[0], : FRAME[1]]
            frame = np.stack([rows % 256, cols % 256, (rows * cols >> 6) % 256], axis=-1).astype(np.uint8)
            encoder.encode(frame, quality=50)
            started = time.perf_counter()
            encoder.encode(frame, quality=50)
            return {"ms": 1000 * (time.perf_counter() - started), "runtime": runtime_name()}
        source = open_source(msgspec.convert(argument, CameraConfig))
        try:
            frame = source.read(time.monotonic())
        finally:
            source.close()
        if frame is None:
            return {"error": f"{source.name} opens, but there is no frame in it"}
        width, height = frame_size(frame.pixels)
    except RjpegError as error:
        return {"error": str(error)}
    except Exception as error:  # noqa: BLE001
        return {"error": f"{type(error).__name__}: {error}"}
    return {"name": source.name, "width": int(width), "height": int(height), "fps": source.fps}


def _file_system(path: Path) -> str | None:
    """Type of the file system that holds `path`, from /proc/self/mountinfo (proc(5))."""
    place = path.absolute()
    while not place.exists():
        place = place.parent
    device = place.stat().st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    with contextlib.suppress(OSError, IndexError):
        for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.split()[2] == number:
                return line.partition(" - ")[2].split()[0]
    return None


def _one_line(text: str) -> str:
    """At most 400 printable characters: error texts hold what others sent."""
    return "".join(c if c.isprintable() else " " for c in " ".join(text.split()))[:400]


def _size(number: float) -> str:
    for unit in ("bytes", "kB", "MB"):
        if abs(number) < 1000:
            return f"{number:.0f} {unit}"
        number /= 1000
    return f"{number:.1f} GB"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return str(number)


if __name__ == "__main__":
    print(json.dumps(_child(sys.argv[1], json.load(sys.stdin))))
