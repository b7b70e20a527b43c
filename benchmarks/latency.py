"""`python -m benchmarks.latency`: how long one client waits for the server's answers, on one kept connection.

The real service (`python -m server`), and beside it a bare uvicorn that takes the same requests and does nothing with
them: the least that any server of this kind takes on this machine. Rounds of both alternate; reported are the median
and the 99th percentile of all requests of the client's time from its first byte to the answer's last, and the ratio of
the medians. A frame's time has everything in it: decoding, the task if there is one, the fsync of file and row. The
last line is a camera that sends a frame as soon as the one before is acknowledged.
"""

import argparse
import contextlib
import http.client
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.parse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

# read by libraries when they are loaded
os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")

import rjpeg
from benchmarks.frames import CALIBRATION_DATA, compose, parse_size, read_pictures
from rjpeg._arguments import run_program
from rjpeg.errors import DeliveryError, RjpegError

__all__ = ["main"]

ROOT = Path(__file__).resolve().parents[1]
START_SECONDS = 60.0
POST = "/v1/cameras/camera/frames"
PEER = """
import socket, sys, uvicorn

async def app(scope, receive, send):
    while (await receive()).get("more_body"):
        pass
    status = 201 if scope["method"] == "POST" else 200
    await send({"type": "http.response.start", "status": status, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"{}"})

listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
listening.bind(("127.0.0.1", 0))
listening.listen()
print("listening on http://127.0.0.1:%d" % listening.getsockname()[1], file=sys.stderr, flush=True)
uvicorn.Server(uvicorn.Config(app, http="h11", lifespan="off", log_config=None, access_log=False)).run([listening])
"""


class Connection:
    """One kept connection to a server, whose requests are timed."""

    def __init__(self, url: str) -> None:
        parts = urllib.parse.urlsplit(url)
        self._connection = http.client.HTTPConnection(str(parts.hostname), parts.port, timeout=60)

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def get(self, path: str) -> float:
        """Return the seconds that a GET takes. Raises DeliveryError when the answer is not 200."""
        return self._request("GET", path, None, {}, 200)

    def post(self, jpeg: bytes) -> float:
        """Return the seconds that sending a frame takes. Raises DeliveryError when the answer is not 201."""
        return self._request("POST", POST, jpeg, {"Content-Type": "image/jpeg"}, 201)

    def _request(self, method: str, path: str, body: bytes | None, headers: dict[str, str], expected: int) -> float:
        started = time.perf_counter()
        try:
            self._connection.request(method, path, body, headers)
            answer = self._connection.getresponse()
            content = answer.read()
        except (OSError, http.client.HTTPException) as error:
            raise DeliveryError(f"{method} {path}: {error}") from error
        seconds = time.perf_counter() - started
        if answer.status != expected:
            raise DeliveryError(f"{method} {path} was answered {answer.status} {content[:200]!r}, expected {expected}")
        return seconds


def measure(jpeg: bytes, *, rounds: int, requests: int, task: str | None = None) -> dict[str, Any]:
    """Time all kinds of requests at both servers, in turn.

    Args:
        jpeg: the frame that is sent.
        rounds: of each kind at each server.
        requests: a round.
        task: as `python -m server --task` takes it.

    Raises:
        DeliveryError: a server does not start or does not answer as it should.
    """
    seconds: dict[tuple[str, str], list[float]] = {}
    load_before = os.getloadavg()
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rjpeg-latency-")))
        config = folder / "server.yaml"
        config.write_text("limits: {frames_per_second: 1000000}\n", encoding="utf-8")
        command = ["-m", "server", "--config", str(config), "--listen", "127.0.0.1:0"]
        command += ["--data", str(folder / "data"), "--log-level", "error"]
        command += [] if task is None else ["--task", task]
        servers = {
            "server": stack.enter_context(running(command, folder / "server.log")),
            "peer": stack.enter_context(running(["-c", PEER], folder / "peer.log")),
        }
        for number in range(rounds + 1):
            for name, url in servers.items():
                with contextlib.closing(Connection(url)) as connection:
                    # the first round is there for connections and threads to be made
                    times = requests if number else 10
                    found = {
                        "healthz": [connection.get("/healthz") for _ in range(times)],
                        "frame": [connection.post(jpeg) for _ in range(times)],
                    }
                if number:
                    for kind, values in found.items():
                        seconds.setdefault((name, kind), []).extend(values)
    return {
        "frame_bytes": len(jpeg),
        "task": task,
        "rounds": rounds,
        "requests": requests,
        "machine": {"cores": len(os.sched_getaffinity(0)), "python": platform.python_version()},
        "load": [load_before[0], os.getloadavg()[0]],
        "kinds": {kind: compared(seconds["server", kind], seconds["peer", kind]) for kind in ("healthz", "frame")},
        "frames_per_second_one_after_another": 1 / statistics.fmean(seconds["server", "frame"]),
    }


