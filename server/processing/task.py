"""Load the task that looks at decoded pictures: a TFLite network, a Keras classifier or a Python function."""

from server.processing.answer import Task
from server.processing.keras import KerasClassifier
from server.processing.networks import read_labels
from server.processing.python_function import load_function
from server.processing.segmenter import TfliteSegmenter
from server.processing.task_config import KerasTask, PythonTask, TaskConfig
from server.processing.tflite import TfliteClassifier, TfliteDetector

__all__ = ["load_task"]


def load_task(config: TaskConfig) -> Task:
    """Return the task that the settings describe, ready to be asked.

    Raises:
        ConfigError: labels or function can't be read or found, or Keras is not installed.
        ModelError: the network can't be read or is no such network.
    """
    if isinstance(config, PythonTask):
        return load_function(config.function)
    labels = read_labels(config.labels) if config.labels is not None else None
    low, high = config.input_range
    if isinstance(config, KerasTask):
        return KerasClassifier(config.model, labels, low=low, high=high, top=config.top, size=config.size)
    if config.network == "classifier":
        return TfliteClassifier(config.model, labels, low=low, high=high, top=config.top)
    if config.network == "segmenter":
        return TfliteSegmenter(config.model, labels, low=low, high=high)
    return TfliteDetector(config.model, labels, low=low, high=high, threshold=config.threshold, outputs=config.outputs)
