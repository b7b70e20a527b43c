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


def decode_flags(data, rows, cols):
    """Flags of `_native.decode_flags`, (rows, cols) uint8, on Python's integers of any size."""
    start = (1300, 13000, 26000, 39000, 50000, 60000)
    probability = [start[context.bit_count()] for context in range(32)]
    seen = [5] * 32
    low, high, at = 0, 2**32 - 1, 4
    value = int.from_bytes(data[:4].ljust(4, b"\0"), "big")
    # A margin of zeros stands for what is not there.
    flags = np.zeros((rows + 1, cols + 3), np.uint8)
    for row, col in np.ndindex(rows, cols):
        r, c = row + 1, col + 2
        around = (flags[r, c - 1], flags[r - 1, c], flags[r - 1, c - 1], flags[r - 1, c + 1], flags[r, c - 2])
        context = sum(int(flag) << bit for bit, flag in enumerate(around))
        p = probability[context]
        split = low + ((high - low) * p >> 16)
        flag = value <= split
        flags[r, c] = flag
        low, high = (low, split) if flag else (split + 1, high)
        p = p + (2**16 - p) // seen[context] if flag else p - p // seen[context]
        probability[context] = min(max(p, 2**16 // 512), 2**16 - 2**16 // 512)
        seen[context] = min(seen[context] + 1, 60)
        while low >> 24 == high >> 24:
            low, high = low << 8 & 0xFFFFFFFF, (high << 8 | 0xFF) & 0xFFFFFFFF
            value = (value << 8 | (data[at] if at < len(data) else 0)) & 0xFFFFFFFF
            at += 1
    return flags[1:, 2:-1]


def pair_bits(run, size):
    """About the bits of a run of zeros and a value of so many bits behind it, float32."""
    f = np.float32
    longest = f(min(run, 15))
    return f(run // 16) * f(11) + f(2) + f(1.6) * f(size) - f(1) + f(0.9) * np.sqrt(longest) * f(1.6) + f(size)


def block_bits(block, dc_before):
    """About the bits of a (64,) int16 block in zigzag order, float32."""
    bits = np.float32(2.5) + np.float32(abs(int(block[0]) - dc_before).bit_length())
    before = 0
    for k in np.flatnonzero(block[1:]) + 1:
        bits += pair_bits(k - before - 1, abs(int(block[k])).bit_length())
        before = k
    return bits + np.float32(3) if before < 63 else bits


def trimmed(coefficients, steps, price, block):
    """A (64,) int16 block in zigzag order without the AC coefficients that are not worth their bits, last first."""
    block = block.copy()
    following = None  # position and size of the coefficient behind
    f = np.float32
    for k in (np.flatnonzero(block[1:]) + 1)[::-1]:
        before = max((j for j in range(1, k) if block[j]), default=0)
        magnitude = abs(int(block[k]))
        size = magnitude.bit_length()
        c = abs(coefficients[k])
        error = c - f(magnitude) * steps[k]
        own = pair_bits(k - before - 1, size)
        behind = pair_bits(following[0] - k - 1, following[1]) if following else f(0)
        joined = pair_bits(following[0] - before - 1, following[1]) if following else f(0)
        if c * c - error * error < price * (own + behind - joined):
            block[k] = 0
            continue
        smaller = magnitude - 1
        if smaller and smaller.bit_length() < size:
            left = c - f(smaller) * steps[k]
            if left * left - error * error < price * (own - pair_bits(k - before - 1, size - 1)):
                block[k] = np.sign(block[k]) * smaller
                size -= 1
        following = (k, size)
    return block


def level_kept(blocks, kept, bound):
    """`_native.level_kept`: blocks in the order of the scan, region by region."""
    blocks = blocks.copy()
    across = 1 if blocks.shape[:2] == kept.shape else 2
    before = 0
    for row, col in np.ndindex(kept.shape):
        for down, right in np.ndindex(across, across):
            r, c = row * across + down, col * across + right
            if r >= blocks.shape[0] or c >= blocks.shape[1]:
                continue
            if kept[row, col] and abs(int(blocks[r, c, 0]) - before) <= bound:
                blocks[r, c, 0] = before
            before = int(blocks[r, c, 0])
    return blocks


def lit(plane, gain, offset, middle):
    """A plane with a gain in 1/256 beside 1, about its middle value, and an offset. Every step in whole numbers."""
    values = ((256 + gain) * (plane.astype(int) - middle) + 128) // 256 + middle + offset
    return np.clip(values, 0, 255).astype(np.uint8)


def shifted(plane, down, right):
    """`_native.shifted`: bilinear between samples, whose edges go on for ever. down, right: in eighths of a sample."""
    rows, cols = (8 * np.arange(side) - by for side, by in zip(plane.shape, (down, right), strict=True))

    def at(positions, size):
        first = np.floor_divide(positions, 8)
        return np.clip(first, 0, size - 1), np.clip(first + 1, 0, size - 1), positions - 8 * first

    (above, below, part_y), (left, beside, part_x) = at(rows, plane.shape[0]), at(cols, plane.shape[1])
    values = plane.astype(int)
    upper = values[above][:, left] * (8 - part_x) + values[above][:, beside] * part_x
    lower = values[below][:, left] * (8 - part_x) + values[below][:, beside] * part_x
    part_y = part_y[:, np.newaxis]
    return ((upper * (8 - part_y) + lower * part_y + 32) >> 6).astype(np.uint8)
