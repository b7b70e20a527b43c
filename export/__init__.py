"""Export of checkpoints to int8 TFLite: `python -m export --help`."""

from rjpeg._runtime import runtime_name

# As in train: before TensorFlow.
runtime_name()
