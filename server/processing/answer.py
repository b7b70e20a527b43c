"""Ask a task about a picture: what it is told, and what becomes of its answer.

A task is called with (frame, meta) and returns JSON values. `frame` is (H, W, 3) uint8 BGR and read-only, since it is
also stored and shown. `meta` is what `frame_meta` returns.
"""

import json
import logging
import traceback
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from rjpeg._protocol import time_text
from server.frames import ReceivedFrame

__all__ = ["MAX_ANSWER_BYTES", "BgrImage", "Task", "answer_text", "ask", "failure_text", "frame_meta"]

logger = logging.getLogger(__name__)

BgrImage = npt.NDArray[np.uint8]
"""A picture (H, W, 3) uint8 BGR."""
Task = Callable[[BgrImage, dict[str, Any]], Any]
"""(frame, meta) to JSON values. Its attribute `threads`, if it has one, is the number of threads that may call it."""

# of an answer as JSON; it is stored with every frame
MAX_ANSWER_BYTES = 65536
MAX_ERROR_CHARACTERS = 300


def frame_meta(frame: BgrImage, size: int, received: ReceivedFrame | None = None) -> dict[str, Any]:
    """Return what a task is told of a frame.

    Args:
        frame: the decoded picture.
        size: bytes of its file.
        received: the frame as a camera sent it. None: it is a file.

    Returns:
        camera, sequence and capture_time (ISO 8601), each of which may be None; width, height and bytes.
    """
    return {
        "camera": received.camera if received else None,
        "sequence": received.sequence if received else None,
        "capture_time": time_text(received.capture_time) if received else None,
        "width": frame.shape[1],
        "height": frame.shape[0],
        "bytes": size,
    }


def ask(task: Task, frame: BgrImage, meta: dict[str, Any]) -> Any:
    """Return a task's answer as plain JSON values.

    A task that fails gives {"error": text}. So does an answer that is no JSON or has more than MAX_ANSWER_BYTES.
    """
    return json.loads(answer_text(task, frame, meta))


def answer_text(task: Task, frame: BgrImage, meta: dict[str, Any]) -> bytes:
    """Return a task's answer as `ask` does, but as JSON text in UTF-8."""
    shown = frame.view()
    shown.flags.writeable = False
    try:
        return _checked_answer(task(shown, meta))
    except KeyboardInterrupt:
        raise
    # even after sys.exit() in a task, the frame is kept and the thread goes on
    except BaseException as error:  # noqa: BLE001 - it is logged, and the answer says it
        trace = "".join(traceback.format_exception(error)).encode(errors="replace").decode()
        logger.warning("task failed on a frame of camera %s\n%s", meta["camera"], trace)
        return json.dumps({"error": failure_text(error)}).encode()


def failure_text(error: BaseException) -> str:
    """Return one line that says what went wrong."""
    text = " ".join(f"{type(error).__name__}: {error}".split())
    # no lone surrogates, which UTF-8 can't hold
    return text[:MAX_ERROR_CHARACTERS].encode(errors="replace").decode()


def _checked_answer(answer: Any) -> bytes:
    """Return an answer as JSON text. Tuples become lists, keys become text.

    Raises:
        ValueError: the answer holds NaN, infinity or lone surrogates, or has more than MAX_ANSWER_BYTES.
        TypeError: the answer holds a value that JSON has no form for.
        RecursionError: the answer is nested too deeply.
    """
    text = json.dumps(answer, allow_nan=False, ensure_ascii=False).encode()
    if len(text) > MAX_ANSWER_BYTES:
        raise ValueError(f"the answer has {len(text)} bytes as JSON, more than {MAX_ANSWER_BYTES}")
    # text that can be written may still be nested too deeply to be read
    json.loads(text)
    return text
