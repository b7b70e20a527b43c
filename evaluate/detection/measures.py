"""What is measured on decoded pictures, behind one face."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

__all__ = ["Measure"]


class Measure(ABC):
    """A network and the truth that its answers are held against.

    scores: names of what is measured, each 0..1 and better the higher. name: the network's, for people.
    identity: what results depend on.
    """

    scores: ClassVar[dict[str, str]]
    name: str
    identity: str

    @abstractmethod
    def seen(self, number: int, frame: np.ndarray) -> Any:
        """Ask the network about the picture of a number as it was decoded, (H, W, 3) uint8 BGR."""

    @abstractmethod
    def score(self, seen: Sequence[Any], weights: np.ndarray) -> dict[str, np.ndarray]:
        """Return each score over all pictures, for every row of `weights`, how often each picture counts."""
