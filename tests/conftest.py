"""For all tests."""

import contextlib

# tflite-runtime 2.14 can't make an interpreter in a process that loaded TensorFlow before it; the other order works.
with contextlib.suppress(ImportError):
    import tflite_runtime.interpreter  # noqa: F401