def compared(server: Sequence[float], peer: Sequence[float]) -> dict[str, float]:
    """Milliseconds of both, and the ratio of the medians."""
    return {
        "median_ms": 1000 * statistics.median(server),
        "p99_ms": 1000 * statistics.quantiles(server, n=100)[-1],
        "peer_median_ms": 1000 * statistics.median(peer),
        "peer_p99_ms": 1000 * statistics.quantiles(peer, n=100)[-1],
        "ratio": statistics.median(server) / statistics.median(peer),
    }


@contextlib.contextmanager
def running(command: Sequence[str], log: Path) -> Iterator[str]:
    """Run a Python program that says where it listens, until the end of the block. Yield its URL."""
    with log.open("wb") as messages:
        process = subprocess.Popen([sys.executable, *command], cwd=ROOT, stderr=messages)
    try:
        deadline = time.monotonic() + START_SECONDS
        while "listening on " not in (said := log.read_text(encoding="utf-8", errors="replace")):
            if process.poll() is not None or time.monotonic() > deadline:
                raise DeliveryError(f"{command[-1][:40]!r} does not listen: {said[-500:]}")
            time.sleep(0.05)
        yield said.partition("listening on ")[2].split()[0]
    finally:
        process.terminate()
        process.wait(30)


def table(report: dict[str, Any]) -> str:
    """Render the figures as a table."""
    lines = [f"{'ms':10} {'median':>8} {'99 %':>8} {'bare uvicorn':>13} {'99 %':>8} {'ratio':>7}"]
    for kind, found in report["kinds"].items():
        lines.append(
            f"{kind:10} {found['median_ms']:8.2f} {found['p99_ms']:8.2f} {found['peer_median_ms']:13.2f} "
            f"{found['peer_p99_ms']:8.2f} {found['ratio']:7.1f}"
        )
    lines.append(
        f"one camera, one frame of {report['frame_bytes']} bytes after another: "
        f"{report['frames_per_second_one_after_another']:.1f} frames a second"
    )
    return "\n".join(lines)


def build_parser() -> argparse.ArgumentParser:
    """Build the command line."""
    p = argparse.ArgumentParser(
        prog="python -m benchmarks.latency", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("--size", default="640x480", metavar="WIDTHxHEIGHT", help="of the frame (default: %(default)s)")
    p.add_argument("--quality", type=int, default=50, help="of the frame (default: %(default)s)")
    p.add_argument("--rounds", type=int, default=5, help="at each server (default: %(default)s)")
    p.add_argument("--requests", type=int, default=100, help="of each kind in a round (default: %(default)s)")
    p.add_argument("--task", help="as `python -m server --task` takes it (default: none)")
    p.add_argument("--json", action="store_true", help="print everything as JSON (default: a table)")
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code."""
    args = build_parser().parse_args(argv)
    try:
        picture = compose(read_pictures(CALIBRATION_DATA), *parse_size(args.size), 0)
        jpeg = rjpeg.Encoder().encode(picture, quality=args.quality)
        report = measure(jpeg, rounds=args.rounds, requests=args.requests, task=args.task)
    except RjpegError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    print(json.dumps(report, indent=1) if args.json else table(report))
    return 0


if __name__ == "__main__":
    sys.exit(run_program(main))
