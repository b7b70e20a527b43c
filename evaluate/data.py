"""Pictures and labels to evaluate with.

A data set is a folder, on disk or by URL, in one of these forms:

- pictures, with `labels.csv` inside or `<folder>.csv` beside it;
- one folder of pictures per class, sorted names being the class indices 0, 1, 2 ...; names that are all
  whole numbers are the indices themselves;
- pictures without labels: the classifier's answer on the clean picture stands in for the label.

A labels file has one row per picture: the file name, relative to the folder, and the 0-based class index.
A header is optional; with one, the columns are found by name.
"""

import csv
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np

from rjpeg._files import path_for_opencv
from rjpeg.errors import InputError
from server.paths import AnyPath, is_folder
from train.framing import resize

__all__ = [
    "FITS",
    "PICTURE_SUFFIXES",
    "DataSet",
    "Picture",
    "calibration_pictures",
    "check_labels",
    "find_pictures",
    "fit_frame",
    "load",
    "read_frame",
    "read_video",
    "take",
]

T = TypeVar("T")

PICTURE_SUFFIXES = frozenset({".avif", ".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"})
FILE_COLUMNS = ("file", "filename", "path", "image")
LABEL_COLUMNS = ("label", "class", "class_index", "imagenet_class", "index")
# the usual protocol for ImageNet classifiers: short side 256, then the central 224
SHORT_SIDE_RATIO = 256 / 224
FITS = ("crop", "squash", "whole")


@dataclass(frozen=True)
class Picture:
    """One picture: where it is, what it shows and, for a part of a larger picture, which part.

    `label` is a 0-based class index or None. `window` is (top, left, height, width) in pixels, or None for
    the whole picture.
    """

    name: str
    path: AnyPath
    label: int | None = None
    window: tuple[int, int, int, int] | None = None


@dataclass(frozen=True)
class DataSet:
    """Pictures sorted by name, and what their labels come from.

    `sorted_folders` is the number of class folders when the indices come from sorting them, else 0.
    """

    pictures: list[Picture]
    labels_from: str
    sorted_folders: int = 0

    @property
    def labelled(self) -> bool:
        """Whether labels come from the data set, and not from the classifier."""
        return self.pictures[0].label is not None


def find_pictures(folder: AnyPath, labels: AnyPath | None = None) -> DataSet:
    """Find the data set in a folder; see the module's text for the forms it may have.

    Raises InputError when there is nothing to evaluate or the labels file is wrong.
    """
    if not is_folder(folder):
        raise InputError(f"data folder {folder} is not a folder")
    if labels is None:
        name = folder.resolve().name if isinstance(folder, Path) else folder.name
        candidates = (folder / "labels.csv", folder.parent / f"{name}.csv")
        labels = next((path for path in candidates if path.is_file()), None)
    if labels is not None:
        return DataSet(_labelled_by_file(folder, labels), labels.name)
    pictures = [Picture(path.name, path) for path in _picture_files(folder)]
    if pictures:
        return DataSet(pictures, "the classifier's answer on the clean picture")
    return _labelled_by_folder(folder)


def _picture_files(folder: AnyPath) -> list[AnyPath]:
    return sorted(path for path in folder.iterdir() if path.is_file() and path.suffix.lower() in PICTURE_SUFFIXES)


def _labelled_by_folder(folder: AnyPath) -> DataSet:
    classes = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    numbered = all(path.name.isdecimal() for path in classes)
    pictures = [
        Picture(f"{path.name}/{file.name}", file, int(path.name) if numbered else index)
        for index, path in enumerate(classes)
        for file in _picture_files(path)
    ]
    if not pictures:
        raise InputError(f"data folder {folder} has neither pictures nor folders of pictures")
    return DataSet(pictures, "folder names", 0 if numbered else len(classes))


def _labelled_by_file(folder: AnyPath, labels: AnyPath) -> list[Picture]:
    try:
        with labels.open(newline="", encoding="utf-8-sig") as stream:
            rows = [(number, row) for number, row in enumerate(csv.reader(stream), start=1) if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"labels file {labels} cannot be read: {error}") from error
    if not rows:
        raise InputError(f"labels file {labels} is empty")
    file_column, label_column = 0, 1
    header = [cell.strip().lower() for cell in rows[0][1]]
    if any(name in header for name in FILE_COLUMNS):
        file_column = _column(labels, header, FILE_COLUMNS)
        label_column = _column(labels, header, LABEL_COLUMNS)
        rows = rows[1:]
    pictures: dict[str, Picture] = {}
    for number, row in rows:
        if len(row) <= max(file_column, label_column):
            raise InputError(f"{labels}, line {number}: expected a file name and a class index, got {row!r}")
        name, text = row[file_column].strip(), row[label_column].strip()
        if not text.isdecimal():
            raise InputError(f"{labels}, line {number}: class index must be a whole number from 0, got {text!r}")
        if name in pictures:
            raise InputError(f"{labels}, line {number}: {name} is listed twice")
        path = folder / name
        if not path.is_file():
            raise InputError(f"{labels}, line {number}: {path} is missing")
        pictures[name] = Picture(name, path, int(text))
    if not pictures:
        raise InputError(f"labels file {labels} lists no pictures")
    return [pictures[name] for name in sorted(pictures)]


