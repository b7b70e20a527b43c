"""`python -m benchmarks.load`: the service under the load of many cameras, all on this machine.

The real service (`python -m server`) and the real `device/capture.py`, several cameras a process, which play recorded
films at their own speed and send over loopback. Reported are frames a second, times from receipt to result and from
capture to acknowledgment, the service's CPU time a frame and its memory, refusals (429), and whether the database has
every frame that a camera was told is stored. It is an error if it hasn't.

Encoding costs far more than decoding, and is done on the same cores: the machine has to have room for both.
"""

import argparse
import json
import logging
import os
import platform
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import requests

from benchmarks.programs import (
    START_SECONDS,
    STOP_SECONDS,
    Settings,
    capture_command,
    check_running,
    service_command,
    start,
    wait_for_address,
)
from benchmarks.usage import cpu_seconds, memory, watch
from rjpeg._arguments import run_program
from rjpeg._protocol import time_text
from rjpeg.client import Client, Frame
from rjpeg.errors import DeliveryError, InputError, RjpegError

__all__ = ["Fleet", "compare", "main", "passed", "percentiles"]

logger = logging.getLogger(__name__)

FORMAT = 1
MAX_CAMERAS = 16
"""Of one `capture.py`."""
Key = tuple[str, int, str]


@dataclass
class Fleet:
    """What the cameras say.

    Attributes:
        acknowledged: bytes of every frame that a camera was told is stored.
        latency: when a frame was acknowledged, and the seconds that had passed since it was captured.
        not_sent: frames that cameras gave up, by reason, as they say at their end.
    """

    acknowledged: dict[Key, int] = field(default_factory=dict)
    latency: list[tuple[datetime, float]] = field(default_factory=list)
    not_sent: Counter[str] = field(default_factory=Counter)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def listen(self, stream: Any) -> None:
        """Take in the JSON lines of one `capture.py`, to their end."""
        for line in stream:
            now = datetime.now(UTC)
            record = json.loads(line)
            with self.lock:
                if "summary" in record:
                    self.not_sent.update(record["summary"]["not_sent"])
                    continue
                self.acknowledged[key_of(record)] = record["bytes"]
                taken = datetime.fromisoformat(record["capture_time"])
                self.latency.append((now, (now - taken).total_seconds()))

    def camera_count(self) -> int:
        """Count the cameras of which a frame was acknowledged."""
        with self.lock:
            return len({camera for camera, *_ in self.acknowledged})


def key_of(record: dict[str, Any]) -> Key:
    """Return what tells a frame from all others."""
    return record["camera"], record["sequence"], record["capture_time"]


def run(settings: Settings, folder: Path) -> dict[str, Any]:
    """Run everything in an empty folder. Returns what is reported. Raises DeliveryError when a program fails."""
    load_before = os.getloadavg()
    with ExitStack() as stack:
        service = start(stack, "service", service_command(settings, folder), folder)
        url = wait_for_address(service, folder / "service.log")
        fleet, cameras, listeners = Fleet(), [], []
        for number, first in enumerate(range(0, settings.cameras, MAX_CAMERAS)):
            count = min(MAX_CAMERAS, settings.cameras - first)
            command = capture_command(settings, folder, url, number, first, count)
            process = start(stack, f"capture-{number}", command, folder, piped=True)
            listener = threading.Thread(target=fleet.listen, args=[process.stdout])
            listener.start()
            cameras.append(process)
            listeners.append(listener)
        wait_for_cameras(fleet, settings.cameras, [service, *cameras], folder)
        begin = datetime.now(UTC)
        samples = watch(service, cameras, settings.seconds, folder)
        end = datetime.now(UTC)
        cpu = {"service": samples[-1]["cpu"] - samples[0]["cpu"], "cameras": 0.0}
        cpu["cameras"] = sum(cpu_seconds(process.pid) for process in cameras)
        for process in cameras:
            process.send_signal(signal.SIGTERM)
        for process, listener in zip(cameras, listeners, strict=True):
            process.wait(STOP_SECONDS)
            listener.join(STOP_SECONDS)
        with Client(url) as client:
            counted = {camera.camera: camera.frames for camera in client.cameras()}
            stored = [frame for name in counted for frame in client.frames(name)]
        answers = answers_of(url)
    within = [frame for frame in stored if begin <= frame.stored_time < end]
    seconds = (end - begin).total_seconds()
    return {
        "format": FORMAT,
        "settings": vars(settings),
        "machine": machine() | {"load_before": load_before, "load_after": os.getloadavg()},
        "seconds": seconds,
        "frames": len(within),
        "frames_per_second": len(within) / seconds,
        "mean_bytes": statistics.fmean(frame.bytes for frame in within) if within else None,
        "receipt_to_result_ms": percentiles([(f.stored_time - f.received_time).total_seconds() for f in within]),
        "capture_to_acknowledgment_ms": percentiles([s for when, s in fleet.latency if begin <= when < end]),
        "cpu_seconds_per_frame": cpu["service"] / max(len(within), 1),
        "cpu_cores": cpu["service"] / seconds,
        "cameras_cpu_seconds_per_frame": cpu["cameras"] / max(len(fleet.acknowledged), 1),
        "memory_mb": memory(samples),
        "not_sent_by_cameras": dict(fleet.not_sent),
        "answers": answers,
        "refused_429": answers.get("429", 0),
    } | compare(fleet, stored, counted)


