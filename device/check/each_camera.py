"""Checks that are made once for each camera."""

from collections.abc import Callable

from device.check.result import Check
from device.config import Config

__all__ = ["check_each_camera"]

SEVERITY = (False, None, True)


def check_each_camera(config: Config, check: Callable[[Config, str], Check]) -> Check:
    """Check one camera after another, up to the first that fails.

    Args:
        config: with the cameras.
        check: called with `config` and a camera's id.

    Returns:
        The first finding that failed; else the first that is doubtful; else the first.
    """
    found = []
    for camera in config.cameras:
        found.append(check(config, camera.id))
        if found[-1].ok is False:
            break
    return min(found, key=lambda each: SEVERITY.index(each.ok))
