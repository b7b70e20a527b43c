"""The TFLite runtime: tflite-runtime or ai-edge-litert, whichever is installed. Nothing else imports them."""

from __future__ import annotations

import contextlib
import importlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rjpeg.errors import ModelError

RUNTIMES = ("ai_edge_litert", "tflite_runtime")
"""Packages that are tried, in this order; the environment variable RJPEG_RUNTIME names the only one to use.

The newer one first: on x86-64 it takes six sevenths of the other's time, and once TensorFlow is loaded,
tflite-runtime 2.14 fails to make an interpreter ("vector::reserve", bad_alloc).
"""


class Quantization(NamedTuple):
    """Of an integer tensor: value = (integer - zero_point) * scale."""

    scale: float
    zero_point: int


def runtime_name() -> str:
    """Name of the installed TFLite runtime that is used, one of RUNTIMES. Raises ModelError where there is none."""
    return str(_interpreter_module().__name__.partition(".")[0])


def _interpreter_module() -> Any:
    wanted = os.environ.get("RJPEG_RUNTIME")
    if wanted and wanted not in RUNTIMES:
        raise ModelError(f"RJPEG_RUNTIME is {wanted!r}, expected one of {', '.join(RUNTIMES)}")
    names = (wanted,) if wanted else RUNTIMES
    reasons = []
    for name in names:
        try:
            return importlib.import_module(f"{name}.interpreter")
        except ImportError as error:
            reasons.append(f"{name}: {error}")
    raise ModelError(f"no TFLite runtime can be imported ({'; '.join(reasons)})")


_announcing = threading.Lock()
_announced = False


@contextlib.contextmanager
def _unannounced() -> Iterator[None]:
    """Keeps one line off standard error, where a program's own lines may be for machines: that XNNPACK is used.

    A runtime writes it when it makes its first delegate, whatever the level of logging.
    """
    global _announced
    if _announced or not hasattr(os, "memfd_create"):
        yield
        return
    with _announcing:
        try:
            stderr = os.dup(2)
        except OSError:  # closed
            yield
            return
        held = os.memfd_create("stderr")
        os.dup2(held, 2)
        try:
            yield
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
            os.lseek(held, 0, os.SEEK_SET)
            with open(held, "rb") as file:  # noqa: PTH123
                for line in file:
                    if b"XNNPACK delegate" in line:
                        _announced = True
                    else:
                        os.write(2, line)


class Network:
    """A TFLite network with one input and one output, for any grid size. Safe to use from several threads.

    delegate: let the runtime hand the network to XNNPACK, its fastest kernels. reference_kernels: the plainest ones, to
    compare with.
    """

    def __init__(
        self, content: bytes, *, name: str, reference_kernels: bool = False, delegate: bool = True, threads: int = 1
    ) -> None:
        """Load a network from the bytes of its file; `name` is for messages. Raises ModelError."""
        module = _interpreter_module()
        kinds = module.OpResolverType
        kernels = kinds.AUTO if delegate else kinds.BUILTIN_WITHOUT_DEFAULT_DELEGATES
        try:
            with _unannounced():
                self._interpreter = module.Interpreter(
                    model_content=content,
                    num_threads=threads,
                    experimental_op_resolver_type=kinds.BUILTIN_REF if reference_kernels else kernels,
                )
                self._interpreter.allocate_tensors()
        except (ValueError, RuntimeError) as error:
            raise ModelError(f"{name} is no network that {runtime_name()} runs: {error}") from error
        inputs, outputs = self._interpreter.get_input_details(), self._interpreter.get_output_details()
        if len(inputs) != 1 or len(outputs) != 1:
            raise ModelError(f"{name} has {len(inputs)} inputs and {len(outputs)} outputs, expected one of each")
        self.name = name
        self.input_shape: tuple[int, ...] = tuple(int(n) for n in inputs[0]["shape_signature"])
        self.input_dtype: np.dtype = np.dtype(inputs[0]["dtype"])
        self.output_dtype: np.dtype = np.dtype(outputs[0]["dtype"])
        self.input_quantization = Quantization(*inputs[0]["quantization"])
        self.output_quantization = Quantization(*outputs[0]["quantization"])
        self._input, self._output = inputs[0]["index"], outputs[0]["index"]
        self._shape = tuple(int(n) for n in inputs[0]["shape"])
        self._lock = threading.Lock()

    def run(self, array: NDArray) -> NDArray:
        """Output for an input of the network's own dtype; sizes that the file leaves open follow the input's.

        Raises ModelError where dtype or shape do not fit.
        """
        if array.dtype != self.input_dtype:
            raise ModelError(f"{self.name}: input is {array.dtype}, expected {self.input_dtype}")
        with self._lock:
            try:
                if array.shape != self._shape:
                    self._interpreter.resize_tensor_input(self._input, array.shape, strict=True)
                    self._interpreter.allocate_tensors()
                    self._shape = array.shape
                self._interpreter.set_tensor(self._input, array)
                self._interpreter.invoke()
                return self._interpreter.get_tensor(self._output)
            except (ValueError, RuntimeError) as error:
                raise ModelError(f"{self.name} does not run on input of shape {array.shape}: {error}") from error


def load(path: str | os.PathLike[str], *, reference_kernels: bool = False, threads: int = 1) -> Network:
    """Load a .tflite file. Raises ModelError where it can't be read or run."""
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise ModelError(f"network {path} can't be read: {error.strerror or error}") from error
    return Network(content, name=str(path), reference_kernels=reference_kernels, threads=threads)


def quantize_input(features: NDArray[np.floating], quantization: Quantization) -> NDArray[np.int8]:
    """Real values to the int8 of an input: floor(value / scale + 0.5) + zero_point, the same on every machine."""
    scaled = np.floor(features.astype(np.float64) / quantization.scale + 0.5) + quantization.zero_point
    return np.clip(scaled, -128, 127).astype(np.int8)


def answer(network: Network, features: NDArray[np.floating]) -> NDArray[np.int8]:
    """A network's int8 output (rows, cols, channels) for the real features (rows, cols, channels) of one picture.

    Encoder and decoder ask in this one way, so that they get the same integers. Raises ModelError as `run` does.
    """
    return network.run(quantize_input(features, network.input_quantization)[None])[0]
