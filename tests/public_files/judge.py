"""Say whether what the kit makes of a picture is what libjpeg-turbo's and Pillow's programs make of it."""

from __future__ import annotations

import functools
import io
import os
import re
import resource
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

import rjpeg
from device.config import CameraConfig
from device.sources import open_source
from rjpeg._exif import orientation_of, upright
from rjpeg._pictures import decode_picture
from rjpeg.reader import VideoReader

MAX_PIXELS = 2**24
# builds of libjpeg-turbo round alike but for a level
TOLERANCE = 1
MAX_ENCODED_PIXELS = 2**20
CPU_SECONDS = 20
MEMORY = 4 * 2**30
REFERENCE_SECONDS = 60
# what `Decoder` leaves out on purpose, and `decode_picture` has OpenCV read (docs/security.md)
LEFT_OUT = re.compile(r"arithmetic coded|color components \(CMYK\?\)|larger than the limit")

Picture = NDArray[np.uint8]


class Verdict(NamedTuple):
    """`outcome`: "same", "refused", "whole", "damaged", "left out" or "other". `findings`: what is wrong with us."""

    outcome: str
    findings: tuple[str, ...]


def limit() -> None:
    """Bound this process's memory, have OpenCV use one thread, and drop what libraries say of damaged files."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    cv2.setNumThreads(1)
    warnings.simplefilter("ignore")
    warnings.simplefilter("error", Image.DecompressionBombWarning)


def judge_jpeg(path: Path) -> Verdict:
    """Compare what we make of a JPEG with what djpeg makes of it, and with what Pillow does."""
    data, findings = path.read_bytes(), []
    started = time.process_time()
    encoder, decoder = _coders()
    frame, why = _attempt(lambda: decoder.decode(data), findings)
    expected, said = (None, "") if "larger than the limit" in why else _djpeg(path)
    outcome = _outcome(frame, why, expected, said)
    if outcome.startswith("finding"):
        findings.append(outcome)
    if frame is not None and expected is not None:
        findings += _difference("djpeg", frame, upright(expected, orientation_of(data)))
    if frame is not None and (pillows := _pillow(data)) is not None:
        findings += _difference("Pillow", frame, pillows)
    findings += _readers(path, data, frame, left_out=outcome == "left out")
    if frame is not None and frame.shape[0] * frame.shape[1] <= MAX_ENCODED_PIXELS:
        again, why = _attempt(lambda: decoder.decode(encoder.encode(frame, 50)), findings)
        if again is None or again.shape != frame.shape:
            findings.append(f"it can't be encoded: {why}")
    findings += _time_since(started)
    return Verdict(outcome, tuple(findings))


def judge_other(path: Path) -> Verdict:
    """Have a picture of another kind decoded, to a picture or an error, in bounded time and memory."""
    started, findings = time.process_time(), []
    frame, _ = _attempt(lambda: decode_picture(path.read_bytes(), path.name, MAX_PIXELS), findings)
    if frame is not None and (frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3):
        findings.append(f"it became {frame.dtype} {frame.shape}")
    return Verdict("other", (*findings, *_time_since(started)))


@functools.cache
def _coders() -> tuple[rjpeg.Encoder, rjpeg.Decoder]:
    """Return both, made once in a process."""
    return rjpeg.Encoder(), rjpeg.Decoder(max_pixels=MAX_PIXELS)


def _outcome(frame: Picture | None, why: str, expected: Picture | None, said: str) -> str:
    """Return a verdict's outcome, or a finding."""
    if frame is not None:
        if expected is None:
            return f"finding: it is accepted, and djpeg refuses it: {said}"
        return "whole" if said else "same"
    if LEFT_OUT.search(why):
        return "left out"
    if expected is None:
        return "refused"
    return "damaged" if said else f"finding: it is refused, and djpeg has no word against it: {why}"


def _attempt(make, findings: list[str]) -> tuple[Picture | None, str]:
    """Return a picture, or None and why there is none. Any other error than ours is a finding."""
    try:
        return make(), ""
    except rjpeg.RjpegError as error:
        return None, str(error)
    except Exception as error:  # noqa: BLE001 - that there is none is what is tried
        findings.append(f"{type(error).__name__}: {error}")
        return None, str(error)


def _djpeg(path: Path) -> tuple[Picture | None, str]:
    """Return djpeg's picture, None if it refuses the file, and what it says, which is nothing of a sound file."""
    done = subprocess.run(["djpeg", "-pnm", str(path)], capture_output=True, timeout=REFERENCE_SECONDS, check=False)
    said = done.stderr.decode(errors="replace").strip()
    # 2: it warned
    if done.returncode not in (0, 2):
        return None, said
    try:
        return np.asarray(Image.open(io.BytesIO(done.stdout)).convert("RGB"))[..., ::-1], said
    except OSError:
        # CMYK, for which its format has no name
        return None, said


def _pillow(data: bytes) -> Picture | None:
    """Return Pillow's picture, upright; None if it has none."""
    try:
        with Image.open(io.BytesIO(data)) as picture:
            return np.asarray(ImageOps.exif_transpose(picture).convert("RGB"))[..., ::-1]
    except Exception:  # noqa: BLE001 - its errors are of many kinds
        return None


def _difference(whose: str, frame: Picture, expected: Picture) -> list[str]:
    if frame.shape != expected.shape:
        return [f"it is {frame.shape}, and {whose}'s picture {expected.shape}"]
    most = int(np.abs(frame.astype(int) - expected).max())
    return [f"it is {most} levels from {whose}'s picture"] if most > TOLERANCE else []


def _readers(path: Path, data: bytes, frame: Picture | None, *, left_out: bool) -> list[str]:
    """Return where what reads a file in another way makes something else of it."""
    findings: list[str] = []
    facts, _ = _attempt(lambda: rjpeg.inspect(data, max_pixels=MAX_PIXELS), findings)
    if (facts is None) != (frame is None):
        findings.append("inspect and decode disagree")
    picture, _ = _attempt(lambda: decode_picture(data, path.name, MAX_PIXELS), findings)
    if picture is None and frame is not None:
        findings.append("decode_picture and decode disagree")
    if picture is not None and frame is None and not left_out:
        findings.append("decode_picture takes what decode refuses")
    count, _ = _attempt(lambda: _frames_of_reader(path), findings)
    if frame is not None and count != 1:
        findings.append(f"VideoReader has {count} frames of it, expected 1")
    count, _ = _attempt(lambda: _frames_of_source(path), findings)
    if picture is not None and count != 1:
        findings.append(f"capture.py has {count} frames of it, expected 1")
    return findings


def _frames_of_reader(path: Path) -> int:
    with VideoReader(path, decoder=_coders()[1]) as reader:
        return sum(1 for _ in reader)


def _frames_of_source(path: Path) -> int:
    source, count = open_source(CameraConfig(id="a", source=str(path))), 0
    try:
        while (captured := source.read()) is not None:
            count += captured.pixels is not None
    finally:
        source.close()
    return count


def _time_since(started: float) -> list[str]:
    took = time.process_time() - started
    return [f"it took {took:.0f} s of the processor"] if took > CPU_SECONDS else []