def compare(fleet: Fleet, stored: Sequence[Frame], counted: dict[str, int]) -> dict[str, Any]:
    """Hold what cameras were told against what the database has: frames that are lost, or not as they were sent."""
    there = {(f.camera, f.sequence or 0, time_text(f.capture_time)): f.bytes for f in stored}
    return {
        "acknowledged": len(fleet.acknowledged),
        "stored": len(stored),
        "lost": len(fleet.acknowledged.keys() - there.keys()),
        "changed": sum(there.get(key, size) != size for key, size in fleet.acknowledged.items()),
        # stored, but the camera ended before it had the answer
        "unacknowledged": len(there.keys() - fleet.acknowledged.keys()),
        "twice": len(stored) - len(there),
        "miscounted": sum(counted.values()) - len(stored),
    }


def passed(report: dict[str, Any]) -> bool:
    """Tell whether the database has everything, once."""
    return not any(report[what] for what in ("lost", "changed", "twice", "miscounted"))


def wait_for_cameras(fleet: Fleet, count: int, programs: Sequence[subprocess.Popen[str]], folder: Path) -> None:
    """Wait until a frame of each of `count` cameras is acknowledged. Raises DeliveryError if it takes too long."""
    deadline = time.monotonic() + START_SECONDS + STOP_SECONDS
    while fleet.camera_count() < count:
        check_running(programs, folder)
        if time.monotonic() > deadline:
            raise DeliveryError("not every camera had a frame stored in time; the machine is too slow for so many")
        time.sleep(0.1)


def answers_of(url: str) -> dict[str, int]:
    """Count how often the service gave which answer to frames, by status."""
    text = requests.get(f"{url}/metrics", timeout=30).text
    pattern = r'^rjpeg_http_answers_total\{method="POST",status="(\d+)"\} (\S+)$'
    return {status: round(float(count)) for status, count in re.findall(pattern, text, re.MULTILINE)}


def percentiles(seconds: Sequence[float]) -> dict[str, float] | None:
    """Return percentiles in milliseconds; None if there are none."""
    if not seconds:
        return None
    p50, p90, p99 = np.percentile(seconds, [50, 90, 99])
    return {"p50": 1000 * float(p50), "p90": 1000 * float(p90), "p99": 1000 * float(p99), "max": 1000 * max(seconds)}


def machine() -> dict[str, Any]:
    """Return what the load ran on."""
    try:
        cpu = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        cpu = None
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": None if cpu is None else cpu[1],
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
    }


