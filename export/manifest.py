"""The manifest of a model folder: everything that encoder and decoder must know beside the networks."""

import hashlib
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from rjpeg._model import MANIFEST_FORMAT, identity_of
from rjpeg._runtime import Network, Quantization
from train.config import CodecConfig

__all__ = ["build_manifest", "part_of"]

PACKAGES = ("rjpeg", "tensorflow", "tensorflow-cpu", "keras", "numpy", "tflite-runtime", "ai-edge-litert")


def build_manifest(
    name: str,
    contents: dict[str, bytes],
    networks: dict[str, Network],
    macs: dict[str, int],
    settings: CodecConfig,
    training: dict[str, Any],
    parity: dict[str, Any],
) -> dict[str, Any]:
    """Build manifest.json as a dictionary. contents, networks, macs: by "generator" and "predictor"."""
    parts = {part: part_of(part, content, networks[part], macs[part]) for part, content in contents.items()}
    decoder = {
        "predictor_sha256": parts["predictor"]["sha256"],
        "input": parts["predictor"]["input"],
        "output": parts["predictor"]["output"],
        "level_scales": [2.0 ** (level / settings.levels_per_octave) for level in range(settings.levels)],
        "center_levels": list(settings.center_levels),
        "map_gain": settings.map_gain,
        "fade_octaves": settings.fade_octaves,
        "map_window": settings.map_window,
    }
    return {
        "format": MANIFEST_FORMAT,
        "name": name,
        "id": identity_of(decoder),
        "decoder": decoder,
        **parts,
        "base_tables": {"luma": list(settings.base_tables.luma), "chroma": list(settings.base_tables.chroma)},
        "dead_zone": settings.dead_zone,
        "refinement_bits": settings.refinement_bits,
        "frame_refinement_bits": settings.frame_refinement_bits,
        "coding_sizes": [list(row) for row in settings.coding_sizes],
        "quality_coding_sizes": [list(row) for row in settings.quality_coding_sizes],
        "negligible_energies": [list(row) for row in settings.negligible_energies],
        "edge_reach": settings.edge_reach,
        "training": training,
        "parity": parity,
        "versions": _versions(),
    }


def part_of(name: str, content: bytes, network: Network, macs: int) -> dict[str, Any]:
    """Return what the manifest says of one network: its file, and how its integers are meant."""
    return {
        "file": f"{name}.tflite",
        "sha256": hashlib.sha256(content).hexdigest(),
        "bytes": len(content),
        "macs_per_region" if name != "restorer" else "macs_per_cell": macs,
        "input_shape": list(network.input_shape),
        "input": _scale(network.input_quantization),
        "output": _scale(network.output_quantization),
    }


def _scale(quantization: Quantization) -> dict[str, float | int]:
    return {"scale": float(quantization.scale), "zero_point": int(quantization.zero_point)}


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
