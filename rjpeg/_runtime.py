"""The TFLite runtime: tflite-runtime or ai-edge-litert, whichever is installed. No other module imports them."""

from __future__ import annotations

import contextlib
import importlib
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rjpeg.errors import ModelError

__all__ = [
    "RUNTIMES",
    "Network",
    "Quantization",
    "answer",
    "load",
    "quantize_input",
    "runtime_name",
]

RUNTIMES = ("ai_edge_litert", "tflite_runtime")
"""Packages that are tried, in this order. The environment variable RJPEG_RUNTIME names the only one to use.

The newer one comes first: on x86-64 it takes six sevenths of the other's time. Once TensorFlow is loaded,
tflite-runtime 2.14 fails to make an interpreter ("vector::reserve", bad_alloc).
"""


class Quantization(NamedTuple):
    """How an integer tensor stands for real values: value = (integer - zero_point) * scale."""

    scale: float
    zero_point: int


def runtime_name() -> str:
    """Return the name of the TFLite runtime that is used, one of RUNTIMES. Raises ModelError if none is installed."""
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


_stderr_lock = threading.Lock()
_delegate_announced = False


@contextlib.contextmanager
def _without_delegate_message() -> Iterator[None]:
    """Keep the line that XNNPACK is used off standard error, whose lines may be for machines.

    A runtime writes it when it makes its first delegate, whatever the level of logging.
    """
    global _delegate_announced
    if _delegate_announced or not hasattr(os, "memfd_create"):
        yield
        return
    with _stderr_lock:
        try:
            stderr = os.dup(2)
        except OSError:
            # Standard error is closed.
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
                        _delegate_announced = True
                    else:
                        os.write(2, line)