def table(report: dict[str, Any]) -> str:
    """Render the report in a few lines."""

    def times(values: dict[str, float] | None) -> str:
        if values is None:
            return "-"
        return f"p50 {values['p50']:.0f} ms, p99 {values['p99']:.0f} ms, at most {values['max']:.0f} ms"

    settings, mb = report["settings"], report["memory_mb"]
    gave_up = ", ".join(f"{n} {why}" for why, n in sorted(report["not_sent_by_cameras"].items())) or "none"
    lines = {
        "load": f"{settings['cameras']} cameras of {settings['size']} at {settings['fps']:g} fps for "
        f"{report['seconds']:.0f} s, on {report['machine']['cores']} cores",
        "frames": f"{report['frames']}, {report['frames_per_second']:.2f} a second",
        "receipt to result": times(report["receipt_to_result_ms"]),
        "capture to acknowledgment": times(report["capture_to_acknowledgment_ms"]),
        "CPU of the service": f"{1000 * report['cpu_seconds_per_frame']:.1f} ms a frame, "
        f"{report['cpu_cores']:.2f} cores",
        "CPU of the cameras": f"{1000 * report['cameras_cpu_seconds_per_frame']:.1f} ms a frame",
        "memory of the service": f"{mb['start']:.0f} MB at the start, {mb['middle']:.0f} MB in the middle, "
        f"{mb['end']:.0f} MB at the end, peak {mb['peak']:.0f} MB; {mb['growth']:+.2f} MB over the second half",
        "refused (429)": str(report["refused_429"]),
        "given up by cameras": gave_up,
        "lost": f"{report['lost']} of {report['acknowledged']} acknowledged; changed {report['changed']}, twice "
        f"{report['twice']}, miscounted {report['miscounted']}, stored but not acknowledged {report['unacknowledged']}",
    }
    return "\n".join(f"{name + ':':28}{text}" for name, text in lines.items())


def build_parser() -> argparse.ArgumentParser:
    """Build the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.load",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--cameras", type=int, default=50, metavar="N", help="(default: %(default)s)")
    parser.add_argument("--minutes", type=float, default=10.0, help="(default: %(default)s)")
    parser.add_argument("--fps", type=float, default=0.5, help="frames a second of each camera (default: %(default)s)")
    parser.add_argument("--size", default="640x480", metavar="WxH", help="of frames (default: %(default)s)")
    parser.add_argument("--quality", type=float, default=50.0, help="of frames, 1 to 100 (default: %(default)s)")
    parser.add_argument("--policy", choices=["live", "record"], default="live", help="(default: %(default)s)")
    parser.add_argument("--workers", type=int, metavar="N", help="of the service (default: as the service has it)")
    parser.add_argument("--task", metavar="FILE", help="of the service (default: none)")
    parser.add_argument(
        "--work", type=Path, metavar="FOLDER", help="new one, for films, frames and logs (default: one that is deleted)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON in place of the table")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the JSON there, too (default: nowhere)")
    return parser


def settings_of(args: argparse.Namespace) -> Settings:
    """Check the flags and return what they ask for. Raises InputError."""
    for name, value, least, most in (
        ("cameras", args.cameras, 1, 1000),
        ("minutes", args.minutes, 0.05, 1440),
        ("fps", args.fps, 0.1, 120),
        ("quality", args.quality, 1, 100),
    ):
        if not least <= value <= most:
            raise InputError(f"--{name} is {value:g}, expected {least:g} to {most:g}")
    if not re.fullmatch(r"[1-9][0-9]{1,3}x[1-9][0-9]{1,3}", args.size):
        raise InputError(f"--size is {args.size!r}, expected WIDTHxHEIGHT such as 640x480")
    return Settings(
        args.cameras,
        60 * args.minutes,
        args.fps,
        args.size,
        args.quality,
        args.policy,
        args.workers,
        args.task,
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return 0, 1 where frames are lost or a program fails, 130 when interrupted."""
    args = build_parser().parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    # children are ended on the way out
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        settings = settings_of(args)
        if args.work is not None:
            args.work.mkdir(parents=True)
        with ExitStack() as stack:
            folder = args.work or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rjpeg-load-")))
            report = run(settings, folder.resolve())
        text = json.dumps(report, indent=1)
        if args.out is not None:
            args.out.parent.mkdir(parents=True, exist_ok=True)
            args.out.write_text(text + "\n", encoding="utf-8")
    except RjpegError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"error: can't write {error.filename}: {error.strerror}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    print(text if args.json else table(report))
    if not passed(report):
        print("error: the database does not have what cameras were told it has", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(run_program(main))
