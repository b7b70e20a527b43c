"""What several command lines share: types of arguments, and how a program ends."""

import atexit
import errno
import gc
import os
import sys
from collections.abc import Callable

from rjpeg._files import is_disk_full

__all__ = ["CLOSED_PIPE", "path_text", "positive", "run_program"]

CLOSED_PIPE = 141
"""Exit code if nobody reads standard output any more: 128 and SIGPIPE, as a shell has it."""


def positive(text: str) -> int:
    """Parse an integer of at least 1. Raises ValueError."""
    value = int(text)
    if value < 1:
        raise ValueError
    return value


def path_text(text: str) -> str:
    """Return a path, with ~ at its beginning as the home folder. A URL, and - for a standard stream, stay as they are.

    A shell does the same, but not within an argument such as --out=~/sent.
    """
    return os.path.expanduser(text)  # noqa: PTH111 - Path would make another text of a URL


def run_program(main: Callable[[], int]) -> int:
    """Return a program's exit code, also if standard output can't be written.

    That is one line on standard error. The exit code is 1, or CLOSED_PIPE if nobody reads any more.
    """
    # At its end the interpreter would look for garbage in all that was imported, most of a second long for a server.
    atexit.register(gc.freeze)
    if sys.stdout is None:
        # it was closed when the program began
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115, PTH123 - as long as the program runs
    try:
        try:
            return main()
        finally:
            # what is still in the buffer would fail when the interpreter ends, with a traceback
            sys.stdout.flush()
    except BrokenPipeError:
        _abandon_output()
        print("error: standard output was closed", file=sys.stderr)
        return CLOSED_PIPE
    except OSError as error:
        if not is_disk_full(error) and error.errno != errno.EIO:
            raise
        _abandon_output()
        print(f"error: can't write to standard output: {error.strerror}", file=sys.stderr)
        return 1


def _abandon_output() -> None:
    """Let what is left in the buffer go nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
