"""What a test of a fault needs: how often to try it, and a place for what came of it.

`make faults` sets RJPEG_FAULTS to a file: then every fault is tried as often as docs/reliability.md says, and each test
adds a line of JSON. Without it, as in `make test`, a fault is tried a few times and nothing is written.
"""

import json
import os
from pathlib import Path

import pytest

__all__ = ["Faults", "faults"]


class Faults:
    """One test's share of the table of faults.

    Args:
        path: file that gets the lines; None: short, and no lines.
        test: id of the test, which is also how anyone tries the fault again.
    """

    def __init__(self, path: Path | None, test: str) -> None:
        self._path = path
        self._test = test

    def count(self, short: int, full: int) -> int:
        """Return how often to try: `short` times in `make test`, `full` times in `make faults`."""
        return short if self._path is None else full

    def record(self, fault: str, *, tried: int, lost: int, ended: str) -> None:
        """Add a line to the table.

        Args:
            fault: what was done, in words: "kill -9 of the server while three cameras send".
            tried: how often it was done.
            lost: acknowledged frames that were missing or changed afterwards.
            ended: what it came to, with counts where it differs: "in service 180, refused to start 20".
        """
        if self._path is None:
            return
        line = json.dumps({"fault": fault, "tried": tried, "lost": lost, "ended": ended, "test": self._test})
        with self._path.open("a") as file:
            file.write(line + "\n")


@pytest.fixture
def faults(request: pytest.FixtureRequest) -> Faults:
    """Give the test its share of the table."""
    path = os.environ.get("RJPEG_FAULTS")
    return Faults(Path(path) if path else None, request.node.nodeid)
