"""Several machines that train together, and preparing data while a network computes.

The machines are TensorFlow's workers, named in TF_CONFIG. MultiWorkerMirroredStrategy joins them and averages between
them; it does not hold the variables, since Keras 3 runs neither `fit` nor `train_on_batch` under it
(github.com/keras-team/keras/issues/20585). So every worker has a model of its own, and all of them stay equal, because
they start equal and take the same averaged gradients.
"""

import collections
import concurrent.futures
import dataclasses
import faulthandler
import hashlib
import json
import logging
import os
import time
from collections.abc import Callable, Generator, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import keras
import numpy as np

from rjpeg.errors import ConfigError, RjpegError

__all__ = [
    "ALONE",
    "WorkerError",
    "Workers",
    "agree",
    "ahead",
    "digest",
    "join",
    "share",
    "training_step",
    "wait_for",
]

logger = logging.getLogger(__name__)

Item = TypeVar("Item")
Result = TypeVar("Result")


class WorkerError(RjpegError):
    """Another worker is not there, is lost, or is not at the same place of the same run."""


@dataclasses.dataclass(frozen=True)
class Workers:
    """This process among those that train together. patience: seconds without a sign of the others, then it gives up.

    strategy: tf.distribute.MultiWorkerMirroredStrategy, None for one worker alone.
    """

    index: int = 0
    count: int = 1
    patience: float = 1800.0
    strategy: Any = None

    @property
    def is_chief(self) -> bool:
        """Whether this worker is the one that writes what all of them have."""
        return self.index == 0


ALONE = Workers()


def join(patience: float = 1800.0) -> Workers:
    """Meet the other workers that TF_CONFIG names, and return when all are there. Call it before TensorFlow computes.

    Return ALONE if it names none. If the others don't come within `patience` seconds, the process ends with code 1,
    because TensorFlow's waiting can't be interrupted.
    Raises ConfigError for a TF_CONFIG that is damaged or of another backend.
    """
    text = os.environ.get("TF_CONFIG", "")
    if not text.strip():
        return ALONE
    try:
        config = json.loads(text)
        hosts, task = list(config["cluster"]["worker"]), config["task"]
        index = int(task["index"])
        if set(config["cluster"]) != {"worker"} or task["type"] != "worker" or not 0 <= index < len(hosts):
            raise ValueError("expected workers only, and a task within them")
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f'TF_CONFIG is {text!r}, expected {{"cluster": {{"worker": ["HOST:PORT", ...]}}, '
            f'"task": {{"type": "worker", "index": N}}}}: {error}'
        ) from error
    if len(hosts) == 1:
        return ALONE
    if keras.backend.backend() != "tensorflow":
        backend = keras.backend.backend()
        raise ConfigError(
            f"TF_CONFIG names {len(hosts)} workers, which train on TensorFlow, not on KERAS_BACKEND={backend}"
        )
    import tensorflow as tf

    text = "worker %d of %s: waiting for the others, at most %g s, then this ends with code 1"
    logger.info(text, index, ", ".join(hosts), patience)
    # TensorFlow waits with Python locked, so that no thread or signal handler of Python's gets a turn.
    with Path(os.devnull).open("w") as nowhere:
        faulthandler.dump_traceback_later(patience, exit=True, file=nowhere)
        try:
            strategy = tf.distribute.MultiWorkerMirroredStrategy()
        except (tf.errors.OpError, RuntimeError) as error:
            raise WorkerError(f"worker {index}, {hosts[index]}: {str(error).strip().splitlines()[0]}") from error
        finally:
            faulthandler.cancel_dump_traceback_later()
    if strategy.num_replicas_in_sync != len(hosts):
        raise ConfigError(
            f"{strategy.num_replicas_in_sync} devices for {len(hosts)} workers; give each worker one GPU with "
            "CUDA_VISIBLE_DEVICES"
        )
    return Workers(index, len(hosts), patience, strategy)


