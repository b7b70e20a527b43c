"""A model folder: int8 networks, and a manifest that says how their outputs become tables and levels."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rjpeg import _tables as tables
from rjpeg._codec import is_whole_frame
from rjpeg._features import GENERATOR_CHANNELS, PREDICTOR_CHANNELS
from rjpeg._maps import MapQuantizer
from rjpeg._restoration import CHANNELS as RESTORER_CHANNELS
from rjpeg._runtime import Network, Quantization
from rjpeg.errors import ModelError

__all__ = ["DEFAULT_FOLDER", "MANIFEST_FORMAT", "Model", "identity_of", "load_model"]

MANIFEST_FORMAT = 1
DEFAULT_FOLDER = Path(__file__).parent / "models" / "default"


@dataclass(frozen=True)
class Model:
    """A loaded model folder.

    identity: the two bytes that a file's marker carries.
    base_tables: luma and chroma, (64,) float64 in natural order, for quality 50.
    dead_zone: 0..0.5. AC terms are sign(c) * floor(|c| / step + 0.5 - dead_zone), DC is plainly rounded.
    refinement_bits: what one of the generator's levels must save over the predictor's to be written into the marker.
    frame_refinement_bits: the same in whole frames. If the manifest has none, it is the same.
    sizes_by_rate, sizes_by_quality: (upper bound, fraction of the frame's sides) in rising order, the last bound
    infinite. Bounds are bpp and IJG quality.
    negligible_energies: (upper bound, share) in rising order, the last bound infinite. Bounds are pixels of the frame;
    of shares see `Sizing.index_for_detail`. If the manifest has none, nothing is negligible.
    edge_reach: in whole frames, differences across the edges of blocks are smoothed if they are below that share of the
    mean quantization step. If the manifest has none, they stay.
    threads: for the generator and the restorer.
    """

    folder: Path
    manifest: dict[str, Any]
    identity: bytes
    map_quantizer: MapQuantizer
    base_tables: tuple[NDArray[np.float64], NDArray[np.float64]]
    dead_zone: float
    refinement_bits: float
    frame_refinement_bits: float
    sizes_by_rate: tuple[tuple[float, float], ...]
    sizes_by_quality: tuple[tuple[float, float], ...]
    negligible_energies: tuple[tuple[float, float], ...]
    edge_reach: float
    threads: int

    @cached_property
    def mean_base_step(self) -> float:
        """Mean step of the luma base table, which means quality 50."""
        return float(np.mean(self.base_tables[0]))

    def mean_step_at(self, quality: float) -> float:
        """Return the mean luma step at an IJG quality of 1..100, before it is rounded to a table."""
        return self.mean_base_step * tables.percent_of_quality(quality) / 100.0

    @cached_property
    def coding_fractions(self) -> tuple[float, ...]:
        """Coding sizes that a frame may get, as fractions of its sides, rising."""
        return tuple(sorted({fraction for _, fraction in (*self.sizes_by_rate, *self.sizes_by_quality)}))

    @cached_property
    def predictor(self) -> Network:
        """The predictor. Its integers are the same on all kernels, so every machine reads the same map from a file."""
        content = _checked(
            self.folder / self.manifest["predictor"]["file"], self.manifest["decoder"]["predictor_sha256"]
        )
        network = Network(content, name=str(self.folder / "predictor"))
        stated = (self.manifest["decoder"]["input"], self.manifest["decoder"]["output"])
        return _expect_int8(network, PREDICTOR_CHANNELS, stated)

    @cached_property
    def generator(self) -> Network:
        """The generator."""
        part = self.manifest["generator"]
        content = _checked(self.folder / part["file"], part["sha256"])
        network = Network(content, name=str(self.folder / "generator"), threads=self.threads)
        return _expect_int8(network, GENERATOR_CHANNELS, (part["input"], part["output"]))

    @cached_property
    def restorer(self) -> Network:
        """The restorer. Raises ModelError if the model has none."""
        if "restorer" not in self.manifest:
            raise ModelError(f"model {self.folder} has no restorer: decode without, or export one")
        part = self.manifest["restorer"]
        content = _checked(self.folder / part["file"], part["sha256"])
        network = Network(content, name=str(self.folder / "restorer"), threads=self.threads)
        return _expect_int8(network, RESTORER_CHANNELS, (part["input"], part["output"]))

    def refinement_bits_for(self, frame_size: tuple[int, int]) -> float:
        """Return `refinement_bits`, or `frame_refinement_bits`, for frames of this size, (height, width)."""
        return self.frame_refinement_bits if is_whole_frame(frame_size) else self.refinement_bits

    def edge_reach_for(self, frame_size: tuple[int, int]) -> float:
        """Return `edge_reach` for frames of this size, (height, width); 0 for one that is no whole frame."""
        return self.edge_reach if is_whole_frame(frame_size) else 0.0


def identity_of(decoder: dict[str, Any]) -> str:
    """Return eight hex digits that name all that a decoder must know to read a model's files.

    decoder: the manifest's "decoder".
    """
    canonical = json.dumps(decoder, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:8]


def load_model(folder: str | os.PathLike[str] | None = None, *, threads: int = 1) -> Model:
    """Read a model folder as `make export-tflite` writes it. None is the shipped one.

    threads: for the generator and the restorer. The networks are loaded, and checked against their sha256, when they
    are first used. Raises ModelError if a file is missing, damaged or of another format.
    """
    folder = Path(folder) if folder is not None else DEFAULT_FOLDER
    path = folder / "manifest.json"
    try:
        manifest = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise ModelError(f"model manifest {path} can't be read: {error.strerror or error}") from error
    except ValueError as error:
        raise ModelError(f"model manifest {path} is no JSON: {error}") from error
    try:
        return _model_of(folder, manifest, threads)
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise ModelError(f"model manifest {path} is incomplete or wrong: {error!r}") from error


def _model_of(folder: Path, manifest: dict[str, Any], threads: int) -> Model:
    if manifest["format"] != MANIFEST_FORMAT:
        raise ModelError(f"model manifest in {folder} has format {manifest['format']}, expected {MANIFEST_FORMAT}")
    decoder = manifest["decoder"]
    identity = identity_of(decoder)
    if manifest["id"] != identity:
        raise ModelError(f"model manifest in {folder} has id {manifest['id']}, but its contents give {identity}")
    scales = np.array(decoder["level_scales"], np.float64)
    centers = (int(decoder["center_levels"][0]), int(decoder["center_levels"][1]))
    window = None if decoder["map_window"] is None else int(decoder["map_window"])
    if window is not None and window not in range(1, 2**16, 2):
        raise ModelError(
            f"model manifest in {folder}: map_window is {window}, expected an odd number of regions or null"
        )
    rising = 2 <= scales.size <= 256 and scales[0] == 1 and np.all(np.diff(scales) > 0)
    if not rising or not all(0 <= center < scales.size for center in centers):
        raise ModelError(f"model manifest in {folder}: level_scales must rise from 1 and hold center_levels")
    luma, chroma = (np.array(manifest["base_tables"][name], np.float64) for name in ("luma", "chroma"))
    if luma.shape != (64,) or chroma.shape != (64,) or min(luma.min(), chroma.min()) <= 0:
        raise ModelError(f"model manifest in {folder}: base_tables must be 64 positive steps each")
    of_frames = {
        "refinement_bits": float(manifest["refinement_bits"]),
        "frame_refinement_bits": float(manifest.get("frame_refinement_bits", manifest["refinement_bits"])),
        "edge_reach": float(manifest.get("edge_reach", 0.0)),
    }
    for name, value in of_frames.items():
        if not 0 <= value < float("inf"):
            raise ModelError(f"model manifest in {folder}: {name} is {value}, expected 0 or more")
    return Model(
        folder=folder,
        manifest=manifest,
        identity=bytes.fromhex(identity)[:2],
        map_quantizer=MapQuantizer(scales, centers, float(decoder["map_gain"]), float(decoder["fade_octaves"]), window),
        base_tables=(luma, chroma),
        dead_zone=float(manifest["dead_zone"]),
        sizes_by_rate=_ladder(manifest["coding_sizes"]),
        sizes_by_quality=_ladder(manifest["quality_coding_sizes"]),
        negligible_energies=_ladder(manifest.get("negligible_energies", [[None, 0.0]])),
        **of_frames,
        threads=threads,
    )


def _ladder(rows: list[tuple[float | None, float]]) -> tuple[tuple[float, float], ...]:
    """Return rows of (upper bound or null, fraction 0..1), checked to rise. The last one has no bound."""
    ladder = tuple((float("inf") if bound is None else float(bound), float(fraction)) for bound, fraction in rows)
    for (bound, fraction), (next_bound, next_fraction) in itertools.pairwise(ladder):
        if not (bound < next_bound and 0 < fraction <= next_fraction <= 1):
            raise ValueError(f"{rows} do not rise")
    return (*ladder[:-1], (float("inf"), ladder[-1][1]))


def _checked(path: Path, sha256: str) -> bytes:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ModelError(f"network {path} can't be read: {error.strerror or error}") from error
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        raise ModelError(f"network {path} has sha256 {found[:12]}..., the manifest says {sha256[:12]}...")
    return content


def _expect_int8(network: Network, channels: int, stated: tuple[dict[str, Any], dict[str, Any]]) -> Network:
    if network.input_dtype != np.int8 or network.output_dtype != np.int8 or network.input_shape[-1] != channels:
        raise ModelError(
            f"{network.name}: {network.input_dtype} input {network.input_shape} and {network.output_dtype} output, "
            f"expected int8 with {channels} channels"
        )
    for found, wanted in zip((network.input_quantization, network.output_quantization), stated, strict=True):
        if not np.allclose(found.scale, wanted["scale"], rtol=1e-6) or found.zero_point != wanted["zero_point"]:
            raise ModelError(f"{network.name}: quantization {tuple(found)}, the manifest says {wanted}")
    network.input_quantization, network.output_quantization = (
        Quantization(float(part["scale"]), int(part["zero_point"])) for part in stated
    )
    return network
