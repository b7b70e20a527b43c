"""Files of a camera's stream, for the tests of the server."""

from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

import rjpeg
from server.frames import BaseFile


class Stream(NamedTuple):
    """Files as a camera sends them, in order, and what is decoded of each: (H, W, 3) uint8 BGR."""

    files: list[rjpeg.EncodedFrame]
    decoded: list[rjpeg.DecodedFrame]

    def first(self, kind: str) -> int:
        """Place of the first file of a kind."""
        return next(place for place, file in enumerate(self.files) if file.kind == kind)

    def chain(self, place: int) -> list[int]:
        """Places of the files that one needs: its key, and then its patch."""
        base_id = self.files[place].base_id
        if base_id is None:
            return []
        [base] = [before for before in range(place) if self.files[before].id == base_id]
        return [*self.chain(base), base]

    def bases(self, place: int) -> tuple[BaseFile, ...]:
        """The files that one needs, as the store gives them. Ids of rows count from 1."""
        return tuple(
            BaseFile(frame_id=base + 1, file_id=self.files[base].id or "", jpeg=self.files[base].jpeg)
            for base in self.chain(place)
        )


def make_stream(background: npt.NDArray[np.uint8], count: int = 12) -> Stream:
    """Code a scene in which a square moves over a picture, and stays where it is for some frames.

    There are a key, followers on it, patches on it, and followers on these.
    """
    encoder, decoder = rjpeg.StreamEncoder(), rjpeg.StreamDecoder()
    files = []
    for number in range(count):
        frame = cv2.resize(background, (208, 160), interpolation=cv2.INTER_AREA)
        left = 8 + 16 * (number // 2 % 11)
        frame[40:72, left : left + 32] = 255 - frame[40:72, left : left + 32]
        # no two files are the same
        frame[144:, :16] = 20 * number
        files.append(encoder.encode(frame, quality=50))
    stream = Stream(files, [decoder.decode_with_details(file.jpeg) for file in files])
    assert files[0].kind == "key"
    assert {"follower", "patch"} <= {file.kind for file in files}
    assert any(len(stream.chain(place)) == 2 for place in range(count))
    return stream
