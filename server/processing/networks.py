"""What TFLite and Keras networks share: pixels in, classes out."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from rjpeg.errors import ConfigError, ModelError
from server.processing.answer import BgrImage

__all__ = ["best_classes", "check_classes", "read_labels", "resize_image", "scale_pixels"]


def resize_image(image: BgrImage, size: tuple[int, int]) -> BgrImage:
    """Return an image (H, W, 3) at `size`, (width, height), whatever its proportions."""
    height, width = image.shape[:2]
    if (width, height) == size:
        return image
    smaller = size[0] * size[1] < width * height
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA if smaller else cv2.INTER_CUBIC)


def scale_pixels(pixels: npt.NDArray[np.uint8], low: float, high: float) -> npt.NDArray[np.float32]:
    """Return pixels as float32, with `low` for black and `high` for white."""
    return (pixels * ((high - low) / 255) + low).astype(np.float32)


def check_classes(path: str, shape: tuple[int, ...], labels: list[str] | None) -> None:
    """Check the scores of one picture.

    Args:
        path: file of the network, for the error.
        shape: of the scores, without the axis of pictures.
        labels: names of the classes, or None.

    Raises:
        ModelError: the scores are not (classes,), or their number is not that of the labels.
    """
    if len(shape) != 1:
        raise ModelError(f"{path}: output shape {(1, *shape)}, expected (1, classes)")
    if labels is not None and len(labels) != shape[0]:
        raise ModelError(f"{path} has {shape[0]} classes, the labels file {len(labels)} lines")


def best_classes(scores: npt.NDArray[np.float64], labels: list[str] | None, top: int) -> list[dict[str, Any]]:
    """Return the `top` highest of scores (classes,), best first: index, score, and label if known."""
    answer: list[dict[str, Any]] = []
    for index in np.argsort(-scores, kind="stable")[:top]:
        answer.append({"index": int(index), "score": round(float(scores[index]), 6)})
        if labels is not None:
            answer[-1]["label"] = labels[index]
    return answer


def read_labels(path: str | Path) -> list[str]:
    """Read the names of classes, one a line.

    Raises:
        ConfigError: the file can't be read.
    """
    try:
        return Path(path).read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise ConfigError(f"can't read labels file {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"labels file {path} is not UTF-8 text") from error
