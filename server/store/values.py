"""Checks what goes into a row: JSON that every reader can read, and the size of a picture."""

import json
import logging
from typing import Any

from rjpeg.errors import InputError

__all__ = ["as_json", "json_or_error", "measures_or_error", "pixels_of"]

logger = logging.getLogger(__name__)

MAX_NESTING = 64
"""Levels of lists and objects within each other. More could exceed a reader's stack."""
MAX_SIDE = 65_535
"""Width or height of a picture in pixels."""


def pixels_of(measures: dict[str, Any]) -> int:
    """Return width times height of the picture, 0 if the measures lack them.

    Raises:
        InputError: width or height is not an integer from 0 to MAX_SIDE.
    """
    size = [measures.get(name, 0) for name in ("width", "height")]
    if not all(isinstance(length, int) and 0 <= length <= MAX_SIDE for length in size):
        raise InputError(f"width and height {size}, expected integers from 0 to {MAX_SIDE}")
    return int(size[0] * size[1])


def as_json(value: Any, what: str) -> Any:
    """Return a value as it comes back from JSON.

    Args:
        value: any.
        what: what it is, for messages.

    Raises:
        InputError: the value can't be written as JSON, or not so that every reader can read it.
    """
    try:
        _check_nesting(value)
        text = json.dumps(value, allow_nan=False, ensure_ascii=False)
        # fails here for lone surrogates, which would fail when they are read
        text.encode()
        return json.loads(text)
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(f"{what} can't be written as JSON: {error}") from error


def json_or_error(value: Any, what: str) -> Any:
    """Return the same as `as_json`, or {"error": text} instead of raising InputError."""
    try:
        return as_json(value, what)
    except InputError as error:
        logger.warning("%s", error)
        return {"error": str(error)}


def measures_or_error(measures: Any) -> dict[str, Any]:
    """Return a row's measures. If they are damaged, return {"error": text}, so that other rows stay readable."""
    return measures if isinstance(measures, dict) else {"error": "the measures are damaged"}


def _check_nesting(value: Any) -> None:
    """Raise ValueError if lists and objects nest deeper than MAX_NESTING."""
    level = [value]
    for _ in range(MAX_NESTING):
        level = [
            inner
            for outer in level
            if isinstance(outer, (dict, list, tuple))
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
        if not level:
            return
    raise ValueError(f"more than {MAX_NESTING} levels deep")
