"""Training's configuration: one YAML file, strict about its keys. train/config.yaml says what each one means."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import msgspec

from rjpeg.errors import ConfigError

__all__ = [
    "CODEC_FILE",
    "CONFIG_FILE",
    "CodecConfig",
    "Config",
    "DistillConfig",
    "ImportanceConfig",
    "NetworkConfig",
    "load_codec",
    "load_config",
]

Positive = Annotated[int, msgspec.Meta(ge=1)]
Count = Annotated[int, msgspec.Meta(ge=0)]
Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
Rate = Annotated[float, msgspec.Meta(gt=0)]
Quality = Annotated[int, msgspec.Meta(ge=1, le=100)]
CodingSize = Annotated[int, msgspec.Meta(ge=16, multiple_of=16)]


class _Struct(msgspec.Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    pass


class ImportanceConfig(_Struct, frozen=True):
    """How the teachers' importance is measured."""

    teachers: tuple[str, ...]
    crop_size: CodingSize
    crop_area: tuple[Share, Share]
    coding_sizes: tuple[CodingSize, ...]
    quality: tuple[Quality, Quality]
    rounds: Positive
    detail_area: tuple[Share, Share]
    detail_rounds: Count
    batch: Positive
    shard: Positive
    outputs: Literal["auto"] | tuple[Literal["classes", "scores", "values", "ignore"], ...]
    crop_sides: tuple[CodingSize, ...] = ()
    points: Annotated[tuple[Share, ...], msgspec.Meta(min_length=1)] = (1.0,)
    blur: Annotated[float, msgspec.Meta(ge=0)] = 0.0


class NetworkConfig(_Struct, frozen=True):
    """Size of a network. kernel, stem_kernel: sides of its convolutions, in regions."""

    width: Positive
    blocks: Positive
    kernel: Positive
    stem_kernel: Positive


class DistillConfig(_Struct, frozen=True):
    """How a network is trained. generator_share: share of the generator's maps in its targets, 0..1."""

    epochs: Positive
    batch: Positive
    learning_rate: Rate
    weight_decay: Annotated[float, msgspec.Meta(ge=0)]
    huber: Rate
    generator_share: Share = 0.0


class Config(_Struct, frozen=True):
    """All of a run. held_back: share of the photos that is not trained on."""

    seed: Count
    held_back: Annotated[float, msgspec.Meta(gt=0, lt=1)]
    importance: ImportanceConfig
    generator: NetworkConfig
    predictor: NetworkConfig
    distill_generator: DistillConfig
    distill_predictor: DistillConfig


Steps = Annotated[tuple[Annotated[float, msgspec.Meta(gt=0)], ...], msgspec.Meta(min_length=64, max_length=64)]
# odd, so that a region lies in the middle of it
Window = Annotated[int, msgspec.Meta(ge=1, le=2**16 - 1)]
Ladder = Annotated[
    tuple[tuple[float | None, Annotated[float, msgspec.Meta(gt=0, le=1)]], ...], msgspec.Meta(min_length=1)
]


class BaseTables(_Struct, frozen=True):
    """The 64 steps at quality 50, in natural order."""

    luma: Steps
    chroma: Steps


class CodecConfig(_Struct, frozen=True):
    """What goes into the manifest beside the networks; train/codec.yaml says what each key means."""

    levels: Annotated[int, msgspec.Meta(ge=2, le=256)]
    levels_per_octave: Positive
    center_levels: tuple[Count, Count]
    map_gain: Annotated[float, msgspec.Meta(ge=0)]
    fade_octaves: Rate
    map_window: Window | None
    dead_zone: Annotated[float, msgspec.Meta(ge=0, lt=0.5)]
    refinement_bits: Annotated[float, msgspec.Meta(ge=0)]
    frame_refinement_bits: Annotated[float, msgspec.Meta(ge=0)]
    coding_sizes: Ladder
    quality_coding_sizes: Ladder
    negligible_energies: Ladder
    edge_reach: Annotated[float, msgspec.Meta(ge=0, le=4)]
    base_tables: BaseTables


CODEC_FILE = Path(__file__).parent / "codec.yaml"
CONFIG_FILE = Path(__file__).parent / "config.yaml"

T = TypeVar("T")


def load_config(path: Path, overrides: Mapping[str, object] | None = None) -> Config:
    """Read train/config.yaml or a file like it; `overrides` maps dotted keys ("importance.rounds") to values.

    Raises ConfigError that names the file and the key for anything missing, unknown or out of range.
    """
    return _load(path, Config, overrides or {})


def load_codec(path: Path) -> CodecConfig:
    """Read train/codec.yaml or a file like it. Raises ConfigError, as `load_config`."""
    return _load(path, CodecConfig, {})


def _load(path: Path, kind: type[T], overrides: Mapping[str, object]) -> T:
    try:
        tree = msgspec.yaml.decode(path.read_bytes())
    except OSError as error:
        raise ConfigError(f"configuration {path}: {error.strerror}") from error
    except (msgspec.DecodeError, ValueError) as error:
        raise ConfigError(f"configuration {path}: not YAML: {error}") from error
    if not isinstance(tree, dict):
        raise ConfigError(f"configuration {path}: expected keys and values, found {type(tree).__name__}")
    for key, value in overrides.items():
        *parents, last = key.split(".")
        node: object = tree
        for parent in parents:
            node = node.get(parent) if isinstance(node, dict) else None
        if not isinstance(node, dict) or last not in node:
            raise ConfigError(f"configuration {path} has no key {key}")
        node[last] = value
    try:
        return msgspec.convert(tree, kind)
    except msgspec.ValidationError as error:
        raise ConfigError(f"configuration {path}: {error}") from error
