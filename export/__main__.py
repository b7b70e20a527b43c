"""`python -m export`: a checkpoint becomes a model folder that `rjpeg` reads, or nothing is written."""

import argparse
import json
import logging
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from numpy.typing import NDArray

import calibration_data
from export.calibration import features_of, read_pictures, restoration_features_of
from export.convert import ExportError, to_int8
from export.crossing import hard_inputs, runtimes_agree
from export.manifest import build_manifest, part_of
from export.parity import TEACHER_SIZE, compare, teacher_inputs, with_float_networks
from export.whole_numbers import to_whole_numbers
from rjpeg._arguments import run_program
from rjpeg._model import load_model
from rjpeg._runtime import Network, quantize_input
from rjpeg.errors import RjpegError
from train import checkpoints
from train.config import CODEC_FILE, load_codec
from train.disagreement import KINDS
from train.networks import macs_per_region, without_rescaling
from train.teachers import load_teacher

__all__ = ["check_budgets", "export", "main"]

# What a device affords: bytes of the file, multiply-adds of one region.
BUDGETS = {"generator": (300_000, 50_000), "predictor": (60_000, 10_000)}
# What int8 may cost: shares of levels, and relative to float the bytes and the teacher's divergence.
MIN_EQUAL, MIN_WITHIN_1 = 0.85, 0.995
MAX_BYTES_CHANGE, MAX_DIVERGENCE_CHANGE = 0.02, 0.1
# A larger divergence than float's is told from this share on.
NOTABLE = 0.01

# Not the shipped model's folder, so that an export changes no file that git tracks.
OUT = Path("out/model")

logger = logging.getLogger(__name__)


class Converted(NamedTuple):
    """Generator and predictor as int8 networks, by name. runtimes: those on which their integers are equal."""

    contents: dict[str, bytes]
    networks: dict[str, Network]
    macs: dict[str, int]
    runtimes: list[str]


