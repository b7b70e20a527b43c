"""Types of arguments that several command lines have, for argparse."""

__all__ = ["positive"]


def positive(text: str) -> int:
    """An integer from 1 on. Raises ValueError."""
    value = int(text)
    if value < 1:
        raise ValueError
    return value