def share(workers: Workers, items: Any) -> np.ndarray:
    """Return this worker's entries of an array. All get equally many: some entries twice if they don't divide."""
    length = -(-len(items) // workers.count)
    return np.resize(items, length * workers.count)[workers.index :: workers.count]


def wait_for(paths: Sequence[Path], workers: Workers) -> None:
    """Return when all files are there. Raises WorkerError if no further one came within the workers' patience."""
    missing, since = list(paths), time.monotonic()
    while True:
        left = [path for path in missing if not path.exists()]
        if not left:
            return
        if len(left) < len(missing):
            missing, since = left, time.monotonic()
        if time.monotonic() - since > workers.patience:
            raise WorkerError(
                f"{left[0]}: no other worker wrote it, nor one of {len(left)} like it, within {workers.patience:g} s. "
                "Do all workers run, with the same folder as --out?"
            )
        time.sleep(min(1.0, workers.patience / 10))


def agree(workers: Workers, value: int, what: str) -> None:
    """Wait for all workers and check that they have one value, 0..2**40. Raises WorkerError."""
    if workers.strategy is None:
        return
    import tensorflow as tf

    try:
        mean = float(workers.strategy.reduce("MEAN", tf.constant(value, tf.float64), axis=None))
    except tf.errors.OpError as error:
        raise WorkerError(f"lost another worker ({what}); the same commands continue") from error
    if mean != value:
        raise WorkerError(f"{what} differ between workers: {value} here, {mean:g} on average")


def digest(network: keras.Model) -> str:
    """Return the SHA-256 (hex) of the network's weights."""
    return hashlib.sha256(b"".join(np.ascontiguousarray(w).tobytes() for w in network.get_weights())).hexdigest()


def training_step(model: keras.Model, workers: Workers) -> Callable[..., float]:
    """Make (inputs, targets) -> loss, which trains a compiled model on a batch of which every worker has its share.

    All workers have to see batches of the same shapes in the same order. Raises WorkerError when one is lost.
    """
    if workers.strategy is None:
        return lambda *batch: float(model.train_on_batch(*batch))
    import tensorflow as tf

    variables = model.trainable_variables
    # Batch normalization's statistics
    statistics = [variable for variable in model.non_trainable_variables if variable.dtype.startswith("float")]
    model.optimizer.build(variables)

    def mean(tensors: list[Any]) -> list[Any]:
        # one vector, so that workers meet once and not for every variable
        flat = workers.strategy.reduce("MEAN", tf.concat([tf.reshape(t, [-1]) for t in tensors], 0), axis=None)
        parts = tf.split(flat, [t.shape.num_elements() for t in tensors])
        return [tf.reshape(part, t.shape) for part, t in zip(parts, tensors, strict=True)]

    def step(inputs, targets):
        with tf.GradientTape() as tape:
            loss = model.compute_loss(inputs, targets, model(inputs, training=True), training=True)
        gradients = tape.gradient(loss, [variable.value for variable in variables])
        loss, *means = mean([loss, *gradients, *(variable.value for variable in statistics)])
        model.optimizer.apply(means[: len(variables)], variables)
        for variable, value in zip(statistics, means[len(variables) :], strict=True):
            variable.assign(value)
        return loss

    compiled = tf.function(step, reduce_retracing=True)

    def run(inputs: np.ndarray, targets: np.ndarray) -> float:
        try:
            return float(compiled(tf.convert_to_tensor(inputs), tf.convert_to_tensor(targets)))
        except (tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.CancelledError) as error:
            raise WorkerError("lost another worker; the same commands continue") from error

    return run


def ahead(function: Callable[[Item], Result], items: Iterable[Item]) -> Generator[Result, None, None]:
    """Yield function(item) of all items in order, each computed in a thread while the one before it is in use."""
    pool = concurrent.futures.ThreadPoolExecutor(1)
    waiting: collections.deque[concurrent.futures.Future[Result]] = collections.deque()
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > 2:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
