"""Segmenters that say what every pixel of a frame is. Their answers are kept on disk, as those of judges are."""

from pathlib import Path

import cv2
import numpy as np

from evaluate.compare import digest
from evaluate.kept import AnswerFile
from rjpeg import _runtime as runtime
from rjpeg.errors import InputError
from server.processing.segmenter import TfliteSegmenter
from server.processing.task import load_task
from server.processing.task_config import TfliteTask

__all__ = ["KeptSegmenter", "identity_of"]


def identity_of(config: TfliteTask) -> str:
    """Return what the answers of a task's network depend on: its settings, its file and the runtime."""
    return f"{config!r} {digest(Path(config.model))[:16]} {runtime.runtime_name()}"


class KeptSegmenter:
    """A TFLite segmenter that is asked once about a picture. For one thread.

    `identity` is what its answers depend on.

    Args:
        config: the task file's settings.
        name: for messages.
        folder: for answers that are kept; None keeps none.

    Raises:
        InputError: the network is no segmenter.
        ConfigError: see `load_task`.
        ModelError: the file is no network.
        StorageError: answers can't be kept.
    """

    def __init__(self, config: TfliteTask, name: str, folder: Path | None = None) -> None:
        network = load_task(config)
        if not isinstance(network, TfliteSegmenter):
            raise InputError(f"judge {name} is no segmenter")
        self._network = network
        self.identity = identity_of(config)
        self._file = AnswerFile(folder) if folder else None

    def classes(self, frame: np.ndarray) -> np.ndarray:
        """Return the class of every pixel of the network's output, (h, w) uint8: as it says now, or said before."""

        def ask() -> bytes:
            return bytes(cv2.imencode(".png", np.clip(self._network.classes(frame), 0, 255).astype(np.uint8))[1])

        png = self._file.answer(self.identity, frame, ask) if self._file else ask()
        return cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_GRAYSCALE)
