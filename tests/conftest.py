"""For all tests."""

import contextlib
import signal
from pathlib import Path

import pytest

from tests.faults.record import faults  # noqa: F401

# tflite-runtime 2.14 can't make an interpreter in a process that loaded TensorFlow before it; the other order works.
with contextlib.suppress(ImportError):
    import tflite_runtime.interpreter  # noqa: F401

# A shell starts what runs in its background with Ctrl-C ignored, which all processes that tests start would inherit.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

LONG = {"slow", "release", "hardware"}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Mark what `make coverage` runs, so that .ci/run need not run it once more."""
    for item in items:
        part = item.path.relative_to(Path(__file__).parent).parts[0]
        if part in ("rjpeg", "server") and not LONG & {marker.name for marker in item.iter_markers()}:
            item.add_marker("covered")
