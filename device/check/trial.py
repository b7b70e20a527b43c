"""Try the encoder, or a camera: a script, for a process of its own, since either may crash or hang.

It takes the name of the trial as its argument, and settings as JSON on its standard input. It prints one line of JSON:
what it found, or {"error": reason}.
"""

import sys
from pathlib import Path

if not __package__:
    # the checkout, not this folder, is where packages are found
    sys.path[0] = str(Path(__file__).resolve().parents[2])

import json
import time
from typing import Any

import msgspec
import numpy as np

import rjpeg
from device.config import CameraConfig
from device.sources import frame_size, open_source
from rjpeg._runtime import runtime_name
from rjpeg.errors import RjpegError

FRAME_SHAPE = (480, 640, 3)


def _run(what: str, argument: dict[str, Any]) -> dict[str, Any]:
    """Return what a trial found, or {"error": reason}."""
    try:
        return _run_encoder(argument["model"]) if what == "encoder" else _run_camera(argument)
    except RjpegError as error:
        return {"error": str(error)}
    except Exception as error:  # noqa: BLE001
        return {"error": f"{type(error).__name__}: {error}"}


def _run_encoder(model: str | None) -> dict[str, Any]:
    encoder = rjpeg.Encoder(model)
    rows, cols = np.mgrid[: FRAME_SHAPE[0], : FRAME_SHAPE[1]]
    frame = np.stack([rows % 256, cols % 256, (rows * cols >> 6) % 256], axis=-1).astype(np.uint8)
    encoder.encode(frame, quality=50)
    started = time.perf_counter()
    encoder.encode(frame, quality=50)
    return {
        "ms": 1000 * (time.perf_counter() - started),
        "runtime": runtime_name(),
        "size": f"{FRAME_SHAPE[1]}x{FRAME_SHAPE[0]}",
    }


def _run_camera(settings: dict[str, Any]) -> dict[str, Any]:
    source = open_source(msgspec.convert(settings, CameraConfig))
    try:
        frame = source.read(time.monotonic())
    finally:
        source.close()
    if frame is None:
        return {"error": f"{source.name} opens, but there is no frame in it"}
    width, height = frame_size(frame.pixels)
    return {"name": source.name, "width": int(width), "height": int(height), "fps": source.fps}


if __name__ == "__main__":
    print(json.dumps(_run(sys.argv[1], json.load(sys.stdin))))
