"""When a rule over the task's answers holds: pure functions of frames and times."""

import datetime
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeGuard

import cv2
import numpy as np

from server.config import RuleConfig
from server.store import Alert

__all__ = ["Finding", "Look", "Watch", "findings", "zone_holds"]

LATE = datetime.timedelta(hours=1)
"""A frame that is older than the one before by less came late and says nothing. By more: the camera's clock was set."""

MAX_NUMBER = 1e9
"""Of scores and pixels. Larger ones are no finding."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """Something that the task found.

    Attributes:
        label: its class.
        score: how sure the task is.
        foot: the middle of its box's lower edge, (x, y) as shares of the frame. None: it has no box.
    """

    label: str
    score: float
    foot: tuple[float, float] | None = None


@dataclass(frozen=True, kw_only=True)
class Look:
    """What was found in a frame.

    Attributes:
        camera: the camera's name.
        frame: the frame's id.
        time: its capture time.
        found: what was found.
        zones: of the camera that have a name, polygons by name.
    """

    camera: str
    frame: int
    time: datetime.datetime
    found: tuple[Finding, ...]
    zones: Mapping[str, Sequence[list[tuple[float, float]]]] = field(default_factory=dict)


def findings(results: Any, width: int, height: int) -> Iterator[Finding]:
    """Yield what a task's answer says was found: objects with a score, a label or an index, perhaps a box.

    Args:
        results: any JSON. What has another form is left out.
        width: of the frame, in pixels.
        height: of the frame, in pixels.
    """
    for item in results if isinstance(results, list) else ():
        if not isinstance(item, dict):
            continue
        score, label, box = item.get("score"), item.get("label", item.get("index")), item.get("box")
        if not _is_number(score) or not isinstance(label, (str, int)):
            continue
        foot = None
        if isinstance(box, list) and len(box) == 4 and all(map(_is_number, box)):
            foot = ((box[0] + box[2]) / 2 / max(width, 1), box[3] / max(height, 1))
        yield Finding(label=str(label), score=float(score), foot=foot)


def _is_number(value: Any) -> TypeGuard[int | float]:
    # integers of JSON may be too large for a float
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= MAX_NUMBER


def zone_holds(zone: list[tuple[float, float]] | None, foot: tuple[float, float] | None) -> bool:
    """Return whether a point lies in a polygon or on its edge. Without a polygon, every finding does."""
    if zone is None:
        return True
    return foot is not None and cv2.pointPolygonTest(np.array(zone, np.float32), foot, measureDist=False) >= 0


class Watch:
    """A rule on one camera. It is told of frames, and says when an alert begins and ends.

    Args:
        rule: the rule.
        alert: one that goes on since before the start. None: there is none.

    Attributes:
        alert: the one that goes on. None: there is none.
    """

    def __init__(self, rule: RuleConfig, alert: Alert | None = None) -> None:
        self.rule = rule
        self.alert = alert
        self._last: datetime.datetime | None = None
        # capture times of the first and the last frame in which it was found; the latter's on the clock of `look`
        self._first: datetime.datetime | None = None if alert is None else alert.start
        self._hit: datetime.datetime | None = self._first
        self._hit_at = float("-inf")
        self._is_missing = False

    def look(self, look: Look, now: float) -> Alert | None:
        """Take a frame into account.

        Args:
            look: what was found in it.
            now: seconds of a monotonic clock.

        Returns:
            An alert that begins (without end) or ends with it, None if nothing changes.
        """
        if self._last is not None and look.time < self._last:
            if self._last - look.time < LATE:
                return None
            self._last = look.time
            return self._end_if(True)
        self._last = look.time
        best = self._best(look)
        if best is None:
            self._is_missing = True
            return self._end_if(self._hit is not None and self._passed(self._hit, look.time) > self.rule.pause)
        self._is_missing = False
        if self._first is None:
            self._first = look.time
        self._hit, self._hit_at = look.time, now
        if self.alert is not None:
            self.alert = replace(self.alert, score=max(self.alert.score, best.score))
        elif self._passed(self._first, look.time) >= self.rule.seconds:
            self.alert = Alert(
                camera=look.camera,
                rule=self.rule.name,
                label=best.label,
                score=best.score,
                frame=look.frame,
                start=self._first,
            )
            return self.alert
        return None

    def tick(self, now: float) -> Alert | None:
        """Return an alert that ends because no frame has come since the class was missing. None: nothing changes."""
        return self._end_if(self._is_missing and self._hit is not None and now - self._hit_at > self.rule.pause)

    def _end_if(self, is_over: bool) -> Alert | None:
        if not is_over:
            return None
        ended = None if self.alert is None else replace(self.alert, end=self._hit)
        self.alert = self._first = self._hit = None
        return ended

    def _best(self, look: Look) -> Finding | None:
        rule = self.rule
        # of a name that no zone of the camera has, nothing is found
        zones = look.zones.get(rule.zone, ()) if isinstance(rule.zone, str) else (rule.zone,)
        fitting = (
            found
            for found in look.found
            if found.label in rule.classes
            and found.score >= rule.score
            and any(zone_holds(zone, found.foot) for zone in zones)
        )
        return max(fitting, key=lambda found: found.score, default=None)

    @staticmethod
    def _passed(since: datetime.datetime, until: datetime.datetime) -> float:
        return max(0.0, (until - since).total_seconds())
