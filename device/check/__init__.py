"""`capture.py check`: what would not work on this device, and how to mend it.

Each module checks one thing. `runner` calls them one after another, with a time limit for each.
"""

from device.check.result import Check
from device.check.runner import run_checks

__all__ = ["Check", "run_checks"]
