"""Training of the generator and the predictor: `python -m train --help`."""

from rjpeg._runtime import runtime_name

# tflite-runtime 2.14 constructs no interpreter in a process that imported TensorFlow before it; the other way
# round both work. So the runtime comes first.
runtime_name()
