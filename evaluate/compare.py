"""Codes every picture with every codec at every rate, and asks the classifier what it sees."""

import contextlib
import functools
import hashlib
import json
import logging
import math
from collections.abc import Callable
from dataclasses import asdict, astuple, dataclass
from pathlib import Path
from typing import Any, Self, TypeVar

import cv2
import numpy as np
from tqdm import tqdm

from evaluate import data
from evaluate.classifiers import Classifier, identity, open_classifier
from evaluate.codecs import Codec, CodecMissingError, Coded, Reduced, make_codec
from evaluate.data import DataSet, Picture
from evaluate.scores import byte_budget, paired_difference, proportion
from rjpeg import _runtime as runtime
from rjpeg.errors import InputError, RjpegError, StorageError
from server.engines import WorkerDiedError, open_engine
from server.paths import AnyPath
from train import framing

__all__ = [
    "CACHED_CODE",
    "Comparison",
    "Point",
    "Workers",
    "add_differences",
    "classifier_of",
    "code",
    "codec_of",
    "compare",
    "digest",
    "place_in",
    "recall",
    "remember",
]

logger = logging.getLogger(__name__)

T = TypeVar("T")
R = TypeVar("R")

CLEAN = "clean"
# what a picture's outcome depends on besides the codecs' own versions
CACHED_CODE = ("classifiers.py", "codecs.py", "compare.py", "data.py")


@dataclass(frozen=True, order=True)
class Point:
    """One point of a curve: files within a number of bits per pixel, or files of one quality."""

    kind: str  # "bpp" or "quality"
    value: float


@dataclass(frozen=True)
class Task:
    """What a worker needs to judge one picture: plain values, so that any process can do it."""

    classifier: str
    mean: float | None
    std: float | None
    fit: str
    codec: str
    model: str | None
    points: tuple[Point, ...]
    picture: Picture


@dataclass(frozen=True)
class Outcome:
    """One picture at one point: bytes of the file, whether it kept within the budget, the class seen."""

    size: int
    fits: bool
    prediction: int
    pixels: int


def judge(task: Task) -> list[Outcome]:
    """Judge one picture at the task's points; of the clean picture for the codec named CLEAN."""
    classifier = classifier_of(task.classifier, task.mean, task.std)
    frame = data.load(task.picture, task.fit, classifier.size)
    height, width = frame.shape[:2]

    def see(decoded: np.ndarray) -> int:
        fitted = data.fit_frame(decoded, classifier.size, "crop" if task.fit == "whole" else task.fit)
        return classifier.classify(fitted)

    if task.codec == CLEAN:
        return [Outcome(frame.nbytes, True, see(frame), height * width)]
    codec = codec_of(task.codec, task.model)
    known: dict[int, bytes] = {}
    outcomes = []
    for point in task.points:
        coded, decoded = code(codec, frame, point, known, task.picture.name)
        outcomes.append(Outcome(len(coded.data), coded.fits, see(decoded), height * width))
    return outcomes


def code(codec: Codec, frame: np.ndarray, point: Point, known: dict[int, bytes], name: str) -> tuple[Coded, np.ndarray]:
    """Code a frame at a point; return the file, and what is decoded from it at the frame's size.

    `known` is that of `Codec.encode_within`. Raises InputError, which names the picture, when the codec gives another
    size.
    """
    height, width = frame.shape[:2]
    if point.kind == "quality":
        coded = Coded(codec.encode(frame, int(point.value)), True)
    else:
        coded = codec.encode_within(frame, byte_budget(point.value, height, width), known)
    decoded = codec.decode(coded.data)
    if decoded.shape != frame.shape and not isinstance(codec, Reduced):
        raise InputError(f"{codec.name} gave {decoded.shape} for {name} of {frame.shape}")
    return coded, framing.resize(decoded, height, width)


@functools.cache
def classifier_of(source: str, mean: float | None, std: float | None) -> Classifier:
    """Call `open_classifier`, once a process for equal arguments."""
    return open_classifier(source, mean, std)


@functools.cache
def codec_of(name: str, model: str | None) -> Codec:
    """Call `make_codec`, once a process for equal arguments."""
    return make_codec(name, model)


