"""Processor time and memory of a running service, read from /proc."""

import os
import statistics
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from tqdm import tqdm

from benchmarks.programs import check_running

__all__ = ["cpu_seconds", "memory", "watch"]

SAMPLE_SECONDS = 1.0
# parts of the run over which memory is averaged: its beginning (when everything has been used once), middle and end
WINDOWS = {"start": (0.1, 0.2), "middle": (0.45, 0.55), "end": (0.9, 1.0)}


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