def export(
    checkpoint: Path,
    out: Path,
    codec_file: Path,
    calibration: Path,
    teacher: str,
    outputs: str | Sequence[str] = "auto",
) -> dict[str, Any]:
    """Write a checkpoint as a model folder, and return its manifest.

    The folder gets generator.tflite, predictor.tflite, manifest.json and, if the checkpoint has one, restorer.tflite.
    teacher, outputs: as for `train.teachers.load_teacher`.

    Raises ExportError, with nothing written, when a network is over its budget or the int8 model is not close enough to
    the float one; RjpegError when an input can't be read.
    """
    settings = load_codec(codec_file)
    read = checkpoints.load_checkpoint(checkpoint)
    converted = _convert(read, list(features_of(read_pictures(calibration, "calibration"), settings)))
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".export-", dir=out.parent) as scratch:
            folder = Path(scratch)
            for name, content in converted.contents.items():
                (folder / f"{name}.tflite").write_bytes(content)
            manifest = build_manifest(
                out.name, converted.contents, converted.networks, converted.macs, settings, read.training, {}
            )
            (folder / "manifest.json").write_text(json.dumps(manifest), "utf-8")
            if read.restorer is not None:
                manifest["restorer"] = _add_restorer(folder, read.restorer, calibration)
                (folder / "manifest.json").write_text(json.dumps(manifest), "utf-8")
            logger.info("comparing with the float networks through the codec")
            pictures = read_pictures(calibration, "evaluation")
            judge = load_teacher(teacher, TEACHER_SIZE, outputs, teacher_inputs(pictures))
            parity = compare(with_float_networks(load_model(folder), read), load_model(folder), pictures, judge)
            check_parity(parity)
            manifest["parity"] = {**parity, "teacher": Path(teacher).name, "runtimes": converted.runtimes}
            (folder / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n", "utf-8")
            _move(folder, out)
    except OSError as error:
        raise ExportError(f"model folder {out} can't be written: {error.strerror or error}") from error
    return manifest


def _convert(read: checkpoints.Checkpoint, samples: list[tuple[NDArray, NDArray]]) -> Converted:
    """Convert generator and predictor to whole numbers. Raises ExportError.

    samples: features of both for real pictures, which calibrate the conversion. Together with hard inputs, they check
    that all runtimes give the same integers.
    """
    floats = {"generator": read.generator, "predictor": read.predictor}
    macs = {name: macs_per_region(network) for name, network in floats.items()}
    contents = {}
    for index, name in enumerate(floats):
        logger.info("converting the %s, calibrated on %d grids", name, len(samples))
        contents[name] = to_whole_numbers(floats[name], [features[index] for features in samples])
    check_budgets(contents, macs)
    networks = {name: Network(content, name=name) for name, content in contents.items()}
    runtimes: list[str] = []
    for index, (name, content) in enumerate(contents.items()):
        quantization = networks[name].input_quantization
        inputs = [quantize_input(features[index], quantization)[None] for features in samples]
        crossed = runtimes_agree(content, inputs + hard_inputs(inputs[0].shape[-1]))
        runtimes = crossed["runtimes"]
        if not crossed["equal"]:
            raise ExportError(f"{name}: outputs differ among the kernels of {' and '.join(runtimes)}")
    return Converted(contents, networks, macs, runtimes)


def _add_restorer(folder: Path, restorer: Any, calibration: Path) -> dict[str, Any]:
    """Convert the restorer, by the model in `folder`, and write it there. Return its part of the manifest."""
    logger.info("converting the restorer")
    coded = restoration_features_of(read_pictures(calibration, "calibration"), load_model(folder))
    content = to_int8(without_rescaling(restorer), coded)
    (folder / "restorer.tflite").write_bytes(content)
    return part_of("restorer", content, Network(content, name="restorer"), macs_per_region(restorer))


def _move(folder: Path, out: Path) -> None:
    """Move a model's files to `out`, and remove a restorer that was there."""
    out.mkdir(exist_ok=True)
    (out / "restorer.tflite").unlink(missing_ok=True)
    for name in ("generator.tflite", "predictor.tflite", "manifest.json", "restorer.tflite"):
        if (folder / name).exists():
            shutil.move(folder / name, out / name)


def check_budgets(contents: dict[str, bytes], macs: dict[str, int]) -> None:
    """Raise ExportError for a network that is too large or too slow for a device."""
    for name, (max_bytes, max_macs) in BUDGETS.items():
        if len(contents[name]) > max_bytes:
            raise ExportError(f"{name}: file has {len(contents[name])} bytes, the budget is {max_bytes}")
        if macs[name] > max_macs:
            raise ExportError(f"{name}: {macs[name]} multiply-adds per region, the budget is {max_macs}")


def check_parity(figures: dict[str, float]) -> None:
    """Raise ExportError for figures of `parity.compare` that are out of bounds."""
    if figures["levels_equal"] < MIN_EQUAL:
        raise ExportError(f"int8: {figures['levels_equal']:.1%} of the levels equal float's, expected {MIN_EQUAL:.1%}")
    if figures["levels_within_1"] < MIN_WITHIN_1:
        raise ExportError(
            f"int8: {figures['levels_within_1']:.2%} of the levels within one of float's, expected {MIN_WITHIN_1:.1%}"
        )
    if abs(figures["bytes_ratio"] - 1) > MAX_BYTES_CHANGE:
        raise ExportError(f"int8: files have {figures['bytes_ratio']:.3f} times float's bytes")
    for kind in ("divergence", "divergence_restored"):
        if f"{kind}_float" not in figures:
            continue
        most = figures[f"{kind}_float"] * (1 + MAX_DIVERGENCE_CHANGE)
        if figures[f"{kind}_int8"] > most:
            raise ExportError(
                f"int8: the teacher's {kind} is {figures[f'{kind}_int8']:.4f}, expected at most {most:.4f}"
            )


def build_parser() -> argparse.ArgumentParser:
    """Build the command line; its help shows every default."""
    parser = argparse.ArgumentParser(
        prog="python -m export",
        description="Turns a checkpoint into int8 TFLite networks and a manifest, if all checks pass.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--checkpoint", type=Path, default=checkpoints.FOLDER, help="folder that training wrote")
    parser.add_argument("--out", type=Path, default=OUT, help="model folder to write")
    parser.add_argument("--codec", type=Path, default=CODEC_FILE, help="base tables, map and coding sizes (YAML)")
    parser.add_argument(
        "--calibration", type=Path, default=calibration_data.FOLDER, help="folder of pictures with a manifest.json"
    )
    parser.add_argument(
        "--teacher",
        default="efficientnet-lite0",
        help="network that judges int8 against float: a name as in train, or a Keras file",
    )
    parser.add_argument(
        "--outputs",
        nargs="+",
        metavar="KIND",
        choices=KINDS,
        help="what the Keras file's outputs are, as importance.outputs in train/config.yaml (default: found out)",
    )
    parser.add_argument("--json", action="store_true", help="print the manifest in place of a table")
    return parser


def print_table(manifest: dict[str, Any]) -> None:
    """Print a row for each network, and the figures of int8 beside float."""
    rows = [("", "bytes", "MACs/region", "input scale", "output scale")]
    for name in filter(manifest.get, ("generator", "predictor", "restorer")):
        part = manifest[name]
        scales = (f"{part['input']['scale']:.4g}", f"{part['output']['scale']:.4g}")
        rows.append((name, str(part["bytes"]), _macs(part), *scales))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        print(
            "  ".join(
                cell.rjust(width) if number else cell.ljust(width)
                for number, (cell, width) in enumerate(zip(row, widths, strict=True))
            )
        )
    parity = manifest["parity"]
    agreement = ""
    if "agreement_int8" in parity:
        agreement = f", agreement {parity['agreement_int8']:.1%} (float {parity['agreement_float']:.1%})"
    print(
        f"int8 beside float, {parity['files']:.0f} files: {parity['levels_equal']:.1%} of levels equal, "
        f"{parity['levels_within_1']:.2%} within one, bytes x {parity['bytes_ratio']:.4f}, "
        f"divergence {parity['divergence_int8']:.4f} (float {parity['divergence_float']:.4f}){agreement}"
    )
    print(f"integers equal on {' and '.join(parity['runtimes'])}; model id {manifest['id']}")


def int8_losses(parity: dict[str, float]) -> list[str]:
    """Say in a line each what int8 does worse than float, by the figures of `parity.compare`; empty if nothing."""
    lines = []
    files = f"{parity['files']:.0f} files"
    if "agreement_int8" in parity and parity["agreement_int8"] < parity["agreement_float"]:
        lines.append(
            f"int8 agrees less than float: on {files} the judge's first choice stays for "
            f"{parity['agreement_int8']:.1%}, with float for {parity['agreement_float']:.1%}"
        )
    for kind, of in (("divergence", "decoded"), ("divergence_restored", "restored")):
        exact, integer = parity.get(f"{kind}_float"), parity.get(f"{kind}_int8")
        if exact is not None and integer is not None and integer > exact * (1 + NOTABLE):
            lines.append(
                f"int8 agrees less than float: on {files}, {of}, the judge's answers differ by {integer:.4f} nats, "
                f"with float by {exact:.4f}"
            )
    return lines


def _macs(part: dict[str, Any]) -> str:
    return str(part["macs_per_region"]) if "macs_per_region" in part else f"{part['macs_per_cell']} a 4x4 cell"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    args = build_parser().parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        manifest = export(
            args.checkpoint,
            args.out,
            args.codec,
            args.calibration,
            args.teacher,
            args.outputs or "auto",
        )
    except RjpegError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if args.json:
        print(json.dumps(manifest))
    else:
        print_table(manifest)
    for line in int8_losses(manifest["parity"]):
        logger.warning("%s", line)
    logger.info("%s is in %s", args.checkpoint, args.out)
    return 0


if __name__ == "__main__":
    sys.exit(run_program(main))
