"""Codecs that take a clip's frames one after another, behind one face, and those that know nothing of a stream."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from evaluate.codecs import Codec, make_codec
from evaluate.streams.clips import Clip
from train.framing import resize

__all__ = ["Coded", "Pictures", "StreamCodec"]


@dataclass(frozen=True)
class Coded:
    """A frame as it is sent, and as it is seen after it: (H, W, 3) uint8 BGR of the clip's size.

    size: bytes of the file or of the packets. kind: "key" for one that later frames refer to, "picture" for one to
    which none does.
    """

    size: int
    frame: np.ndarray
    kind: Literal["key", "patch", "follower", "picture"]


class StreamCodec(ABC):
    """A codec at one set of options.

    `settings` go from few bytes to many. A file has one key, if the codec has keys. `version` is what results depend
    on besides.
    """

    name: str
    version: str
    settings: Sequence[float]

    @abstractmethod
    def run(self, clip: Clip, setting: float) -> list[Coded]:
        """Code all frames of a clip at a setting, which need not be one of `settings`."""


class Pictures(StreamCodec):
    """A codec of `evaluate.codecs`, frame by frame. Raises as `make_codec`."""

    def __init__(self, name: str, model: str | None = None, settings: Sequence[float] | None = None) -> None:
        self._codec: Codec = make_codec(name, model)
        self.name, self.version = name, self._codec.version
        self.settings = settings or (1, 3, 5, 10, 15, 20, 25, 30, 37, 45, 55, 65, 75, 85, 92)

    def run(self, clip: Clip, setting: float) -> list[Coded]:
        """Code all frames of a clip at a quality."""
        coded = []
        for frame in clip.frames:
            data = self._codec.encode(frame, round(setting))
            coded.append(Coded(len(data), resize(self._codec.decode(data), *frame.shape[:2]), "picture"))
        return coded