class Network:
    """A TFLite network with one input, for any grid size. Several threads may use it at once.

    An interpreter serves one thread at a time, and one shape until it is allocated anew. There is one at first. Another
    is made when none is free that has the shape, up to one a core and at least four. After that, the one that was idle
    longest takes the new shape, or the thread waits until one is idle.
    """

    def __init__(
        self,
        content: bytes,
        *,
        name: str,
        reference_kernels: bool = False,
        delegate: bool = True,
        threads: int = 1,
        outputs: int | None = 1,
    ) -> None:
        """Load a network from the bytes of its file. Raises ModelError.

        name: for messages. reference_kernels: use the plainest kernels, to compare with. delegate: let the runtime hand
        the network to XNNPACK, its fastest kernels. threads: for one run. outputs: how many the network must have, None
        for any number.
        """
        self.name = name
        self._content = content
        self._reference_kernels, self._delegate, self._threads = reference_kernels, delegate, threads
        try:
            with _without_delegate_message():
                interpreter = self._make()
                interpreter.allocate_tensors()
        except (ValueError, RuntimeError) as error:
            raise ModelError(f"{name} is no network that {runtime_name()} runs: {error}") from error
        into, out = interpreter.get_input_details(), interpreter.get_output_details()
        if len(into) != 1 or (outputs is not None and len(out) != outputs):
            expected = "one of each" if outputs == 1 else f"one input and {outputs or 'any number of'} outputs"
            raise ModelError(f"{name} has {len(into)} inputs and {len(out)} outputs, expected {expected}")
        self.input_shape: tuple[int, ...] = tuple(int(n) for n in into[0]["shape_signature"])
        self.input_dtype: np.dtype = np.dtype(into[0]["dtype"])
        self.output_dtype: np.dtype = np.dtype(out[0]["dtype"])
        self.input_quantization = Quantization(*into[0]["quantization"])
        self.output_quantization = Quantization(*out[0]["quantization"])
        self._input, self._outputs = into[0]["index"], [each["index"] for each in out]
        self._first_shape = tuple(int(n) for n in into[0]["shape"])
        self._idle = [_Instance(interpreter, self._first_shape)]
        self._made, self._max_made = 1, max(4, os.cpu_count() or 1)
        self._freed = threading.Condition()

    def run(self, array: NDArray) -> NDArray:
        """Return the first output for an input of the network's own dtype.

        Sizes that the file leaves open follow the input's. The first one, of the batch, may differ even if the file
        says 1. Raises ModelError if dtype or shape do not fit.
        """
        return self.run_all(array)[0]

    def run_all(self, array: NDArray) -> list[NDArray]:
        """Return every output, otherwise as `run`."""
        if array.dtype != self.input_dtype:
            raise ModelError(f"{self.name}: input is {array.dtype}, expected {self.input_dtype}")
        fixed = self.input_shape[1:]
        if len(array.shape) != len(self.input_shape) or any(
            size not in (-1, given) for size, given in zip(fixed, array.shape[1:], strict=True)
        ):
            raise ModelError(f"{self.name} does not run on input of shape {array.shape}, expected {self.input_shape}")
        instance = self._take(array.shape)
        try:
            interpreter = instance.interpreter
            if array.shape != instance.shape:
                # It has no shape until the tensors are allocated.
                instance.shape = ()
                interpreter.resize_tensor_input(self._input, array.shape)
                interpreter.allocate_tensors()
                instance.shape = array.shape
            interpreter.set_tensor(self._input, array)
            interpreter.invoke()
            return [interpreter.get_tensor(index) for index in self._outputs]
        except (ValueError, RuntimeError) as error:
            raise ModelError(f"{self.name} does not run on input of shape {array.shape}: {error}") from error
        finally:
            self._give_back(instance)

    def outputs_of(self, operation: str) -> list[int] | None:
        """Return the indices of the outputs of an operation among the network's, in the operation's own order.

        Return None if there is no such operation, or several, or if not all of its outputs are the network's.
        """
        instance = self._take(self._first_shape)
        try:
            # Not public, and the only way to tell: a converter is free to order and name outputs as it likes.
            found = [each for each in instance.interpreter._get_ops_details() if each["op_name"] == operation]
        except AttributeError:
            return None
        finally:
            self._give_back(instance)
        tensors = [int(index) for index in found[0]["outputs"]] if len(found) == 1 else []
        if not tensors or not set(tensors) <= set(self._outputs):
            return None
        return [self._outputs.index(index) for index in tensors]

    def _give_back(self, instance: _Instance) -> None:
        with self._freed:
            self._idle.append(instance)
            self._freed.notify()

    def _take(self, shape: tuple[int, ...]) -> _Instance:
        """Take an interpreter that no other thread has, one that has this shape already if possible."""
        with self._freed:
            while True:
                at = next((at for at, each in enumerate(self._idle) if each.shape == shape), None)
                if at is not None:
                    return self._idle.pop(at)
                if self._made < self._max_made:
                    self._made += 1
                    break
                if self._idle:
                    return self._idle.pop(0)
                self._freed.wait()
        try:
            return _Instance(self._make(), ())
        except (ValueError, RuntimeError) as error:
            with self._freed:
                self._made -= 1
                self._freed.notify()
            raise ModelError(f"{self.name}: no further interpreter can be made: {error}") from error

    def _make(self) -> Any:
        module = _interpreter_module()
        kinds = module.OpResolverType
        kernels = kinds.AUTO if self._delegate else kinds.BUILTIN_WITHOUT_DEFAULT_DELEGATES
        return module.Interpreter(
            model_content=self._content,
            num_threads=self._threads,
            experimental_op_resolver_type=kinds.BUILTIN_REF if self._reference_kernels else kernels,
        )


@dataclass
class _Instance:
    """An interpreter, and the shape that its tensors are allocated for, or () if they are not."""

    interpreter: Any
    shape: tuple[int, ...]


def load(
    path: str | os.PathLike[str], *, reference_kernels: bool = False, threads: int = 1, outputs: int | None = 1
) -> Network:
    """Load a .tflite file. The other arguments are those of Network. Raises ModelError if it can't be read or run."""
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise ModelError(f"network {path} can't be read: {error.strerror or error}") from error
    return Network(content, name=str(path), reference_kernels=reference_kernels, threads=threads, outputs=outputs)


def quantize_input(features: NDArray[np.floating], quantization: Quantization) -> NDArray[np.int8]:
    """Quantize real values to an input's int8: floor(value / scale + 0.5) + zero_point, the same on every machine."""
    scaled = np.floor(features.astype(np.float64) / quantization.scale + 0.5) + quantization.zero_point
    return np.clip(scaled, -128, 127).astype(np.int8)


def answer(network: Network, features: NDArray[np.floating]) -> NDArray[np.int8]:
    """Return a network's int8 output (rows, cols, channels) for real features (rows, cols, channels) of one picture.

    Raises ModelError as `run` does.
    """
    return network.run(quantize_input(features, network.input_quantization)[None])[0]
