"""Types of arguments for argparse that several command lines share."""

__all__ = ["positive"]


def positive(text: str) -> int:
    """Parse an integer of at least 1. Raises ValueError."""
    value = int(text)
    if value < 1:
        raise ValueError
    return value
