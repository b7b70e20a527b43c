"""Streams: one camera's frames, of which later ones send only what is new."""

from __future__ import annotations

import functools
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from typing import Literal, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from rjpeg import _codec as codec
from rjpeg import _validation as validation
from rjpeg._base import Base, Shown, shown_of
from rjpeg._codec import Planes
from rjpeg._coding import EncodedFrame
from rjpeg._following import Change, Choice, change_of, choose, in_light, write_follower
from rjpeg._importance import check_importance
from rjpeg._key import KeyPicture, write_key
from rjpeg._ledger import Ledger
from rjpeg._marker import AS_IT_IS, Kind, View, identity_of
from rjpeg._policy import Policy
from rjpeg._rate_control import LEAST_FILL, Target, search_quality
from rjpeg._region_file import Header, open_header
from rjpeg._sizing import coding_size_for, size_for_quality, sizing_of
from rjpeg._standing import changes_between, shift_between, thumbnail_of
from rjpeg._tables import finer
from rjpeg._tiles import whole_regions
from rjpeg._timing import StageTimer
from rjpeg.decoder import DecodedFrame, Decoder
from rjpeg.encoder import Encoder
from rjpeg.errors import InputError, KeyMissingError, TargetError

__all__ = ["StreamDecoder", "StreamEncoder"]

_MOST_BASES = 4
_AWAIT_SECONDS = 10.0
"""How long followers wait for a key or patch to be acknowledged before another one is made."""
_MOST_SENT = 0.5
"""Share of regions above which a file of its own is tried as well."""


class _Goal(NamedTuple):
    """What a file is coded to: a quality, or targets for followers and for keys. coding_size: of the next key."""

    quality: float | None
    target: Target
    key_target: Target
    coding_size: tuple[int, int] | None


class _Seen(NamedTuple):
    """A frame at the coding size. moved: (rows, cols), its change since the frame before, if that is known.

    thumbnail: of its luma.
    """

    planes: Planes
    thumbnail: NDArray[np.int16]
    moved: NDArray[np.float32] | None
    seconds: dict[str, float]


class _Awaited(NamedTuple):
    """A key or patch that was sent. since: seconds of the clock."""

    id: str
    kind: Kind
    since: float


class StreamDecoder:
    """Decode one stream's files. It keeps the latest keys and patches that it saw. For one thread at a time.

    It also keeps what the one that was used last shows: 3 bytes a pixel of the coding size, 4.5 for a patch.
    """

    def __init__(self, decoder: Decoder | None = None, *, max_bases: int = _MOST_BASES) -> None:
        """decoder: None for that of the shipped model. max_bases: keys and patches that are kept, 1 or more.

        Raises InputError, and ModelError as `Decoder` does.
        """
        if max_bases < 1:
            raise InputError(f"max_bases is {max_bases}, expected 1 or more")
        self._decoder = decoder or Decoder()
        self._max_bases = max_bases
        self._bases: OrderedDict[str, Base] = OrderedDict()
        # the base that was used last, and what it shows
        self._last: tuple[Base, Shown] | None = None

    def decode(self, jpeg: bytes, *, without_key: Literal["error", "plain"] = "error") -> NDArray[np.uint8]:
        """Decode a file to a (H, W, 3) uint8 BGR frame, and remember it if later files may refer to it.

        without_key: what to do with a follower whose key or patch was not seen: raise, or return what a viewer shows
        that knows nothing of streams. Raises KeyMissingError, and all that `Decoder.decode` raises.
        """
        try:
            return self.decode_with_details(jpeg).frame
        except KeyMissingError:
            if without_key == "error":
                raise
            return self._decoder.decode_plain(jpeg)

    def decode_with_details(self, jpeg: bytes) -> DecodedFrame:
        """Decode a file as `decode` does. Return also the map and the time of every stage."""
        header = open_header(jpeg, self._decoder.max_pixels)
        used = self._base_for(header)
        shown = None if used is None else self._shown_of(used)
        decoded, base = self._decoder.decode_and_keep(jpeg, used, header=header, shown=shown)
        if base is not None:
            self._bases[base.id] = base
            self._bases.move_to_end(base.id)
            while len(self._bases) > self._max_bases:
                self._bases.popitem(last=False)
        return decoded

    def frame_size(self, jpeg: bytes) -> tuple[int, int]:
        """Return (height, width) of the frame that `decode` gives. It reads the header alone.

        Raises KeyMissingError, and all that `Decoder.frame_size` raises.
        """
        return self._decoder.frame_size(jpeg, self._base_for(open_header(jpeg, self._decoder.max_pixels)))

    def _shown_of(self, base: Base) -> Shown:
        if self._last is None or self._last[0] is not base:
            self._last = base, shown_of(base)
        return self._last[1]

    def _base_for(self, header: Header) -> Base | None:
        base_id = identity_of(header.marker).base_id
        base = None if base_id is None else self._bases.get(base_id)
        if base is not None:
            for used in (base.key or base, base):
                if used.id in self._bases:
                    self._bases.move_to_end(used.id)
        return base