def _start_worker() -> None:
    cv2.setNumThreads(1)
    logging.getLogger("pyvips").setLevel(logging.WARNING)


class Workers:
    """Runs tasks on an engine of `server.engines`, by default in processes of this machine."""

    def __init__(self, count: int | None, engine: str = "local") -> None:
        self._stack = contextlib.ExitStack()
        self._engine = self._stack.enter_context(open_engine(engine, count, _start_worker))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def run(self, judge: Callable[[T], R], tasks: list[T], label: str, chunk: int = 4) -> list[R]:
        """Call `judge` for every task in order, under a progress bar. Raises RjpegError, also when a process died.

        `chunk` is the number of tasks that a process gets at a time.
        """
        results = self._engine.run(judge, tasks, chunk)
        try:
            return list(tqdm(results, label, total=len(tasks), unit="picture", leave=False, disable=None))
        except WorkerDiedError as error:
            raise RjpegError(f"at {label}: {error}") from error


@dataclass(frozen=True)
class Comparison:
    """What pictures are judged by, whatever the codec.

    classifier: file or name, see `open_classifier`. mean, std: of its input, or None. fit: see `data.load`.
    model: that of `make_codec`. cache: folder of finished results, or None.
    """

    dataset: DataSet
    classifier: str
    mean: float | None = None
    std: float | None = None
    fit: str = "crop"
    model: str | None = None
    cache: Path | None = None

    @functools.cached_property
    def key(self) -> dict[str, Any]:
        """What a result depends on besides codec and point."""
        return {
            "classifier": identity(self.classifier),
            "runtime": runtime.runtime_name(),
            "input": [self.mean, self.std],
            "fit": self.fit,
            "pictures": [(p.name, p.window, digest(p.path)) for p in self.dataset.pictures],
            "code": [digest(Path(__file__).with_name(name)) for name in CACHED_CODE],
        }

    def place(self, codec: str, version: str, point: Point) -> Path | None:
        """Return where the outcomes of a codec at a point are kept, or None."""
        return place_in(self.cache, {**self.key, "codec": codec, "version": version, "point": asdict(point)})

    def outcomes(
        self, pool: Workers, codec: str, version: str, points: tuple[Point, ...]
    ) -> dict[Point, list[Outcome]]:
        """Judge all pictures at a codec's points. Those that are kept are not judged again."""
        remembered = {point: recall(self.place(codec, version, point), Outcome) for point in points}
        found = {point: rows for point, rows in remembered.items() if rows is not None}
        missing = tuple(point for point in points if point not in found)
        if missing:
            how = (self.classifier, self.mean, self.std, self.fit)
            tasks = [Task(*how, codec, self.model, missing, picture) for picture in self.dataset.pictures]
            by_picture = pool.run(judge, tasks, codec)
            for index, point in enumerate(missing):
                found[point] = [row[index] for row in by_picture]
                remember(self.place(codec, version, point), found[point])
        return {point: found[point] for point in points}


def compare(
    comparison: Comparison, points: dict[str, tuple[Point, ...]], *, workers: int | None = 1, engine: str = "local"
) -> dict[str, Any]:
    """Return the results of every codec at its points, picture by picture, as plain values for JSON.

    points: by codec name, in the order of the results. Codecs that lack something are listed under "skipped". Finished
    (codec, point) pairs are kept in the comparison's `cache` under a hash of all that they depend on.
    Raises StorageError when they cannot be kept, InputError for unreadable pictures, wrong labels, an unknown codec
    or a wrong classifier.
    """
    dataset = comparison.dataset
    judged_by = classifier_of(comparison.classifier, comparison.mean, comparison.std)
    data.check_labels(dataset, judged_by.classes)
    made, skipped = _codecs_of(list(points), comparison.model)
    with Workers(workers, engine) as pool:
        clean_point = Point("quality", 0)
        clean = comparison.outcomes(pool, CLEAN, "", (clean_point,))[clean_point]
        truth = [
            row.prediction if picture.label is None else picture.label
            for picture, row in zip(dataset.pictures, clean, strict=True)
        ]
        series = []
        for name, codec in made.items():
            rows_by_point = comparison.outcomes(pool, name, codec.version, points[name])
            logger.info("done: %s", name)
            found = [_point(point, rows, truth) for point, rows in rows_by_point.items()]
            series.append({"codec": name, "version": codec.version, "points": found})
    top1, error = proportion([row.prediction == label for row, label in zip(clean, truth, strict=True)])
    return {
        "pictures": [
            {"name": picture.name, "label": picture.label, "clean_prediction": row.prediction}
            for picture, row in zip(dataset.pictures, clean, strict=True)
        ],
        "labels_from": dataset.labels_from,
        "score": "top-1" if dataset.labelled else "agreement",
        "fit": comparison.fit,
        "classifier": {
            "source": comparison.classifier,
            "identity": identity(comparison.classifier),
            "runtime": runtime.runtime_name(),
            "size": list(judged_by.size),
        },
        "clean": {"top1": top1, "standard_error": error},
        "series": series,
        "skipped": skipped,
    }


