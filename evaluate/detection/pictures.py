"""Pictures with ground truth: boxes in COCO's format, or a class for every pixel."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import msgspec
import numpy as np

from evaluate.compare import digest
from evaluate.data import PICTURE_SUFFIXES, take
from rjpeg._files import path_for_opencv
from rjpeg.errors import InputError

__all__ = ["ANNOTATIONS", "LABELS", "Annotation", "Category", "Scene", "find_scenes", "identity_of", "read_labels"]

ANNOTATIONS, LABELS = "annotations.json", "labels"


class Category(msgspec.Struct):
    """A class of COCO's format. Detectors number classes from 0, in the order of these ids."""

    id: int
    name: str


class Annotation(msgspec.Struct):
    """A box of COCO's format: left, top, width and height in pixels. iscrowd: of a group, so no detection is wrong."""

    image_id: int
    category_id: int
    bbox: tuple[float, float, float, float]
    area: float | None = None
    iscrowd: int = 0


class _Image(msgspec.Struct):
    id: int
    file_name: str


class _File(msgspec.Struct):
    images: list[_Image]
    annotations: list[Annotation]
    categories: list[Category]


@dataclass(frozen=True)
class Scene:
    """A picture and its truth.

    boxes: of COCO's format. labels: file with a class for every pixel. One of both, by the kind of the data.
    """

    path: Path
    boxes: Sequence[Annotation] = ()
    labels: Path | None = None


def find_scenes(folder: Path, limit: int | None = None) -> tuple[list[Scene], list[Category]]:
    """Find pictures and their truth: by `annotations.json`, or by PNG files of the same names in `labels`.

    Returns:
        At most `limit` scenes, spread over the folder, and the classes of the boxes in the order of their ids.

    Raises:
        InputError: there is neither, or a file is missing or broken.
    """
    if (folder / ANNOTATIONS).is_file():
        scenes, categories = _with_boxes(folder)
    elif (folder / LABELS).is_dir():
        scenes, categories = _with_labels(folder), []
    else:
        raise InputError(f"--data {folder} has neither {ANNOTATIONS} in COCO's format nor a folder {LABELS}")
    if not scenes:
        raise InputError(f"--data {folder} has no picture")
    return take(scenes, limit), categories


def _with_boxes(folder: Path) -> tuple[list[Scene], list[Category]]:
    path = folder / ANNOTATIONS
    try:
        found = msgspec.json.decode(path.read_bytes(), type=_File)
    except (OSError, msgspec.DecodeError) as error:
        raise InputError(f"{path} is no file of COCO's format: {error}") from error
    boxes: dict[int, list[Annotation]] = {image.id: [] for image in found.images}
    known = {category.id for category in found.categories}
    for box in found.annotations:
        if box.image_id not in boxes or box.category_id not in known:
            raise InputError(
                f"{path}: a box is of image {box.image_id}, category {box.category_id}, expected known ones"
            )
        if min(box.bbox[2:]) < 0:
            raise InputError(f"{path}: a box of image {box.image_id} is {list(box.bbox)}, expected width, height >= 0")
        boxes[box.image_id].append(box)
    scenes = []
    for image in sorted(found.images, key=lambda image: image.file_name):
        places = [folder / image.file_name, folder / "images" / image.file_name]
        picture = next((place for place in places if place.is_file()), None)
        if picture is None:
            raise InputError(f"{path}: {image.file_name} is neither in {folder} nor in its folder images")
        scenes.append(Scene(picture, boxes[image.id]))
    return scenes, sorted(found.categories, key=lambda category: category.id)


def _with_labels(folder: Path) -> list[Scene]:
    scenes = []
    for picture in sorted(path for path in folder.iterdir() if path.suffix.lower() in PICTURE_SUFFIXES):
        labels = folder / LABELS / f"{picture.stem}.png"
        if not labels.is_file():
            raise InputError(f"{labels} is missing: the classes of {picture.name}")
        scenes.append(Scene(picture, labels=labels))
    return scenes


def read_labels(path: Path, shape: tuple[int, int]) -> np.ndarray:
    """Read the class of every pixel, `shape` uint8. Raises InputError for a file that is none of a picture's."""
    labels = cv2.imread(path_for_opencv(path), cv2.IMREAD_UNCHANGED)
    if labels is None or labels.shape != shape or labels.dtype != np.uint8:
        found = "no picture" if labels is None else f"{labels.shape} {labels.dtype}"
        raise InputError(f"{path} is {found}, expected {shape} with one byte a pixel, the class")
    return labels


def identity_of(scenes: Sequence[Scene]) -> str:
    """Return a hash of pictures and truth."""
    found: list[Any] = [
        [digest(scene.path), msgspec.to_builtins(scene.boxes), scene.labels and digest(scene.labels)]
        for scene in scenes
    ]
    return hashlib.sha256(json.dumps(found).encode()).hexdigest()
