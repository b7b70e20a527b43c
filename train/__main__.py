"""`python -m train`: photos become a checkpoint of a generator and a predictor."""

import argparse
import json
import logging
import os
import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

from rjpeg._arguments import run_program
from rjpeg.errors import ConfigError, RjpegError
from train.config import CODEC_FILE, CONFIG_FILE, load_codec, load_config

__all__ = ["main"]


def build_parser() -> argparse.ArgumentParser:
    """Build the command line; its help shows every default."""
    parser = argparse.ArgumentParser(
        prog="python -m train",
        description="Trains a generator and a predictor on a folder of photographs, without labels. Started again "
        "with the same arguments it continues where it stopped.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument(
        "--data", type=Path, nargs="+", required=True, metavar="FOLDER", help="photographs, in subfolders too"
    )
    parser.add_argument("--config", type=Path, default=CONFIG_FILE, help="training's configuration (YAML)")
    parser.add_argument("--codec", type=Path, default=CODEC_FILE, help="base tables and map (YAML)")
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("out/train"),
        metavar="FOLDER",
        help="where importance, logs and stages go, and the checkpoint at the end",
    )
    parser.add_argument(
        "--teacher",
        action="extend",
        nargs="+",
        metavar="NAME",
        default=None,
        help="networks to learn from: detector, efficientnet-lite0, -lite1, -lite2, Keras or ONNX files (default: the "
        "configuration's)",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        dest="overrides",
        help="another value for a key of the configuration, such as importance.rounds=2; may be repeated",
    )
    parser.add_argument(
        "--workers",
        metavar="HOST:PORT,...",
        help="machines that train together, the same list on each; sets TF_CONFIG, which is honored as well",
    )
    parser.add_argument("--worker", type=int, metavar="N", help="which of --workers this machine is, from 0")
    parser.add_argument(
        "--patience",
        type=float,
        default=1800.0,
        metavar="SECONDS",
        help="how long to wait for other workers without a sign of them",
    )
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    return parser


def parse_overrides(texts: Sequence[str]) -> dict[str, object]:
    """Parse ["a.b=1"] into {"a.b": 1}, values read as YAML. Raises ConfigError."""
    overrides: dict[str, object] = {}
    for text in texts:
        key, separator, value = text.partition("=")
        if not separator:
            raise ConfigError(f"--set {text}: expected KEY=VALUE")
        try:
            overrides[key] = msgspec.yaml.decode(value.encode())
        except (msgspec.DecodeError, ValueError) as error:
            raise ConfigError(f"--set {text}: value is not YAML: {error}") from error
    return overrides


def name_workers(workers: str | None, index: int | None) -> None:
    """Set TF_CONFIG from the command line's list and index. Raises ConfigError."""
    if workers is None and index is None:
        return
    hosts = [host.strip() for host in (workers or "").split(",")]
    for host in hosts:
        if not re.fullmatch(r".+:\d{1,5}", host):
            raise ConfigError(f"--workers {workers}: {host!r} is not HOST:PORT")
    if index is None or not 0 <= index < len(hosts):
        raise ConfigError(f"--worker {index}: expected 0 to {len(hosts) - 1}, this machine's place in --workers")
    os.environ["TF_CONFIG"] = json.dumps({"cluster": {"worker": hosts}, "task": {"type": "worker", "index": index}})


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    args = build_parser().parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    # Into the checkpoint goes what was asked for, but not where it lay on this machine.
    parts = ["--data", *(folder.resolve().name for folder in args.data)]
    parts += ["--config", args.config.name, "--codec", args.codec.name]
    parts += [part for teacher in args.teacher or [] for part in ("--teacher", Path(teacher).name)]
    parts += [part for override in args.overrides for part in ("--set", override)]
    command = shlex.join(["python", "-m", "train", *parts])
    try:
        overrides = parse_overrides(args.overrides)
        if args.teacher:
            overrides["importance.teachers"] = args.teacher
        config, codec = load_config(args.config, overrides), load_codec(args.codec)
        name_workers(args.workers, args.worker)
        if args.patience <= 0:
            raise ConfigError(f"--patience {args.patience:g}: expected more than 0 seconds")
        # TensorFlow takes seconds to load. Mistakes above should not wait for it.
        from train.training import train
        from train.workers import join

        figures = train(args.data, config, codec, args.out, command, join(args.patience))
    except RjpegError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; the same command continues", file=sys.stderr)
        return 130
    if args.json:
        print(json.dumps(figures))
    else:
        for network, (luma, chroma) in figures["correlation"].items():
            print(f"{network}: correlation with importance on held-back photos {luma:.3f} luma, {chroma:.3f} chroma")
        speeds = ", ".join(f"{stage} {speed:g}" for stage, speed in figures["pictures_per_second"].items())
        print(f"pictures per second: {speeds}")
        checkpoint = args.out / "checkpoint"
        print(f"checkpoint in {checkpoint}; next: {export_command(checkpoint, args.codec)}")
    return 0


def export_command(checkpoint: Path, codec: Path) -> str:
    """Return the command that exports a checkpoint, with the file of tables and map that it was trained with."""
    parts = ["--checkpoint", str(checkpoint)]
    if codec != CODEC_FILE:
        parts += ["--codec", str(codec)]
    return f"make export-tflite ARGS={shlex.quote(shlex.join(parts))}"


if __name__ == "__main__":
    sys.exit(run_program(main))
