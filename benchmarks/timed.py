"""The work that benchmarks.scaling hands to engines; a module of its own, so that their processes find it."""

import os
import time
from typing import Any

import cv2
import numpy as np

from server.archive import Job, decode_file
from server.paths import parse_path

__all__ = ["decode", "decode_plainly"]


def decode(job: Job) -> tuple[float, dict[str, Any]]:
    """Decode one file; return seconds of processor time, and its record with the number of the process, "process"."""
    start = time.process_time()
    [record] = decode_file(job)
    return time.process_time() - start, record | {"process": os.getpid()}


def decode_plainly(job: Job) -> tuple[float, dict[str, Any]]:
    """Do the same with OpenCV's decoder, which knows nothing of regions."""
    start = time.process_time()
    frame = cv2.imdecode(np.frombuffer(parse_path(job.file).read_bytes(), np.uint8), cv2.IMREAD_COLOR)
    return time.process_time() - start, {} if frame is not None else {"error": "not decoded"}