def _codecs_of(names: list[str], model: str | None) -> tuple[dict[str, Codec], dict[str, str]]:
    """Make codecs by their names. Return those that are there, and why the others are not."""
    made: dict[str, Codec] = {}
    skipped: dict[str, str] = {}
    for name in names:
        try:
            made[name] = codec_of(name, model)
        except CodecMissingError as reason:
            skipped[name] = str(reason)
    return made, skipped


def _point(point: Point, rows: list[Outcome], truth: list[int]) -> dict[str, Any]:
    correct = [row.prediction == label for row, label in zip(rows, truth, strict=True)]
    top1, error = proportion(correct)
    bpp = [8 * row.size / row.pixels for row in rows]
    return {
        "kind": point.kind,
        "value": point.value,
        "top1": top1,
        "standard_error": error,
        "mean_bpp": math.fsum(bpp) / len(bpp),
        "mean_bytes": sum(row.size for row in rows) / len(rows),
        "over_budget": sum(not row.fits for row in rows),
        "bytes": [row.size for row in rows],
        "prediction": [row.prediction for row in rows],
        "correct": correct,
    }


def place_in(cache: Path | None, key: dict[str, Any]) -> Path | None:
    """Return where the folder `cache` keeps what depends on all of `key`; None without a folder."""
    text = json.dumps(key, sort_keys=True)
    return cache and cache / f"{hashlib.sha256(text.encode()).hexdigest()[:24]}.json"


def recall(path: Path | None, kind: Callable[..., R]) -> list[R] | None:
    """Read what `remember` kept there, rows of a data class `kind`; None when there is nothing."""
    if path is None or not path.is_file():
        return None
    try:
        return [kind(*row) for row in json.loads(path.read_text(encoding="utf-8"))]
    except (OSError, ValueError, TypeError):
        return None  # a half-written file of a run that was stopped


def remember(path: Path | None, rows: list[Any]) -> None:
    """Keep rows of a data class of plain values. Raises StorageError."""
    if path is not None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps([astuple(row) for row in rows]), encoding="utf-8")
        except OSError as error:
            raise StorageError(f"results cannot be kept in {path.parent}: {error.strerror or error}") from error


@functools.cache
def digest(path: AnyPath) -> str:
    """Return the SHA-256 of a file in hex, read once a process."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def add_differences(results: dict[str, Any], reference: str) -> None:
    """Add to every point "difference" and "difference_error": paired, against `reference` at the same point.

    Nothing is added when the reference has no such point. Raises InputError when the reference was not run.
    """
    by_name = {series["codec"]: series for series in results["series"]}
    if reference not in by_name:
        raise InputError(f"reference codec {reference!r} was not run, expected one of {', '.join(by_name)}")
    results["reference"] = reference
    other = {(point["kind"], point["value"]): point["correct"] for point in by_name[reference]["points"]}
    for series in results["series"]:
        for point in series["points"]:
            key = (point["kind"], point["value"])
            if key in other:
                difference, error = paired_difference(point["correct"], other[key])
                point["difference"], point["difference_error"] = difference, error
