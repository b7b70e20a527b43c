"""Checks of what may crash or hang: the TFLite runtime, and a camera's driver. The script `trial.py` tries them."""

import importlib.metadata
import importlib.util
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from device.check.result import Check
from device.config import CameraConfig
from rjpeg._runtime import RUNTIMES

__all__ = ["CAMERA_SECONDS", "ENCODER_SECONDS", "check_camera", "check_encoder", "check_numpy"]

CAMERA_SECONDS = 45.0  # to open it, several tries of its driver included, and for a frame
ENCODER_SECONDS = 120.0

_TRIAL = Path(__file__).resolve().with_name("trial.py")


def check_numpy() -> Check:
    """Check that there is a TFLite runtime, and that it works with this NumPy."""
    wanted = os.environ.get("RJPEG_RUNTIME")
    runtime = next((name for name in ([wanted] if wanted else RUNTIMES) if importlib.util.find_spec(name)), None)
    if runtime is None:
        return Check(
            "NumPy", False, "there is no TFLite runtime", "install rjpeg anew: pip install --force-reinstall ."
        )
    found = f"NumPy {np.__version__}, {runtime} {importlib.metadata.version(runtime.replace('_', '-'))}"
    if runtime == "tflite_runtime" and int(np.__version__.partition(".")[0]) >= 2:
        return Check("NumPy", False, f"{found}: it crashes with NumPy 2", "pip install 'numpy<2'")
    return Check("NumPy", True, found)


def check_encoder(model: str | None, *, seconds: float = ENCODER_SECONDS) -> Check:
    """Check that a frame can be encoded.

    Args:
        model: folder of the model; None: the one that comes with rjpeg.
        seconds: time limit.
    """
    said = _in_a_process("encoder", {"model": model}, seconds)
    advice = "install rjpeg anew with its own versions: pip install --force-reinstall . --group device"
    if "crash" in said:
        return Check("encoder", False, f"the TFLite runtime crashes: {said['crash']} (NumPy {np.__version__})", advice)
    if "error" in said:
        return Check("encoder", False, said["error"], "check encoding.model" if model else advice)
    return Check("encoder", True, f"a {said['size']} frame in {said['ms']:.0f} ms, {said['runtime']}")


def check_camera(camera: CameraConfig, *, seconds: float = CAMERA_SECONDS) -> Check:
    """Check that a camera, or another source, gives a frame.

    Args:
        camera: its settings.
        seconds: time limit.
    """
    name = f"camera {camera.id}"
    said = _in_a_process("camera", msgspec.to_builtins(camera), seconds)
    if "crash" in said:
        return Check(name, False, f"its driver crashes: {said['crash']}", "try another pixel_format, size or cable")
    if "error" in said:
        return Check(name, False, said["error"], "check cameras: source, size and pixel_format in the configuration")
    fps = f", {said['fps']:g} frames a second" if said["fps"] else ""
    return Check(name, True, f"{said['name']}: {said['width']}x{said['height']}{fps}")


def _in_a_process(what: str, argument: dict[str, Any], seconds: float) -> dict[str, Any]:
    """Run the script `trial.py`.

    Returns:
        What the script prints, or {"error": reason}; {"crash": reason} if it ended in another way.
    """
    child = subprocess.Popen(
        [sys.executable, str(_TRIAL), what],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=os.environ | {"OPENCV_LOG_LEVEL": "OFF", "PYTHONWARNINGS": "ignore"},
        start_new_session=True,
    )
    try:
        said, _ = child.communicate(json.dumps(argument).encode(), timeout=seconds)
    except subprocess.TimeoutExpired:
        return {"error": f"no result after {seconds:.0f} s"}
    finally:
        if child.poll() is None:
            # and what it may have started itself, such as a GStreamer helper
            os.killpg(child.pid, signal.SIGKILL)
            child.communicate()
    try:
        # a driver may print lines of its own before
        answer = json.loads(said.decode("utf-8", "replace").strip().rpartition("\n")[2])
    except ValueError:
        answer = None
    if child.returncode != 0 or not isinstance(answer, dict):
        code = child.returncode
        return {"crash": f"signal {_signal_name(-code)}" if code < 0 else f"exit status {code}"}
    return answer


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return str(number)
