"""`python -m benchmarks.load`: the service under the load of many cameras, all on this machine.

The real service (`python -m server`) and the real `device/capture.py`, several cameras a process, which play recorded
films at their own speed and send over loopback. Reported are frames a second, times from receipt to result and from
capture to acknowledgment, the service's CPU time a frame and its memory, refusals (429), and whether the database has
every frame that a camera was told is stored; it is an error where it hasn't.

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
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import requests
import yaml
from tqdm import tqdm

from device.sources import SampleSource
from rjpeg._protocol import time_text
from rjpeg.client import Client, Frame
from rjpeg.errors import DeliveryError, InputError, RjpegError, StorageError

logger = logging.getLogger(__name__)

ROOT = Path(__file__).resolve().parents[1]
FORMAT = 1
MAX_CAMERAS = 16
"""Of one `capture.py`."""
START_SECONDS = 60.0
STOP_SECONDS = 60.0
FILM_FRAMES = 50
SAMPLE_SECONDS = 1.0
# parts of the run over which memory is averaged: its beginning (when everything has been used once), middle and end
WINDOWS = {"start": (0.1, 0.2), "middle": (0.45, 0.55), "end": (0.9, 1.0)}
Key = tuple[str, int, str]


@dataclass(frozen=True)
class Settings:
    """What is run: cameras, each with frames of `size` at `fps`, for `seconds`."""

    cameras: int
    seconds: float
    fps: float
    size: str
    quality: float
    policy: str
    workers: int | None
    task: str | None


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


def key_of(record: dict[str, Any]) -> Key:
    """Return what tells a frame from all others."""
    return record["camera"], record["sequence"], record["capture_time"]


def run(settings: Settings, folder: Path) -> dict[str, Any]:
    """Run everything in an empty folder. Returns what is reported. Raises DeliveryError where a program fails."""
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
        wait_until(lambda: cameras_of(fleet) == settings.cameras, cameras, service, folder)
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


def service_command(settings: Settings, folder: Path) -> list[str]:
    """Return the command of the service, without the Python that runs it."""
    command = ["-m", "server", "--listen", "127.0.0.1:0", "--data", str(folder / "data"), "--log-level", "error"]
    command += [] if settings.workers is None else ["--workers", str(settings.workers)]
    return command + ([] if settings.task is None else ["--task", str(Path(settings.task).resolve())])


def capture_command(settings: Settings, folder: Path, url: str, number: int, first: int, count: int) -> list[str]:
    """Return `device/capture.py` with cameras `first` to `first + count`, its configuration and its film."""
    film = folder / f"film-{number}.avi"
    record(film, settings, f"film {number}")
    camera = {"source": str(film), "live": True, "fps": settings.fps, "stall_seconds": max(10.0, 5 / settings.fps)}
    config = {
        "cameras": [camera | {"id": f"camera-{index:03d}"} for index in range(first, first + count)],
        "encoding": {"quality": settings.quality},
        "delivery": {
            "server": url,
            "policy": settings.policy,
            "spool": {"folder": str(folder / f"spool-{number}")},
        },
    }
    path = folder / f"capture-{number}.yaml"
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    return ["device/capture.py", "--config", str(path), "--json", "--log-level", "warning"]


def record(path: Path, settings: Settings, name: str) -> None:
    """Record a film of FILM_FRAMES at the cameras' speed, of the sample source. Raises StorageError."""
    width, height = map(int, settings.size.split("x"))
    source = SampleSource(name, (width, height), settings.fps)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), settings.fps, (width, height))
    if not writer.isOpened():
        raise StorageError(f"can't write {path}: this OpenCV writes no MJPG films of {settings.size}")
    for number in range(FILM_FRAMES):
        writer.write(source.view(number / settings.fps))
    writer.release()


def start(
    stack: ExitStack, name: str, command: Sequence[str], folder: Path, *, piped: bool = False
) -> subprocess.Popen[str]:
    """Start a program of ours as a process that is gone when the stack is; its messages go to {name}.log."""
    log = stack.enter_context((folder / f"{name}.log").open("w", encoding="utf-8"))
    process = subprocess.Popen(
        [sys.executable, *command],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE if piped else subprocess.DEVNULL,
        stderr=log,
        text=True,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
    )

    def stop() -> None:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                logger.warning("%s did not end when asked to and is killed", name)
                process.kill()
                process.wait()
        if process.stdout is not None:
            process.stdout.close()

    stack.callback(stop)
    return process


