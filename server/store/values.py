"""What a row may hold: JSON that everyone can read again, and the size of a picture."""

import json
import logging
from typing import Any

from rjpeg.errors import InputError

__all__ = ["as_json", "json_or_error", "measures_or_error", "pixels_of"]

logger = logging.getLogger(__name__)

NESTING = 64  # of JSON that is kept: whoever reads it, with whatever is on the stack, can
LONGEST = 65_535  # side of a picture, pixels


def pixels_of(measures: dict[str, Any]) -> int:
    """Of the picture; 0 where the measures don't have its size. Raises InputError for a size that is none."""
    size = [measures.get(name, 0) for name in ("width", "height")]
    if not all(isinstance(length, int) and 0 <= length <= LONGEST for length in size):
        raise InputError(f"width and height {size}, expected integers from 0 to {LONGEST}")
    return int(size[0] * size[1])


def as_json(value: Any, what: str) -> Any:
    """A value as it is when it was written as JSON and read again. Raises InputError where that can't be."""
    try:
        check_nesting(value)
        text = json.dumps(value, allow_nan=False, ensure_ascii=False)
        text.encode()  # no lone surrogates, which would fail where they are read
        return json.loads(text)
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(f"{what} can't be written as JSON: {error}") from error


def json_or_error(value: Any, what: str) -> Any:
    """The same, or an object with the error."""
    try:
        return as_json(value, what)
    except InputError as error:
        logger.warning("%s", error)
        return {"error": str(error)}


def measures_or_error(measures: Any) -> dict[str, Any]:
    """Return a row's measures, or an object with the error: what is damaged must not hide the frames beside it."""
    return measures if isinstance(measures, dict) else {"error": "the measures are damaged"}


def check_nesting(value: Any) -> None:
    """Raise ValueError where lists and objects are within each other more than NESTING deep."""
    level = [value]
    for _ in range(NESTING):
        level = [
            inner
            for outer in level
            if isinstance(outer, (dict, list, tuple))
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
        if not level:
            return
    raise ValueError(f"more than {NESTING} levels deep")
