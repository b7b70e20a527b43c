"""The settings of tasks: one class for each kind, and the files that they are read from."""

import logging
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from rjpeg._arguments import path_text
from rjpeg._files import network_folder, read_yaml
from rjpeg.errors import ConfigError

__all__ = [
    "DEFAULT_TOP",
    "DETECTOR_OUTPUTS",
    "FETCHED_TASKS",
    "DetectorOutput",
    "KerasTask",
    "PythonTask",
    "TaskConfig",
    "TfliteTask",
    "put_home",
    "read_task",
]

logger = logging.getLogger(__name__)

# names of the tasks that `make network` fetches
FETCHED_TASKS = ("detector", "classifier")
# classes in a classifier's answer
DEFAULT_TOP = 5

Processes = Annotated[int, msgspec.Meta(ge=1, le=256)]
Score = Annotated[float, msgspec.Meta(ge=0, le=1)]
Side = Annotated[int, msgspec.Meta(ge=1, le=65500)]
Top = Annotated[int, msgspec.Meta(ge=1, le=100)]
DetectorOutput = Literal["boxes", "classes", "scores", "count"]
DETECTOR_OUTPUTS: tuple[DetectorOutput, ...] = ("boxes", "classes", "scores", "count")


class TfliteTask(msgspec.Struct, forbid_unknown_fields=True, tag_field="kind", tag="tflite"):
    """Settings of a TFLite network.

    Attributes:
        model: the .tflite file.
        network: what the network is.
        labels: file with the names of the classes, one a line.
        input_range: values of a float input for black and for white. Integer inputs get pixels.
        top: number of classes in a classifier's answer.
        threshold: least score of a detector's boxes.
        outputs: a detector's outputs in the file's order. None: read from its operation
            TFLite_Detection_PostProcess.
        processes: number of processes, each of which takes one picture at a time. None: one a core.
    """

    model: str
    network: Literal["classifier", "detector", "segmenter"] = "classifier"
    labels: str | None = None
    input_range: tuple[float, float] = (-1.0, 1.0)
    top: Top = DEFAULT_TOP
    threshold: Score = 0.5
    outputs: tuple[DetectorOutput, DetectorOutput, DetectorOutput, DetectorOutput] | None = None
    processes: Processes | None = None


class KerasTask(msgspec.Struct, forbid_unknown_fields=True, tag_field="kind", tag="keras"):
    """Settings of a Keras classifier.

    Attributes:
        model: the .keras file.
        labels: file with the names of the classes, one a line.
        input_range: values of the input for black and for white.
        top: number of classes in an answer.
        size: (width, height) of the input if the file leaves them open. None: frames keep their size.
        processes: number of processes. A single one already uses all cores for a picture.
    """

    model: str
    labels: str | None = None
    input_range: tuple[float, float] = (0.0, 255.0)
    top: Top = DEFAULT_TOP
    size: tuple[Side, Side] | None = None
    processes: Processes = 1


class PythonTask(msgspec.Struct, forbid_unknown_fields=True, tag_field="kind", tag="python"):
    """Settings of a Python function.

    Attributes:
        function: "package.module:function", called with (frame, meta).
        processes: number of processes. Each sees its share of the frames and knows nothing of the others.
    """

    function: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")]
    processes: Processes = 1


TaskConfig = TfliteTask | KerasTask | PythonTask


def read_task(path: str | Path) -> TaskConfig:
    """Read the settings of a task.

    Args:
        path: one of FETCHED_TASKS, or a YAML file (.yaml, .yml) with `kind` and its keys. Any other file is a
            classifier: a .keras file of Keras, else of TFLite.

    Raises:
        ConfigError: the file can't be read, or has an unknown key or a value of the wrong kind. The task of that name
            was not fetched.
    """
    if str(path) in FETCHED_TASKS:
        return read_fetched(str(path))
    path = Path(path)
    if path.suffix == ".keras":
        return KerasTask(model=str(path))
    if path.suffix not in (".yaml", ".yml"):
        return TfliteTask(model=str(path))
    try:
        task = msgspec.convert(read_yaml(path, "task"), TaskConfig)
    except msgspec.ValidationError as error:
        raise ConfigError(f"task {path}: {error}") from error
    put_home(task)
    return task


def put_home(task: TaskConfig) -> None:
    """Put the home folder in place of ~ in a task's paths."""
    if not isinstance(task, PythonTask):
        task.model = path_text(task.model)
        task.labels = None if task.labels is None else path_text(task.labels)


def read_fetched(name: str) -> TaskConfig:
    """Read the settings of a task that was fetched, and log what it is and its license.

    Args:
        name: one of FETCHED_TASKS.

    Raises:
        ConfigError: it was not fetched, which the message says how to, or its settings are wrong.
    """
    folder = network_folder(name)
    try:
        notice = (folder / "NOTICE").read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"task {name!r} is a network that is not in {folder} yet; fetch it once with: make network ARGS={name}"
        ) from error
    task = read_task(folder / "task.yaml")
    if isinstance(task, TfliteTask):
        # the folder may have been copied
        task.model, task.labels = (str(folder / file) for file in ("network.tflite", "labels.txt"))
    logger.info("task %s: %s", name, " ".join(notice.split()))
    return task
