"""How many bytes a picture's quantized coefficients take: exact enough forward, smooth backward.

The length of a baseline scan with optimized Huffman tables is, to within a percent or two, linear in three
numbers: how many AC coefficients are not zero, the sum of log2(1 + |q|) over them, and the sum of
log2(1 + |difference|) over successive DC terms. `fit` measures the weights on real files.
"""

from typing import NamedTuple

import numpy as np
from keras import ops

from train.twin import straight_through


class RateModel(NamedTuple):
    """Bits of a file = weights . (nonzeros, log2 magnitudes, log2 DC differences, blocks) + constant."""

    weights: tuple[float, float, float, float]
    constant: float
    r2: float


# Fitted by `python -m train.tune rate` to files of held-back photos; R2 beside the numbers.
DEFAULT = RateModel((4.2, 1.2, 1.3, 3.0), 2500.0, 0.0)


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
        n, rows, cols = quantized.shape[:3]
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
    return RateModel(tuple(float(value) for value in solution[:4]), float(solution[4]), float(r2))
