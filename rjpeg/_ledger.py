"""When a key or a patch pays: the accounts of a stream.

What has changed and stays is sent again with every follower. That is rent. Once some times the price of a patch, or of
a key, was paid in rent, it is made (the ski rental problem: Karlin et al., Competitive snoopy caching, 1988).
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Ledger"]

_FEW_FRAMES = 3
"""Frames that a camera must have stood still before a coarse key is replaced, and between two patches at least."""


@dataclass
class Ledger:
    """What was paid since the latest key and the latest patch, in bytes.

    key_price, patch_price: how many times its bytes a key, or a patch, must have cost in rent.
    moving_price: what a byte that shows what moves takes off the rent of a patch.
    key_time: seconds of the clock. key_bytes, follower_bytes: sizes of the latest key and follower.
    key_is_fine: whether the key is finer than followers.
    key_rent: bytes that showed what was there in the frame before. patch_rent: the same, less those that showed what
    moves, but not below 0. latest_net: these of the latest follower.
    worth: share of the rent that a patch really takes off, by what earlier ones did, 0..1.
    claimed, before_patch: rent that the latest patch was to take off a follower of so many bytes; 0 once it is known.
    kept_share: of regions, over the latest followers, 0..1. still_frames: frames since the camera moved.
    frames: since the latest key or patch.
    """

    key_price: float
    patch_price: float
    moving_price: float
    key_time: float = 0.0
    key_bytes: int = 0
    key_is_fine: bool = True
    follower_bytes: int = 0
    key_rent: float = 0.0
    patch_rent: float = 0.0
    latest_net: float = 0.0
    worth: float = 0.5
    claimed: float = 0.0
    before_patch: int = 0
    kept_share: float = 0.8
    still_frames: int = 0
    frames: int = 0

    def start_key(self, now: float, size: int, *, fine: bool) -> None:
        """Note a key. fine: whether it is finer than followers."""
        self.key_time, self.key_bytes, self.key_is_fine = now, size, fine
        self.key_rent = self.patch_rent = 0.0
        self.frames = 0

    def start_patch(self) -> None:
        """Note a patch."""
        self.patch_rent = 0.0
        self.frames = 0
        self.before_patch = self.follower_bytes
        self.claimed = self.latest_net

    def count_frame(self, *, still: bool) -> None:
        """Note a frame. still: whether most of it is as in the frame before."""
        self.still_frames = self.still_frames + 1 if still else 0
        self.frames += 1

    def pay(self, rent: float, size: int, kept_share: float) -> None:
        """Note a follower of so many bytes, its rent, and the share of regions that it keeps."""
        if self.claimed > 0:
            # What a patch really took off the next follower, of what it was to take off.
            found = min(max((self.before_patch - size) / self.claimed, 0.0), 1.0)
            self.worth += 0.3 * (found - self.worth)
            self.claimed = 0.0
        # What moves would be part of the patch, too, and later frames would have to show again what it hides.
        net = rent - self.moving_price * (size - rent)
        self.follower_bytes, self.latest_net = size, net
        self.key_rent += self.worth * rent
        self.patch_rent = max(self.patch_rent + self.worth * net, 0.0)
        self.kept_share += 0.2 * (kept_share - self.kept_share)

    def wants_key(self) -> bool:
        """Tell whether a key pays."""
        return self.key_rent > self.key_price * max(self.key_bytes - self.follower_bytes, 0)

    def wants_finer_key(self) -> bool:
        """Tell whether a coarse key, made when the camera moved, should be replaced."""
        return not self.key_is_fine and self.still_frames >= _FEW_FRAMES

    def may_want_patch(self) -> bool:
        """Tell whether it is worth trying how large a patch is."""
        return self.frames >= _FEW_FRAMES and self.patch_rent > 0.3 * self.follower_bytes

    def wants_patch(self, size: int) -> bool:
        """Tell whether a patch of so many bytes, in place of the latest follower, pays."""
        return self.patch_rent > self.patch_price * (size - self.follower_bytes)