def wait_for_address(service: subprocess.Popen[str], log: Path) -> str:
    """Wait for the URL that the service announces. Raises DeliveryError if it doesn't."""
    deadline = time.monotonic() + START_SECONDS
    while (found := re.search(r"^listening on (\S+)$", text := log.read_text("utf-8"), re.MULTILINE)) is None:
        if service.poll() is not None or time.monotonic() > deadline:
            raise DeliveryError(f"the service did not start: {text.strip()[-500:]}")
        time.sleep(0.05)
    return found[1]


def wait_until(condition: Any, cameras: Sequence[Any], service: subprocess.Popen[str], folder: Path) -> None:
    """Wait for all cameras' first frames. Raises DeliveryError where they don't come."""
    deadline = time.monotonic() + START_SECONDS + STOP_SECONDS
    while not condition():
        check_running([service, *cameras], folder)
        if time.monotonic() > deadline:
            raise DeliveryError("not every camera had a frame stored in time; the machine is too slow for so many")
        time.sleep(0.1)


def cameras_of(fleet: Fleet) -> int:
    """Count the cameras of which a frame was acknowledged."""
    with fleet.lock:
        return len({camera for camera, *_ in fleet.acknowledged})


def check_running(processes: Sequence[subprocess.Popen[str]], folder: Path) -> None:
    """Raise DeliveryError if one has ended."""
    for process in processes:
        if process.poll() is not None:
            logs = [f"{path.stem}: {text}" for path in sorted(folder.glob("*.log")) if (text := last_line(path))]
            raise DeliveryError(f"{process.args[1:3]!r} ended with {process.returncode}; {'; '.join(logs)}")  # type: ignore[index]


def last_line(path: Path) -> str:
    """Return the last line of a log, "" if it has none."""
    return (path.read_text("utf-8", errors="replace").strip().splitlines() or [""])[-1]


def watch(
    service: subprocess.Popen[str], cameras: Sequence[subprocess.Popen[str]], seconds: float, folder: Path
) -> list[dict[str, float]]:
    """Watch CPU seconds so far and resident megabytes of the service, every second."""
    samples = []
    begin = time.monotonic()
    with tqdm(total=round(seconds), unit="s", disable=None) as bar:
        while True:
            elapsed = time.monotonic() - begin
            check_running([service, *cameras], folder)
            tree = list(processes(service.pid))
            samples.append(
                {"time": elapsed, "cpu": sum(map(cpu_seconds, tree)), "mb": sum(map(resident_bytes, tree)) / 1e6}
            )
            bar.update(round(elapsed) - bar.n)
            if elapsed >= seconds:
                return samples
            time.sleep(min(SAMPLE_SECONDS, seconds - elapsed))


def memory(samples: Sequence[dict[str, float]]) -> dict[str, float]:
    """Return megabytes, averaged over WINDOWS, the largest, and the growth over the second half."""
    whole = samples[-1]["time"]

    def mean(begin: float, end: float) -> float:
        found = [s["mb"] for s in samples if begin * whole <= s["time"] <= end * whole]
        return statistics.fmean(found or [samples[-1]["mb"]])

    half = [(s["time"], s["mb"]) for s in samples if s["time"] >= whole / 2]
    slope = statistics.linear_regression(*zip(*half, strict=True)).slope if len(half) > 2 else 0.0
    return {name: mean(*window) for name, window in WINDOWS.items()} | {
        "peak": max(sample["mb"] for sample in samples),
        "growth": slope * whole / 2,
    }


def processes(pid: int) -> Iterator[int]:
    """Find a process, those that it started, and those that they started."""
    yield pid
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            children = task.read_text().split()
        except OSError:  # it ended meanwhile
            continue
        for child in children:
            yield from processes(int(child))


def cpu_seconds(pid: int) -> float:
    """Return user and system time of a process; 0 if it has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident_bytes(pid: int) -> int:
    """Return the memory of a process that is in RAM; 0 if it has ended."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


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
    sys.exit(main())
