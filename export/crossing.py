"""Does a network give the same integers on every installed runtime? Each runs in a process of its own.

`python -m export.crossing INPUTS.npz OUTPUTS.npz < NETWORK.tflite` is that process: it runs the network on every
array of the first file, on the reference kernels of the runtime that RJPEG_RUNTIME names.
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

from rjpeg.errors import ModelError
from rjpeg.runtime import RUNTIMES, Network


def runtimes_agree(content: bytes, inputs: list[NDArray[np.int8]]) -> dict[str, Any]:
    """Outputs of every installed runtime on reference kernels, compared in all integers: {"runtimes", "equal"}.

    Raises ModelError where a runtime does not run the network.
    """
    names = [name for name in RUNTIMES if importlib.util.find_spec(name) is not None]
    outputs = [_answers(content, inputs, name) for name in names]
    equal = all(
        np.array_equal(one, other) for answers in outputs[1:] for one, other in zip(outputs[0], answers, strict=True)
    )
    return {"runtimes": names, "equal": equal, "inputs": len(inputs)}


def _answers(content: bytes, inputs: list[NDArray[np.int8]], runtime: str) -> list[NDArray[np.int8]]:
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
            raise ModelError(f"predictor on {runtime}: {said[-1] if said else f'exit status {done.returncode}'}")
        with np.load(answered) as arrays:
            return [arrays[f"arr_{index}"] for index in range(len(inputs))]


def main(given: str, answered: str) -> None:
    network = Network(sys.stdin.buffer.read(), name="predictor", reference_kernels=True)
    with np.load(given) as arrays:
        np.savez(answered, *(network.run(arrays[f"arr_{index}"]) for index in range(len(arrays))))


if __name__ == "__main__":
    main(*sys.argv[1:])