class StreamEncoder:
    """Code one camera's frames, 4:2:0. For one thread at a time."""

    def __init__(
        self,
        encoder: Encoder | None = None,
        *,
        key_seconds: float = 600.0,
        importance: NDArray[np.floating] | None = None,
        plain_view: Literal["tiles", "soft"] = "tiles",
        acknowledge: Literal["assume", "explicit"] = "assume",
        clock: Callable[[], float] = time.monotonic,
        policy: Policy | None = None,
    ) -> None:
        """encoder: None for that of the shipped model.

        key_seconds: the longest time that followers refer to one key, above 0. importance: see the property.
        plain_view: what followers show to those who do not know streams: "tiles", the new regions side by side, or
        "soft", the whole frame, blurred where nothing is new. Soft files are larger.
        acknowledge: "assume" if all that is coded arrives. With "explicit" followers refer only to keys and patches
        that `acknowledged` was called for. clock: seconds. policy: numbers behind the decisions, for measurements.
        Raises InputError, and ModelError as `Encoder` does.
        """
        if not key_seconds > 0:
            raise InputError(f"key_seconds is {key_seconds}, expected above 0")
        if acknowledge not in ("assume", "explicit"):
            raise InputError(f"acknowledge is {acknowledge!r}, expected assume or explicit")
        if plain_view not in ("tiles", "soft"):
            raise InputError(f"plain_view is {plain_view!r}, expected tiles or soft")
        self._encoder = encoder or Encoder()
        self._decoder = Decoder(self._encoder.model)
        self._soft = plain_view == "soft"
        self._key_seconds = key_seconds
        self._assume = acknowledge == "assume"
        self._clock = clock
        self._policy = policy or Policy()
        self.importance = importance
        self._key: Base | None = None
        self._patch: Base | None = None
        self._awaited: _Awaited | None = None
        self._ledger = Ledger(self._policy.key_price, self._policy.patch_price, self._policy.moving_price)
        self._before: NDArray[np.int16] | None = None
        # the checksum of the base that was used last, and its thumbnail
        self._reduced: tuple[int, NDArray[np.int16]] | None = None

    @property
    def importance(self) -> NDArray[np.float32] | None:
        """What matters where: (rows, cols) float32, octaves over the frame's mean, on any grid. None: all the same.

        It may be set at any time. The decoder needs nothing of it. Setting it raises InputError for what is no map.
        """
        return self._importance

    @importance.setter
    def importance(self, octaves: NDArray[np.floating] | None) -> None:
        self._importance = None if octaves is None else check_importance(octaves)

    @property
    def nbytes(self) -> int:
        """Memory in bytes that the stream holds between frames."""
        base = self._base()
        thumbnails = (self._before, None if self._reduced is None else self._reduced[1])
        size = sum(each.nbytes for each in thumbnails if each is not None)
        return size + (0 if base is None else base.nbytes)

    def encode(
        self,
        frame: NDArray[np.uint8] | Planes,
        quality: float | None = None,
        target_bytes: int | None = None,
        *,
        key_bytes: int | None = None,
        coding_size: tuple[int, int] | None = None,
        start: float | None = None,
        least_fill: float = LEAST_FILL,
    ) -> EncodedFrame:
        """Code a frame as a key, a patch or a follower. Give one of quality and target_bytes.

        Args:
            frame: as for `Encoder.encode`. One of another size than the frame before gives a key.
            quality: 1..100, of followers. A key and a patch are finer.
            target_bytes: the largest file allowed. A key that is coarse for it is mended by what follows.
            key_bytes: the largest key allowed, in place of target_bytes.
            coding_size: (height, width) for the next key, as for `Encoder.encode`.
            start: the quality, 1..100, that a search for target_bytes tries first.
            least_fill: as for `Encoder.encode_with_details`.

        Raises:
            InputError, TargetError, ModelError: as `Encoder.encode`.
        """
        frame_size = validation.check_frame(frame)
        validation.check_one_goal(quality, target_bytes)
        if coding_size is not None:
            coding_size = validation.check_coding_size(coding_size, frame_size)
        if quality is not None:
            validation.check_quality(quality)
        target = Target(0, None, least_fill, None)
        if quality is None:
            target = Target(validation.check_target(target_bytes), start, least_fill, None)
        most = target.max_bytes if key_bytes is None else validation.check_target(key_bytes)
        goal = _Goal(quality, target, replace(target, max_bytes=most), coding_size)
        base = self._base()
        if base is None or base.frame_size != frame_size:
            self._before = None
            return self._encode_key(frame, goal, still=True)
        seconds: dict[str, float] = {}
        with StageTimer(seconds, "convert"):
            planes = whole_regions(_planes_at(frame, base.coding_size), base.coding_size, "4:2:0")
        with StageTimer(seconds, "compare"):
            before, thumbnail = self._before, thumbnail_of(planes.y)
            self._before = thumbnail
            moved = None if before is None or before.shape != thumbnail.shape else changes_between(thumbnail, before)
        still = moved is None or _share_of(moved <= self._policy.still) > 0.5
        self._ledger.count_frame(still=still)
        if self._key_is_due(still):
            return self._encode_key(frame, goal, still=still)
        return self._encode_on(frame, _Seen(planes, thumbnail, moved, seconds), base, goal)

    def acknowledged(self, coded: EncodedFrame) -> None:
        """Let followers refer to a key or patch from now on: the other side has it. Followers may be given, too."""
        if self._awaited is not None and self._awaited.id == coded.id:
            self._awaited = None
        if coded.kind == "key":
            self._key, self._patch = self._decoder.base_of(coded.jpeg), None
        elif coded.kind == "patch" and self._key is not None and self._key.id == coded.base_id:
            self._patch = self._decoder.base_of(coded.jpeg, self._key)

    def lost(self, base_id: str) -> None:
        """Refer no more to a key or patch, six hex digits: the other side does not have it, or never got it."""
        if self._awaited is not None and self._awaited.id == base_id:
            self._awaited = None
        if self._patch is not None and base_id in (self._patch.id, self._patch.base_id):
            self._patch = None
        if self._key is not None and self._key.id == base_id:
            self._key = None

    def new_key(self) -> None:
        """Make the next frame a key."""
        self._key = self._patch = self._awaited = None

    def _base(self) -> Base | None:
        return self._patch or self._key

    def _key_is_due(self, still: bool) -> bool:
        if self._awaits("key"):
            return False
        ledger = self._ledger
        if self._clock() - ledger.key_time >= self._key_seconds:
            return True
        return ledger.wants_key() or (still and ledger.wants_finer_key())

    def _awaits(self, kind: Kind) -> bool:
        """Tell whether a key, or a patch, is on its way. One that is not acknowledged in time is not waited for."""
        awaited = self._awaited
        return awaited is not None and awaited.kind == kind and self._clock() - awaited.since < _AWAIT_SECONDS

    def _encode_key(self, frame: NDArray[np.uint8] | Planes, goal: _Goal, *, still: bool) -> EncodedFrame:
        octaves = self._policy.key_octaves * self._ledger.kept_share**2 if still else 0.0
        size = goal.coding_size or self._size_for(frame, goal)
        coded = self._file_of_its_own(frame, goal, size, octaves)
        self._sent_base(coded, fine=still)
        return coded

    def _file_of_its_own(
        self, frame: NDArray[np.uint8] | Planes, goal: _Goal, size: tuple[int, int], octaves: float
    ) -> EncodedFrame:
        """Code a frame to be decoded by itself. octaves: how much finer than the goal, if that is a quality."""
        seconds: dict[str, float] = {}
        with StageTimer(seconds, "convert"):
            planes = _planes_at(frame, size)
        picture = KeyPicture(planes, validation.check_frame(frame), seconds)
        model, policy = self._encoder.model, self._policy
        if goal.quality is not None:
            return write_key(picture, finer(goal.quality, octaves), policy.dead_zone, model, policy)
        code = functools.partial(write_key, picture, model=model, policy=policy)
        return _fitted("key", code, goal.key_target, policy)

    def _size_for(self, frame: NDArray[np.uint8] | Planes, goal: _Goal) -> tuple[int, int]:
        """Return the coding size of a key: the policy's for the goal, or a smaller one if the frame lacks detail."""
        policy = self._policy
        frame_size = validation.check_frame(frame)
        if goal.quality is not None:
            ladder = policy.sizes_by_quality
            sizing = sizing_of(frame, [fraction for _, fraction in ladder])
            return size_for_quality(sizing, frame_size, self._encoder.model, goal.quality, ladder, policy.negligible)
        bpp = 8 * goal.key_target.max_bytes / (frame_size[0] * frame_size[1])
        return coding_size_for(frame_size, policy.sizes_by_rate, bpp)

    def _sent_base(self, coded: EncodedFrame, *, fine: bool = True) -> None:
        now = self._clock()
        if coded.kind == "key":
            self._ledger.start_key(now, len(coded.jpeg), fine=fine)
        else:
            self._ledger.start_patch()
        self._awaited = _Awaited(coded.id, coded.kind, now)
        if self._assume:
            self.acknowledged(coded)

    def _encode_on(self, frame: NDArray[np.uint8] | Planes, seen: _Seen, base: Base, goal: _Goal) -> EncodedFrame:
        """Code a frame as a follower or a patch, or as a file of its own if that is smaller."""
        weights = self._weights(base.grid)
        change, changed = self._change(seen, base, weights)
        coded, choice = self._follower(change, goal, seen, patch=False)
        if _share_of(choice.sent) > _MOST_SENT:
            own = self._file_of_its_own(frame, goal._replace(quality=coded.quality), base.coding_size, 0.0)
            if len(own.jpeg) <= len(coded.jpeg):
                self._sent_base(own, fine=False)
                return own
        standing = self._standing_share(seen, changed, choice)
        self._ledger.pay(standing * len(coded.jpeg), len(coded.jpeg), 1 - _share_of(choice.sent))
        if not self._policy.patches or self._awaits("patch") or not self._ledger.may_want_patch():
            return coded
        if base.key is None:
            # on the same key, a patch sends what the follower does
            patch = write_follower(change, choice, patch=True, soft=self._soft, seconds=seen.seconds)
        else:
            change, _ = self._change(seen, base.key, weights)
            patch, _ = self._follower(change, goal, seen, patch=True)
        if not self._ledger.wants_patch(len(patch.jpeg)):
            return coded
        self._sent_base(patch)
        return patch

    def _follower(self, change: Change, goal: _Goal, seen: _Seen, *, patch: bool) -> tuple[EncodedFrame, Choice]:
        model, policy = self._encoder.model, self._policy
        choices: dict[str, Choice] = {}

        def code(quality: float, dead_zone: float) -> EncodedFrame:
            with StageTimer(seen.seconds, "choose"):
                choice = choose(change, quality, dead_zone, model, policy)
            coded = write_follower(change, choice, patch=patch, soft=self._soft, seconds=seen.seconds)
            choices[coded.id] = choice
            return coded

        if goal.quality is not None:
            coded = code(goal.quality, policy.dead_zone)
            return coded, choices[coded.id]
        found = _fitted("follower", code, goal.target, policy)
        return found, choices[found.id]

    def _change(self, seen: _Seen, base: Base, weights: NDArray[np.float32]) -> tuple[Change, NDArray[np.float32]]:
        """Compare a frame with its base, in the light and at the place of now.

        Return also how much changed, without its noise.
        """
        with StageTimer(seen.seconds, "compare"):
            change, changed = self._in_light(seen, change_of(seen.planes, base, AS_IT_IS, weights, self._policy))
            if _share_of(changed > self._policy.still) > self._policy.moved_share:
                shift = shift_between(change.shown.y, seen.planes.y)
                if any(shift):
                    moved = change_of(seen.planes, base, View(shift=shift), weights, self._policy)
                    other, other_changed = self._in_light(seen, moved)
                    if float(other.errors.sum()) < float(change.errors.sum()):
                        return other, other_changed
        return change, changed

    def _in_light(self, seen: _Seen, change: Change) -> tuple[Change, NDArray[np.float32]]:
        """Return a change in the light of the frame, if that has changed, and how much changed besides."""
        thumbnail = self._thumbnail_of_base(change)
        lit = in_light(change, thumbnail, seen.thumbnail, self._policy) if self._policy.light else change
        if lit is not change:
            thumbnail = thumbnail_of(lit.shown.y)
        return lit, changes_between(seen.thumbnail, thumbnail)

    def _thumbnail_of_base(self, change: Change) -> NDArray[np.int16]:
        """Return the thumbnail of what is shown of the base. It is kept if that is the base as it is."""
        if change.view != AS_IT_IS:
            return thumbnail_of(change.shown.y)
        if self._reduced is None or self._reduced[0] != change.base.crc:
            self._reduced = (change.base.crc, thumbnail_of(change.shown.y))
        return self._reduced[1]

    def _standing_share(self, seen: _Seen, changed: NDArray[np.float32], choice: Choice) -> float:
        """Return the share of the bits that show what was there in the frame before, 0..1."""
        if seen.moved is None:
            return 0.0
        standing = choice.sent & (seen.moved <= self._policy.standing * changed)
        return float(choice.bits[standing].sum() / max(float(choice.bits.sum()), 1.0))

    def _weights(self, grid: tuple[int, int]) -> NDArray[np.float32]:
        if self._importance is None:
            return np.ones(grid, np.float32)
        octaves = self._importance
        if octaves.shape != grid:
            octaves = cv2.resize(octaves, (grid[1], grid[0]), interpolation=cv2.INTER_LINEAR)
        weights: NDArray[np.float32] = np.exp2(self._policy.importance_power * octaves)
        return weights


def _fitted(kind: Kind, code: Callable[[float, float], EncodedFrame], target: Target, policy: Policy) -> EncodedFrame:
    """Return the largest file that fits. code: makes one at a quality and a dead zone. Raises TargetError."""
    found, smallest = search_quality(code, policy.dead_zone, target, (1.0, policy.most_quality))
    if found is None:
        raise TargetError(f"target_bytes is {target.max_bytes}, but the smallest {kind} has {smallest} bytes", smallest)
    return found


def _share_of(regions: NDArray[np.bool_]) -> float:
    return np.count_nonzero(regions) / regions.size


def _planes_at(frame: NDArray[np.uint8] | Planes, size: tuple[int, int]) -> Planes:
    if isinstance(frame, Planes):
        return codec.reduce_planes(frame, size)
    return codec.planes_from_frame(codec.reduce(frame, size), "4:2:0")
