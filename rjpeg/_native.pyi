import numpy as np
from numpy.typing import NDArray

def forward_dct(plane: NDArray[np.uint8], block_rows: int, block_cols: int) -> NDArray[np.float32]: ...
def quantize(
    coefficients: NDArray[np.float32], steps: NDArray[np.float32], levels: NDArray[np.uint8], dead_zone: float
) -> NDArray[np.int16]: ...
def inverse_dct(
    quantized: NDArray[np.int16], steps: NDArray[np.float32], levels: NDArray[np.uint8]
) -> NDArray[np.uint8]: ...
def read_file(jpeg: bytes, max_pixels: int, segment_code: int, with_blocks: bool) -> dict: ...
def decode_plain(jpeg: bytes, max_pixels: int) -> NDArray[np.uint8]: ...
def write_file(
    width: int,
    height: int,
    blocks: list[NDArray[np.int16]],
    tables: list[NDArray[np.uint16]],
    sampling: list[tuple[int, int]],
    segments: list[tuple[int, bytes]],
) -> bytes: ...
