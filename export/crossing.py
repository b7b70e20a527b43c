"""Does a network give the same integers on every installed runtime and all its kernels? Each runtime has a process.

`python -m export.crossing INPUTS.npz OUTPUTS.npz < NETWORK.tflite` is that process: it runs the network on every
array of the first file, with XNNPACK and on the kernels of the runtime that RJPEG_RUNTIME names.
"""

import importlib.util
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rjpeg._runtime import RUNTIMES, Network
from rjpeg.errors import ModelError

__all__ = ["answers_of", "hard_inputs", "runtimes_agree"]


def runtimes_agree(content: bytes, inputs: list[NDArray[np.int8]]) -> dict[str, Any]:
    """Compare the outputs of every installed runtime, with XNNPACK and without, in all integers.

    Return {"runtimes", "equal", "inputs"}. Raises ModelError when a runtime does not run the network.
    """
    names = [name for name in RUNTIMES if importlib.util.find_spec(name) is not None]
    outputs = [answers for name in names for answers in answers_of(content, inputs, name)]
    equal = all(
        np.array_equal(one, other) for answers in outputs[1:] for one, other in zip(outputs[0], answers, strict=True)
    )
    return {"runtimes": names, "equal": equal, "inputs": len(inputs)}


def hard_inputs(channels: int) -> list[NDArray[np.int8]]:
    """Make inputs (n, rows, cols, channels) as no picture gives them: extremes, noise, odd grids, several at once."""
    rng = np.random.default_rng(0)
    shapes = [(1, 1, 1), (1, 2, 7), (3, 5, 4), (1, 23, 5), (2, 1, 9)]
    noise = [rng.integers(-128, 128, (*shape, channels)) for shape in shapes]
    extremes = [rng.choice([-128, 127], (*shape, channels)) for shape in shapes]
    constant = [np.full((1, 9, 11, channels), value) for value in (-128, 0, 127)]
    return [array.astype(np.int8) for array in (*noise, *extremes, *constant)]


def answers_of(content: bytes, inputs: list[NDArray[np.int8]], runtime: str) -> list[list[NDArray[np.int8]]]:
    """Return a runtime's answers to all inputs, with XNNPACK and without. Raises ModelError."""
    # tflite-runtime does not always make an interpreter where TensorFlow is loaded, before it or after it.
    with tempfile.TemporaryDirectory() as scratch:
        given, answered = Path(scratch) / "inputs.npz", Path(scratch) / "outputs.npz"
        np.savez(given, *inputs)
        done = subprocess.run(
            [sys.executable, "-m", "export.crossing", str(given), str(answered)],
            cwd=Path(__file__).resolve().parent.parent,
            env=os.environ | {"RJPEG_RUNTIME": runtime},
            input=content,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            check=False,
        )
        if done.returncode != 0:
            said = done.stderr.decode(errors="replace").strip().splitlines()
            raise ModelError(f"network on {runtime}: {said[-1] if said else f'exit status {done.returncode}'}")
        with np.load(answered) as arrays:
            return [[arrays[f"arr_{first + i}"] for i in range(len(inputs))] for first in (0, len(inputs))]


def main(given: str, answered: str) -> None:
    """Answer the arrays of one file into another, with the network on standard input."""
    content = sys.stdin.buffer.read()
    networks = [Network(content, name="network", delegate=delegate) for delegate in (True, False)]
    with np.load(given) as arrays:
        inputs = [arrays[f"arr_{index}"] for index in range(len(arrays))]
    np.savez(answered, *(network.run(array) for network in networks for array in inputs))


if __name__ == "__main__":
    main(*sys.argv[1:])
