"""How many bytes a picture's quantized coefficients take: exact enough forward, smooth backward.

The length of a baseline scan with optimized Huffman tables is, to within a percent or two, linear in three
numbers: how many AC coefficients are not zero, the sum of log2(1 + |q|) over them, and the sum of
log2(1 + |difference|) over successive DC terms. `python -m train.rate --data FOLDER` fits the
weights to files that the encoder writes for held-back photos.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from keras import ops
from tqdm import tqdm

import rjpeg
from rjpeg import codec
from train.config import CONFIG_FILE, load_config
from train.dataset import coefficients
from train.photos import center_crop, is_held_back, list_photos, read_photo
from train.twin import straight_through


class RateModel(NamedTuple):
    """Bits of a file = weights . (nonzeros, log2 magnitudes, log2 DC differences, blocks) + constant."""

    weights: tuple[float, float, float, float]
    constant: float
    r2: float


# As `python -m train.rate` printed them.
DEFAULT = RateModel((2.523, 1.830, 1.248, 3.928), 2496.0, 0.9986)


def _dc_differences(quantized):
    """|difference| between successive DC terms in raster order within a row; the row's first against the row above."""
    dc = quantized[..., 0]
    first = ops.concatenate([dc[:, :1, :1], dc[:, 1:, :1] - dc[:, :-1, :1]], axis=1)
    return ops.abs(ops.concatenate([first, dc[:, :, 1:] - dc[:, :, :-1]], axis=2))


def statistics(components):
    """(N, 4) of quantized components [(N, block_rows, block_cols, 64), ...]: the features of `RateModel`.

    Exact forward. Backward a nonzero coefficient counts as the smooth min(|q|, 1), and log2(1 + |q|) as itself.
    """
    totals = []
    for quantized in components:
        magnitude = ops.abs(quantized[..., 1:])
        nonzero = straight_through(ops.cast(ops.abs(quantized[..., 1:]) > 0.5, "float32"), ops.minimum(magnitude, 1.0))
        rows, cols = quantized.shape[1:3]
        totals.append(
            ops.stack(
                [
                    ops.sum(nonzero, axis=(1, 2, 3)),
                    ops.sum(log2(1 + magnitude), axis=(1, 2, 3)),
                    ops.sum(log2(1 + _dc_differences(quantized)), axis=(1, 2)),
                    ops.full((ops.shape(quantized)[0],), float(rows * cols)),
                ],
                axis=-1,
            )
        )
    return sum(totals[1:], totals[0])


def log2(x):
    return ops.log(x) / float(np.log(2.0))


def bits(components, model: RateModel = DEFAULT):
    """Estimated length in bits (N,) of the files with these quantized components."""
    weights = ops.convert_to_tensor(np.array(model.weights, np.float32))
    return ops.sum(statistics(components) * weights, axis=-1) + model.constant


def fit(features: np.ndarray, lengths: np.ndarray) -> RateModel:
    """Least squares of file lengths in bits (n,) over `statistics` (n, 4); R2 is the share of variance explained."""
    design = np.concatenate([features, np.ones((len(features), 1))], axis=1).astype(np.float64)
    solution = np.linalg.lstsq(design, lengths, rcond=None)[0]
    residual = lengths - design @ solution
    r2 = 1 - residual.var() / lengths.var()
    nonzeros, magnitudes, differences, blocks, constant = (float(value) for value in solution)
    return RateModel((nonzeros, magnitudes, differences, blocks), constant, float(r2))


def measure(picture: np.ndarray, encoder: rjpeg.Encoder, quality: float) -> tuple[np.ndarray, int]:
    """`statistics` (4,) and the length in bits of the file of an RGB picture of whole regions."""
    size = (len(picture), len(picture[0]))
    encoded = encoder.encode_with_details(picture[..., ::-1], quality=quality, coding_size=size)
    components = []
    for index, component in enumerate(coefficients(picture)):
        channel = min(index, 1)
        steps = codec.level_steps(encoded.tables[channel], encoder.model.leveling.scales)
        levels = codec.block_levels(encoded.quality_map[..., channel], *component.shape[:2])
        quantized = codec.quantize(component, steps, levels, encoder.model.dead_zone)
        components.append(quantized[None].astype(np.float32))
    return ops.convert_to_numpy(statistics(components))[0], 8 * len(encoded.jpeg)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m train.rate",
        description="Fits the rate model to files of held-back photos; R2 is on photos that the fit has not seen.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--data", type=Path, required=True, metavar="FOLDER", help="the photos that were trained on")
    parser.add_argument(
        "--config", type=Path, default=CONFIG_FILE, help="training's configuration, for what is held back"
    )
    parser.add_argument("--model", metavar="FOLDER", help="model folder (default: the shipped one)")
    parser.add_argument("--photos", type=int, default=200, help="number of photos")
    arguments = parser.parse_args(argv)
    try:
        held_back = load_config(arguments.config).held_back
        encoder = rjpeg.Encoder(arguments.model)
        names = [name for name in list_photos(arguments.data) if is_held_back(name, held_back)][: arguments.photos]
        features, lengths = [], []
        for number, name in enumerate(tqdm(names, unit="photo")):
            for size in (128, 176, 224):
                picture = center_crop(read_photo(arguments.data / name), size)
                found = measure(picture, encoder, quality=(8, 15, 30, 60)[number % 4])
                features.append(found[0])
                lengths.append(found[1])
    except rjpeg.RjpegError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    table, bits_of = np.stack(features), np.array(lengths, float)
    half = len(bits_of) // 2
    model = fit(table[:half], bits_of[:half])
    estimate = table[half:] @ np.array(model.weights) + model.constant
    residual = bits_of[half:] - estimate
    r2 = 1 - residual.var() / bits_of[half:].var()
    deviation = np.abs(residual / bits_of[half:]).mean()
    print(f"{model}\n{len(bits_of) - half} other files: R2 {r2:.4f}, mean error {deviation:.2%}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
