"""What waits in the spool: a list in memory of each camera's frames, some 24 bytes a frame.

The database is only asked for a frame by its row, so no index on the disk can be damaged, or be out of step with the
frames.
"""

from array import array
from bisect import bisect_left, bisect_right

__all__ = ["Waiting", "every_second", "oldest_of_the_most"]


class Waiting:
    """The frames of one camera, sorted by number.

    Attributes:
        sequences: Their numbers.
        bytes: Of their JPEG files.
    """

    def __init__(self) -> None:
        self.sequences, self._rows, self._sizes = array("q"), array("q"), array("q")
        self.bytes = 0

    def __len__(self) -> int:
        return len(self.sequences)

    def add(self, sequence: int, row: int, size: int) -> bool:
        """Add a frame of `size` bytes; return False, and do nothing, if there is one of that number."""
        place = bisect_left(self.sequences, sequence)
        if place < len(self.sequences) and self.sequences[place] == sequence:
            return False
        self.sequences.insert(place, sequence)
        self._rows.insert(place, row)
        self._sizes.insert(place, size)
        self.bytes += size
        return True

    def remove(self, sequence: int) -> None:
        """Remove the frame of that number, if there is one."""
        place = bisect_left(self.sequences, sequence)
        if place < len(self.sequences) and self.sequences[place] == sequence:
            self.bytes -= self._sizes[place]
            del self.sequences[place], self._rows[place], self._sizes[place]

    def row(self, sequence: int) -> int | None:
        """Return the row of the frame of that number; None if there is none."""
        place = bisect_left(self.sequences, sequence)
        if place < len(self.sequences) and self.sequences[place] == sequence:
            return self._rows[place]
        return None

    def after(self, sequence: int) -> int | None:
        """Return the lowest number above `sequence`; None if there is none."""
        place = bisect_right(self.sequences, sequence)
        return self.sequences[place] if place < len(self.sequences) else None

    def up_to(self, sequence: int, number: int) -> list[int]:
        """Return the lowest numbers that are not above `sequence`, at most so many."""
        return self.sequences[: min(number, bisect_right(self.sequences, sequence))].tolist()


def every_second(cameras: dict[str, Waiting]) -> list[tuple[str, int]]:
    """Return every second one of the oldest half of each camera's frames, by camera and number, the oldest first."""
    found = [
        (place, camera, waiting.sequences[place])
        for camera, waiting in cameras.items()
        for place in range(1, (len(waiting) + 1) // 2, 2)
    ]
    return [(camera, sequence) for _, camera, sequence in sorted(found)]


def oldest_of_the_most(cameras: dict[str, Waiting]) -> list[tuple[str, int]]:
    """Return a list with the oldest frame of the camera that has most; an empty one if no camera has any."""
    with_some = [(-len(waiting), camera) for camera, waiting in cameras.items() if waiting]
    return [(camera, cameras[camera].sequences[0]) for _, camera in sorted(with_some)[:1]]
