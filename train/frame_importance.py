"""What matters where in a whole frame: how much an error there would change what a teacher sees.

A coarse JPEG of the frame says what errors are like, or what is shown in the frame's place. The gradient of the
teacher's disagreement with its answer on the frame (`train.disagreement`) is taken at a few points of the way from the
frame to that. Its square, summed over a region, is the region's importance. It is absolute: a frame with nothing in it
has little of it everywhere.

A teacher sees frames at their own scale, in tiles of its input's size that overlap.
"""

from collections.abc import Iterator, Sequence

import cv2
import numpy as np
from keras import ops

from rjpeg.errors import InputError
from train.disagreement import divergence, parameters
from train.importance import REGION, jpeg_round_trip, region_energy, teacher_gradient
from train.teachers import Teacher

__all__ = ["FrameImportance", "joined"]

QUALITY = 25
# of the way from the frame to its JPEG; at the frame itself the disagreement is least, so the gradient is 0
POINTS = (0.5, 1.0)
# octaves of a squared gradient below which nothing is told apart
FLOOR = 1e-60
# what detectors fill the rest of their input with
GRAY = 114

Window = tuple[slice, slice]


class FrameImportance:
    """Measures the importance of whole frames for one teacher. For one thread.

    Args:
        teacher: its input has a fixed size, of whole regions (`train.teachers.load_teacher` with size=None).
        quality: IJG quality of the coarse JPEG.
        points: where on the way to it gradients are taken, above 0 to 1.
        blur: standard deviation of the blur of the octaves, in regions; 0: none.

    Raises:
        InputError: the teacher's input is not of whole regions.
    """

    def __init__(
        self, teacher: Teacher, quality: int = QUALITY, points: Sequence[float] = POINTS, blur: float = 1.0
    ) -> None:
        height, width = teacher.input_shape[1:3]
        if height % REGION or width % REGION:
            raise InputError(f"teacher {teacher.name}: input is {width}x{height}, expected multiples of {REGION}")
        self._teacher, self._size = teacher, (int(height), int(width))
        self._quality, self._points, self._blur = quality, np.asarray(points, np.float32), blur
        self._slope = teacher_gradient(teacher)

    def __call__(self, frame: np.ndarray, shown: np.ndarray | None = None) -> np.ndarray:
        """Return the importance of a frame, (rows, cols, 2) float32: octaves for luma and chroma, not centered.

        frame: (H, W, 3) uint8 RGB. The grid covers it: ceil(H / 16) rows, ceil(W / 16) columns. shown: what is shown in
        its place, alike; None: the coarse JPEG.
        """
        rows, cols = (-(-side // REGION) for side in frame.shape[:2])
        coded = jpeg_round_trip(frame, self._quality) if shown is None else shown
        shape = self._shape(frame)
        clean, coarse = (_padded(picture, shape) for picture in (frame, coded))
        total = np.zeros((shape[0] // REGION, shape[1] // REGION, 2))
        times = np.zeros((*total.shape[:2], 1))
        for window, regions in self._windows(shape):
            total[regions] += self._tile(clean[window], coarse[window])
            times[regions] += 1
        octaves = np.log2(total / times + FLOOR).astype(np.float32)[:rows, :cols]
        if self._blur:
            octaves = cv2.GaussianBlur(octaves, (0, 0), self._blur, borderType=cv2.BORDER_REPLICATE)
        return octaves

    def disagreement(self, frame: np.ndarray, shown: np.ndarray) -> float:
        """Measure how far the teacher's answer on what is shown is from that on the frame, in nats over all tiles.

        frame, shown: (H, W, 3) uint8 RGB of one size.
        """
        shape = self._shape(frame)
        kinds, answers = self._teacher.kinds, []
        for picture in (frame, shown):
            padded = _padded(picture, shape)
            tiles = np.stack([padded[window] for window, _ in self._windows(shape)])
            answers.append(parameters(kinds, self._teacher.predict_on_batch(tiles)))
        return float(ops.convert_to_numpy(divergence(kinds, *answers)).sum())

    def _shape(self, frame: np.ndarray) -> list[int]:
        """Return height and width to which a frame is padded: whole regions, and no less than a tile."""
        return [max(-(-side // REGION) * REGION, tile) for side, tile in zip(frame.shape[:2], self._size, strict=True)]

    def _windows(self, shape: Sequence[int]) -> Iterator[tuple[Window, Window]]:
        """Go through the tiles: where each lies in pixels, and in regions."""
        for top in _starts(shape[0], self._size[0]):
            for left in _starts(shape[1], self._size[1]):
                window = slice(top, top + self._size[0]), slice(left, left + self._size[1])
                rows, cols = (slice(one.start // REGION, one.stop // REGION) for one in window)
                yield window, (rows, cols)

    def _tile(self, clean: np.ndarray, coarse: np.ndarray) -> np.ndarray:
        """Return the sums of the squared gradients in a tile's regions, (rows, cols, 2), over luma and chroma."""
        answer = self._teacher.predict_on_batch(clean[None])
        reference = parameters(self._teacher.kinds, answer)
        way = clean + self._points[:, None, None, None] * (coarse - clean)
        repeated = [np.repeat(ops.convert_to_numpy(one), len(way), 0) for one in reference]
        _, slope = self._slope(way, *repeated)
        return region_energy(ops.convert_to_numpy(slope)).mean(0)


def joined(octaves: Sequence[Sequence[np.ndarray]]) -> list[np.ndarray]:
    """Join the importance that several teachers found in the same frames, (rows, cols, ...) each. Return it by frame.

    Each teacher counts alike: its mean octave, over all frames, becomes 0. Then importance is averaged.
    """
    means = [float(np.mean([frame.mean() for frame in one])) for one in octaves]
    return [
        np.log2(np.mean([np.exp2(each - mean) for each, mean in zip(frame, means, strict=True)], axis=0))
        for frame in zip(*octaves, strict=True)
    ]


def _padded(picture: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    bottom, right = (length - side for length, side in zip(shape, picture.shape[:2], strict=True))
    return cv2.copyMakeBorder(picture, 0, bottom, 0, right, cv2.BORDER_CONSTANT, value=(GRAY,) * 3).astype(np.float32)


def _starts(length: int, tile: int) -> list[int]:
    """Return where the fewest tiles begin that cover a length, spread evenly, at regions. All are multiples of 16."""
    count = -(-length // tile)
    last = length - tile
    return [round(number * last / max(1, count - 1) / REGION) * REGION for number in range(count)]
