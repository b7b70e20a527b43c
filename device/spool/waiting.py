"""What waits in the spool: a list in memory of each camera's frames, some 40 bytes a frame.

The database is only asked for a frame by its row, so no index on the disk can be damaged, or be out of step with the
frames.
"""

from array import array
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Collection
from typing import NamedTuple

import rjpeg

__all__ = ["NO_LINK", "Link", "Waiting", "every_second", "link_of", "oldest_of_the_most"]

NONE = -1


class Link(NamedTuple):
    """Which file a frame's is, and which one it refers to.

    Attributes:
        id: 24 bits; -1 for a file that others can't refer to.
        base: The id of the key or patch that it needs; -1 for none.
    """

    id: int = NONE
    base: int = NONE


NO_LINK = Link()


class Waiting:
    """The frames of one camera, sorted by number.

    Attributes:
        sequences: Their numbers.
    """

    def __init__(self) -> None:
        self.sequences, self._rows, self._sizes = array("q"), array("q"), array("q")
        self._ids, self._bases = array("q"), array("q")
        self._bytes = 0
        # how many frames refer to an id
        self._references: Counter[int] = Counter()
        # the newest key and its newest patch: frames that come may refer to them
        self._current: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self.sequences)

    def add(self, sequence: int, row: int, size: int, link: Link = NO_LINK) -> bool:
        """Add a frame of `size` bytes; return False, and do nothing, if there is one of that number."""
        place = bisect_left(self.sequences, sequence)
        if place < len(self.sequences) and self.sequences[place] == sequence:
            return False
        self.sequences.insert(place, sequence)
        self._rows.insert(place, row)
        self._sizes.insert(place, size)
        self._ids.insert(place, link.id)
        self._bases.insert(place, link.base)
        self._bytes += size
        if link.base != NONE:
            self._references[link.base] += 1
        self._note_current(sequence, link)
        return True

    def remove(self, sequence: int) -> None:
        """Remove the frame of that number, if there is one."""
        place = self._place(sequence)
        if place is None:
            return
        self._bytes -= self._sizes[place]
        if (base := self._bases[place]) != NONE:
            self._references[base] -= 1
            if not self._references[base]:
                del self._references[base]
        for column in (self.sequences, self._rows, self._sizes, self._ids, self._bases):
            del column[place]

    def row(self, sequence: int) -> int | None:
        """Return the row of the frame of that number; None if there is none."""
        place = self._place(sequence)
        return None if place is None else self._rows[place]

    def after(self, sequence: int) -> int | None:
        """Return the lowest number above `sequence`; None if there is none."""
        place = bisect_right(self.sequences, sequence)
        return self.sequences[place] if place < len(self.sequences) else None

    def count(self, done: int) -> int:
        """Return how many frames wait to be sent. Keys and patches up to `done` stay only for others' sake."""
        return len(self.sequences) - len(self._held(done))

    def bytes(self, done: int) -> int:
        """Return the bytes of the JPEG files of the frames that `count` counts."""
        return self._bytes - sum(self._sizes[place] for place in self._held(done))

    def is_spare(self, sequence: int, done: int) -> bool:
        """Return True for a key or patch up to `done` that no frame above it needs."""
        place = self._place(sequence)
        if place is None or sequence > done or self._ids[place] == NONE:
            return False
        needed = set(self._bases[bisect_right(self.sequences, done) :])
        needed |= {self._bases[each] for each in self._held(done) if self._ids[each] in needed}
        return self._ids[place] not in needed

    def done(self, sequence: int, number: int) -> list[int]:
        """Return numbers that are not above `sequence`, at most so many, the highest first.

        Keys and patches to which other frames refer, or may come to refer, are not among them.
        """
        going: Counter[int] = Counter()
        found: list[int] = []
        current = set(self._current.values())
        for place in range(bisect_right(self.sequences, sequence) - 1, -1, -1):
            name = self._ids[place]
            if self.sequences[place] in current:
                continue
            if len(found) < number and (name == NONE or self._references[name] == going[name]):
                found.append(self.sequences[place])
                going[self._bases[place]] += 1
        return found

    # --- what refers to what ---------------------------------------------------------------------------------

    def is_needed(self, sequence: int) -> bool:
        """Return True if other frames that wait refer to this one, or frames that come may do so."""
        place = self._place(sequence)
        if place is None or self._ids[place] == NONE:
            return False
        return sequence in self._current.values() or self._references[self._ids[place]] > 0

    def named(self, name: int) -> int | None:
        """Return the number of the newest frame with this id; None if there is none."""
        for place in range(len(self._ids) - 1, -1, -1):
            if self._ids[place] == name:
                return self.sequences[place]
        return None

    def _held(self, done: int) -> list[int]:
        """Return the places of the keys and patches up to `done`."""
        return [place for place in range(bisect_right(self.sequences, done)) if self._ids[place] != NONE]

    def _place(self, sequence: int) -> int | None:
        place = bisect_left(self.sequences, sequence)
        return place if place < len(self.sequences) and self.sequences[place] == sequence else None

    def _note_current(self, sequence: int, link: Link) -> None:
        if link.id == NONE or any(sequence < number for number in self._current.values()):
            return
        if link.base == NONE:
            self._current = {"key": sequence}
        else:
            self._current["patch"] = sequence


def link_of(identity: rjpeg.FileIdentity) -> Link:
    """Return what the list has to know of a file."""
    name = NONE if identity.kind not in ("key", "patch") or identity.id is None else int(identity.id, 16)
    return Link(name, NONE if identity.base_id is None else int(identity.base_id, 16))


def every_second(cameras: dict[str, Waiting]) -> list[tuple[str, int]]:
    """Return every second one of the oldest half of each camera's frames, by camera and number, the oldest first.

    Keys and patches that others need are not counted. Once those are gone, their turn comes.
    """
    found = []
    for camera, waiting in cameras.items():
        half = waiting.sequences[: (len(waiting) + 1) // 2]
        free = [(place, sequence) for place, sequence in enumerate(half) if not waiting.is_needed(sequence)]
        # never the very oldest, which may be on its way
        first = 1 if free and free[0][0] == 0 else 0
        found += [(place, camera, sequence) for place, sequence in free[first::2]]
    return [(camera, sequence) for _, camera, sequence in sorted(found)]


def oldest_of_the_most(
    cameras: dict[str, Waiting], on_their_way: Collection[tuple[str, int | None]] = ()
) -> list[tuple[str, int]]:
    """Return a list with one frame of the camera that has most; an empty one if no camera has any.

    It is the oldest one that no other needs and that is not on its way. If there is none, it is the oldest one that no
    other needs. If there is none of these, either, it is the newest of all, to which nothing refers.
    """
    with_some = [(-len(waiting), camera) for camera, waiting in cameras.items() if waiting]
    if not with_some:
        return []
    camera = min(with_some)[1]
    sequences = cameras[camera].sequences
    free = [each for each in sequences if not cameras[camera].is_needed(each)]
    resting = [each for each in free if (camera, each) not in on_their_way]
    return [(camera, (resting or free or sequences[-1:])[0])]
