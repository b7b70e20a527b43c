"""The codec again, slowly and plainly in float64 NumPy: the oracle that the native one is held against."""

import cv2
import numpy as np

_K, _N = np.mgrid[:8, :8]
BASIS = np.sqrt(np.where(_K == 0, 1, 2) / 8) * np.cos((2 * _N + 1) * _K * np.pi / 16)
"""BASIS[k] is the k-th orthonormal DCT-II vector of length 8 (T.81, A.3.3)."""


def forward(plane, block_rows, block_cols):
    height, width = plane.shape
    missing = ((0, 8 * block_rows - height), (0, 8 * block_cols - width))
    padded = np.pad(plane.astype(np.float64) - 128, missing, mode="edge")
    blocks = padded.reshape(block_rows, 8, block_cols, 8).transpose(0, 2, 1, 3)
    return (BASIS @ blocks @ BASIS.T).reshape(block_rows, block_cols, 64)


def quantize(coefficients, steps, levels, dead_zone):
    step = steps[levels]
    offset = np.full(64, np.float32(0.5) - np.float32(dead_zone))
    offset[0] = 0.5
    index = np.floor(np.abs(coefficients) / step + offset)
    return (np.sign(coefficients) * np.minimum(index, 1023)).astype(np.int16)


def inverse(quantized, steps, levels):
    block_rows, block_cols = levels.shape
    blocks = (quantized * steps[levels].astype(np.float64)).reshape(block_rows, block_cols, 8, 8)
    samples = (BASIS.T @ blocks @ BASIS).transpose(0, 2, 1, 3).reshape(8 * block_rows, 8 * block_cols)
    return np.clip(np.floor(samples + 128.5), 0, 255).astype(np.uint8)


def frame_from_planes(planes, height, width, half_size_chroma):
    """OpenCV's joining of y, cb and cr, which may be larger than the frame by partial blocks."""
    y, cb, cr = planes
    if half_size_chroma:
        rows, cols = -(-height // 2), -(-width // 2)
        cb, cr = (
            cv2.resize(plane[:rows, :cols], (2 * cols, 2 * rows), interpolation=cv2.INTER_LINEAR) for plane in (cb, cr)
        )
    merged = cv2.merge([plane[:height, :width] for plane in (y, cr, cb)])
    return cv2.cvtColor(merged, cv2.COLOR_YCrCb2BGR)


def rice_decode(data, size, most):
    """Positions and differences of `_native.rice_decode`, on a string of bits; ValueError as there."""
    # A leading one keeps the zeros at the front; "0b1" is cut off again.
    bits = bin(int.from_bytes(b"\x01" + data, "big"))[3:]
    parameter, at = int(bits[:4] or "0", 2), 4
    position = -1
    positions = []
    differences = []
    while (end := bits.find("0", at)) >= 0:
        quotient = end - at
        at = end + 1 + parameter
        magnitude_end = bits.find("0", at + 1)
        if magnitude_end < 0:
            raise ValueError("are cut short")
        remainder = int(bits[end + 1 : at], 2) if parameter else 0
        position += 1 + (quotient << parameter) + remainder
        if position >= size or len(positions) >= most:
            raise ValueError(f"go beyond the map's {size} levels")
        positions.append(position)
        magnitude = magnitude_end - at
        differences.append(-magnitude if bits[at] == "1" else magnitude)
        at = magnitude_end + 1
    return positions, differences
