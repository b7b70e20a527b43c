"""Runs all checks of a configuration, each within a time limit."""

import threading
import urllib.parse
from collections.abc import Callable, Iterator
from functools import partial

from device.check.broker import check_broker
from device.check.certificate import check_certificate
from device.check.http_server import check_http_server
from device.check.isolated import CAMERA_SECONDS, ENCODER_SECONDS, check_camera, check_encoder, check_numpy
from device.check.machine import check_clock, check_frequency, check_power, check_temperature, check_userland
from device.check.result import Check
from device.check.settings import check_configuration, check_page
from device.check.storage import SPARE_BYTES, check_folder, check_spool
from device.config import Config, for_camera
from rjpeg.errors import RjpegError

__all__ = ["limited", "run_checks"]

CHECK_SECONDS = 30.0
# what a trial's own limit leaves for ending its process
TRIAL_MARGIN_SECONDS = 5.0
MAX_TEXT = 400  # characters


def run_checks(config: Config) -> Iterator[Check]:
    """Run all checks of a configuration, one after another.

    It raises nothing: what fails is a check that says so.

    Yields:
        Each finding, as soon as it is there.
    """
    target = config.delivery
    yield limited("configuration", lambda: check_configuration(config))
    yield limited("64 bits", check_userland)
    yield limited("NumPy", check_numpy)
    yield limited(
        "encoder", lambda: check_encoder(config.encoding.model), seconds=ENCODER_SECONDS + TRIAL_MARGIN_SECONDS
    )
    for camera in config.cameras:
        seconds = CAMERA_SECONDS + TRIAL_MARGIN_SECONDS
        yield limited(f"camera {camera.id}", partial(check_camera, camera), seconds=seconds)
    yield limited("clock", check_clock)
    if target.out is not None:
        out = str(for_camera(target.out, config.cameras[0].id))
        yield limited("output folder", lambda: check_folder("output folder", out, SPARE_BYTES))
    elif target.policy == "record":
        yield limited("spool", lambda: check_spool(target.spool.folder, target.spool.max_bytes))
    if target.server is not None:
        seconds = max(CHECK_SECONDS, 4 * target.timeout_seconds)
        scheme = urllib.parse.urlsplit(target.server).scheme
        if scheme in ("https", "mqtts"):
            yield limited("certificate", lambda: check_certificate(config), seconds=seconds)
        check_server = check_broker if scheme.startswith("mqtt") else check_http_server
        # one camera after another, and the first that fails ends it
        yield limited("server", lambda: check_server(config), seconds=seconds * len(config.cameras))
    if config.view.listen is not None:
        yield limited("local page", lambda: check_page(config))
    yield limited("power", check_power)
    yield limited("temperature", check_temperature)
    yield limited("frequency", check_frequency)


def limited(name: str, function: Callable[[], Check], *, seconds: float = CHECK_SECONDS) -> Check:
    """Run one check for at most so long.

    Args:
        name: of the check, in case it finds nothing.
        function: the check; a thread of its own runs it, which is left behind if it hangs.
        seconds: time limit.

    Returns:
        What it found, that it failed, or that it took too long. Texts are one line without control characters.
    """
    found: list[Check] = []

    def work() -> None:
        try:
            found.append(function())
        except RjpegError as error:
            found.append(Check(name, False, str(error)))
        except Exception as error:  # noqa: BLE001
            failure = f"the check itself failed: {type(error).__name__}: {error}"
            found.append(Check(name, False, failure, "please report this"))

    thread = threading.Thread(target=work, name=f"check {name}", daemon=True)
    thread.start()
    thread.join(seconds)
    if not found:
        return Check(name, False, f"no result after {seconds:.0f} s", "something hangs; look into the system's log")
    return Check(name, found[0].ok, _one_line(found[0].found), _one_line(found[0].remedy))


def _one_line(text: str) -> str:
    """Return at most MAX_TEXT printable characters: error texts hold what others sent."""
    return "".join(c if c.isprintable() else " " for c in " ".join(text.split()))[:MAX_TEXT]
