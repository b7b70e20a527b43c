from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

def empty(shape: Sequence[int], dtype: np.dtype[Any]) -> NDArray[Any]: ...
def planes_from_bgr(
    frame: NDArray[np.uint8], y: NDArray[np.uint8], cb: NDArray[np.uint8], cr: NDArray[np.uint8]
) -> None: ...
def forward_dct(
    plane: NDArray[np.uint8], block_rows: int, block_cols: int, out: NDArray[np.float32] | None = None
) -> NDArray[np.float32]: ...
def quantize_regions(
    coefficients: list[NDArray[np.float32]],
    steps: tuple[NDArray[np.float32], NDArray[np.float32]],
    levels: NDArray[np.uint8],
    before: NDArray[np.uint8] | None,
    dead_zone: float,
    quantized: list[NDArray[np.int16]],
    masks: list[NDArray[np.uint64]],
) -> None: ...
def transform_and_quantize(
    plane: NDArray[np.uint8],
    steps: NDArray[np.float32],
    levels: NDArray[np.uint8],
    channel: int,
    dead_zone: float,
    quantized: NDArray[np.int16],
    masks: NDArray[np.uint64],
) -> None: ...
def picture_of(
    blocks: list[NDArray[np.int16]],
    steps: list[NDArray[np.float32]],
    levels: NDArray[np.uint8],
    half: bool,
    height: int,
    width: int,
) -> NDArray[np.uint8]: ...
def samples_of(
    blocks: NDArray[np.int16], steps: NDArray[np.float32], levels: NDArray[np.uint8], channel: int
) -> NDArray[np.uint8]: ...
def bgr_of(planes: list[NDArray[np.uint8]], half: bool, height: int, width: int) -> NDArray[np.uint8]: ...
def lay_tiles(
    tiles: list[NDArray[np.uint8]], sent: NDArray[np.uint8], reach: int, planes: list[NDArray[np.uint8]]
) -> None: ...
def picture_with_tiles(
    tiles: list[NDArray[np.uint8]],
    sent: NDArray[np.uint8],
    reach: int,
    planes: list[NDArray[np.uint8]],
    picture: NDArray[np.uint8],
) -> NDArray[np.uint8]: ...
def smooth_edges(plane: NDArray[np.uint8], sent: NDArray[np.uint8], reach: NDArray[np.uint8]) -> None: ...
def take_tiles(plane: NDArray[np.uint8], sent: NDArray[np.uint8], rows: int, cols: int) -> NDArray[np.uint8]: ...
def put_tiles(tiles: NDArray[np.uint8], sent: NDArray[np.uint8], plane: NDArray[np.uint8]) -> None: ...
def encode_flags(flags: NDArray[np.uint8]) -> bytes: ...
def decode_flags(data: bytes, rows: int, cols: int) -> NDArray[np.uint8]: ...
def add_squared_differences(
    a: NDArray[np.uint8], b: NDArray[np.uint8], weight: float, errors: NDArray[np.float32]
) -> None: ...
def shifted(plane: NDArray[np.uint8], down: int, right: int) -> NDArray[np.uint8]: ...
def level_kept(blocks: NDArray[np.int16], kept: NDArray[np.uint8], bound: int) -> None: ...
def trim(
    coefficients: NDArray[np.float32],
    quantized: NDArray[np.int16],
    masks: NDArray[np.uint64],
    steps: NDArray[np.float32],
    prices: NDArray[np.float32],
) -> None: ...
def add_costs(
    coefficients: NDArray[np.float32],
    quantized: NDArray[np.int16],
    masks: NDArray[np.uint64],
    steps: NDArray[np.float32],
    weight: float,
    errors: NDArray[np.float32],
    bits: NDArray[np.float32],
) -> None: ...
def dequantized_dc(coefficients: NDArray[np.float32], step: int) -> NDArray[np.int32]: ...
def generator_input(
    y: NDArray[np.float32],
    cb: NDArray[np.float32],
    cr: NDArray[np.float32],
    rate: int,
    scale: float,
    zero_point: int,
) -> NDArray[np.int8]: ...
def predictor_input(
    y: NDArray[np.int32], cb: NDArray[np.int32], cr: NDArray[np.int32], rate: int, scale: float, zero_point: int
) -> NDArray[np.int8]: ...
def levels_from_output(
    output: NDArray[np.int8], window: int, factor: float, offsets: tuple[float, float], most: int
) -> NDArray[np.uint8]: ...
def find_masks(blocks: NDArray[np.int16]) -> NDArray[np.uint64]: ...
def refined(
    predicted: NDArray[np.uint8],
    wanted: NDArray[np.uint8],
    blocks: list[NDArray[np.int16]],
    masks: list[NDArray[np.uint64]],
    losses: NDArray[np.float64],
    bits: float,
) -> NDArray[np.uint8] | None: ...
def checksum(blocks: list[NDArray[np.int16]], masks: list[NDArray[np.uint64]], crc: int) -> int: ...
def read_file(jpeg: bytes, max_pixels: int, segment_code: int, with_blocks: bool) -> dict: ...
def decode_plain(jpeg: bytes, max_pixels: int) -> NDArray[np.uint8]: ...
def region_bits(jpeg: bytes, max_pixels: int, region: int) -> NDArray[np.float64]: ...
def rice_encode(before: NDArray[np.uint8], after: NDArray[np.uint8], most: int) -> bytes | None: ...
def rice_decode(data: bytes, size: int, most: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]: ...
def write_file(
    width: int,
    height: int,
    blocks: list[NDArray[np.int16]],
    masks: list[NDArray[np.uint64]],
    tables: list[NDArray[np.uint16]],
    sampling: list[tuple[int, int]],
    segments: list[tuple[int, bytes]],
) -> bytes: ...