def _column(labels: AnyPath, header: list[str], names: tuple[str, ...]) -> int:
    for name in names:
        if name in header:
            return header.index(name)
    raise InputError(f"labels file {labels} has the columns {header}, and none of {list(names)}")


def check_labels(data: DataSet, classes: int) -> None:
    """Raise InputError if a label is not an index into the classifier's `classes` classes.

    The sorted names of class folders are indices only when the folders are all there.
    """
    for picture in data.pictures:
        if picture.label is not None and picture.label >= classes:
            raise InputError(f"{picture.name} has class {picture.label}, the classifier has classes 0..{classes - 1}")
    if data.sorted_folders not in (0, classes):
        raise InputError(
            f"{data.sorted_folders} class folders for a classifier of {classes} classes: their sorted names are "
            "not its indices; name the folders by class index, or write labels.csv"
        )


def calibration_pictures(folder: Path, size: int) -> DataSet:
    """Cut crops of `size` x `size` pixels of the pictures that calibration_data keeps for evaluation.

    Raises InputError when the folder's manifest.json is missing, broken or keeps none.
    """
    manifest = folder / "manifest.json"
    try:
        entries = json.loads(manifest.read_text(encoding="utf-8"))["pictures"]
        files = [folder / entry["file"] for entry in entries if entry.get("use") == "evaluation"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{manifest} is not a manifest of pictures: {error!r}") from error
    crops = [crop for path in sorted(files) for crop in grid_crops(path, size)]
    if not crops:
        raise InputError(f"{manifest} keeps no picture of at least {size}x{size} pixels for evaluation")
    return DataSet(crops, "the classifier's answer on the clean picture")


def grid_crops(path: AnyPath, size: int) -> list[Picture]:
    """Cut non-overlapping crops of `size` x `size` pixels, spread evenly over a picture."""
    height, width = read_frame(path).shape[:2]
    rows, cols = height // size, width // size
    return [
        Picture(f"{path.name}@{top},{left}", path, None, (top, left, size, size))
        for top in ((height - rows * size) // 2 + size * row for row in range(rows))
        for left in ((width - cols * size) // 2 + size * col for col in range(cols))
    ]


def read_frame(path: AnyPath) -> np.ndarray:
    """Read a picture file, (H, W, 3) uint8 BGR. Raises InputError when it cannot be read."""
    try:
        data = np.frombuffer(path.read_bytes(), np.uint8)
    except OSError as error:
        raise InputError(f"picture {path} cannot be read: {error.strerror or error}") from error
    try:
        frame = cv2.imdecode(data, cv2.IMREAD_COLOR) if data.size else None
    except cv2.error:
        frame = None
    if frame is None:
        raise InputError(f"{path} is not a picture that OpenCV can read")
    return frame


def read_video(path: Path, every: int, limit: int | None = None, start: int = 0) -> list[np.ndarray]:
    """Read every `every`-th frame of a video from number `start` on, (H, W, 3) uint8 BGR; at most `limit`.

    Raises InputError when OpenCV cannot read it.
    """
    if not path.is_file():
        raise InputError(f"video {path} is not a file")
    video = cv2.VideoCapture(path_for_opencv(path))
    frames: list[np.ndarray] = []
    try:
        number = 0
        while (limit is None or len(frames) < limit) and video.grab():
            if number >= start and (number - start) % every == 0:
                frames.append(video.retrieve()[1])
            number += 1
    finally:
        video.release()
    if not frames:
        raise InputError(f"{path} is not a video that OpenCV can read")
    return frames


def load(picture: Picture, fit: str, size: tuple[int, int]) -> np.ndarray:
    """Load the frame that is coded, (H, W, 3) uint8 BGR.

    `fit` is "crop" or "squash" as in `fit_frame`, with the classifier's `size` (height, width), or "whole":
    the picture is coded at its own size, and only what the decoder gives is fitted.
    """
    frame = read_frame(picture.path)
    if picture.window is not None:
        top, left, height, width = picture.window
        frame = np.ascontiguousarray(frame[top : top + height, left : left + width])
    return frame if fit == "whole" else fit_frame(frame, size, fit)


def fit_frame(frame: np.ndarray, size: tuple[int, int], fit: str) -> np.ndarray:
    """Bring a frame to the (height, width) that a classifier takes.

    "crop" reduces until the short side is at most 8/7 of what is wanted, as usual for ImageNet, and
    cuts the center; "squash" changes the whole frame's size. Reduction is by area, enlargement cubic.
    """
    height, width = size
    if fit == "squash":
        return resize(frame, height, width)
    rows, cols = frame.shape[:2]
    need = max(height / rows, width / cols)
    scale = max(need, min(1.0, need * SHORT_SIDE_RATIO))
    if scale != 1:
        frame = resize(frame, max(height, round(rows * scale)), max(width, round(cols * scale)))
        rows, cols = frame.shape[:2]
    top, left = (rows - height) // 2, (cols - width) // 2
    return np.ascontiguousarray(frame[top : top + height, left : left + width])


def take(pictures: list[T], limit: int | None) -> list[T]:
    """Take at most `limit` pictures, or what else there is a list of, spread evenly over the list."""
    if limit is None or limit >= len(pictures):
        return pictures
    return [pictures[index * len(pictures) // limit] for index in range(limit)]
