"""Export of checkpoints to int8 TFLite: `python -m export --help`."""

from rjpeg.runtime import runtime_name

# As in train: before TensorFlow.
runtime_name()
