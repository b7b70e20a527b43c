"""What times were taken on."""

import importlib.metadata
import os
import platform
from pathlib import Path
from typing import Any

import cv2
import numpy as np

import rjpeg
from rjpeg._runtime import runtime_name

__all__ = ["machine", "temperature"]


def machine() -> dict[str, Any]:
    """Return what the times were taken on; null if the system does not tell."""
    board, processor = Path("/proc/device-tree/model"), platform.processor() or platform.machine()
    if board.is_file():
        processor = board.read_text(encoding="utf-8", errors="replace").strip("\0 \n")
    elif Path("/proc/cpuinfo").is_file():
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                processor = line.partition(":")[2].strip()
                break
    return {
        "processor": processor,
        "system": _system(),
        "python": platform.python_version(),
        "opencv": cv2.__version__,
        "runtime": runtime_name(),
        "runtime_version": _version(runtime_name()),
        "numpy": np.__version__,
        "rjpeg": rjpeg.__version__,
        "cores": os.cpu_count(),
        "governor": _line("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        "temperature": temperature(),
    }


def temperature() -> float | None:
    """Return the processor's temperature, degrees Celsius."""
    line = _line("/sys/class/thermal/thermal_zone0/temp")
    return int(line) / 1000 if line is not None and line.lstrip("-").isdecimal() else None


def _system() -> str:
    """Return the distribution, kernel and architecture."""
    try:
        name = platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        name = platform.system()
    return f"{name}, {platform.system()} {platform.release().partition('-')[0]}, {platform.machine()}"


def _line(path: str) -> str | None:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return None


def _version(module: str) -> str | None:
    try:
        return importlib.metadata.version(module.replace("_", "-"))
    except importlib.metadata.PackageNotFoundError:
        return None
