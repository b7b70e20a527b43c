"""Checks of the machine: its system, clock, power supply, temperature and frequency."""

import datetime
import platform
import sys

from device import health
from device.check.result import Check

__all__ = ["check_clock", "check_frequency", "check_power", "check_temperature", "check_userland"]

HOT, TOO_HOT = 70.0, 80.0  # degrees Celsius; at 80 a Raspberry Pi begins to slow down
# a clock that shows a time before this program was written is wrong, whatever it thinks
WRITTEN = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)


def check_userland() -> Check:
    """Check that Python has 64 bits, which the TFLite runtime needs."""
    found = f"{platform.machine()}, Python {platform.python_version()}"
    if sys.maxsize < 2**32:
        return Check("64 bits", False, f"{found}, 32 bits", "install the 64-bit Raspberry Pi OS; the runtime needs it")
    return Check("64 bits", True, found)


def check_clock() -> Check:
    """Check that the clock is plausible, and that something synchronizes it."""
    now = datetime.datetime.now(datetime.UTC)
    shown = now.isoformat(timespec="seconds")
    advice = "sudo timedatectl set-ntp true; frames bear the time they were taken at"
    if now < WRITTEN:
        return Check("clock", False, f"{shown} is long ago", advice)
    synchronized = health.clock_synchronized()
    if synchronized is None:
        return Check("clock", None, f"{shown}; whether it is synchronized can't be told")
    if not synchronized:
        return Check("clock", None, f"{shown}, not synchronized", advice)
    return Check("clock", True, f"{shown}, synchronized")


def check_power() -> Check:
    """Check that a Raspberry Pi's power supply and cooling hold, now and since its start."""
    flags = health.throttled()
    if flags is None:
        return Check("power", None, "no Raspberry Pi: nothing is told of it")
    now = [name for name in ("under_voltage", "throttled", "frequency_capped") if flags[name]]
    advice = "use the board's own power supply and a short cable; cool it"
    if now:
        return Check("power", None, "now: " + ", ".join(now).replace("_", " "), advice)
    before = [name for name in flags if flags[name]]
    if before:
        return Check("power", None, ", ".join(before).replace("_", " "), advice)
    return Check("power", True, "neither low voltage nor throttling since the start")


def check_temperature() -> Check:
    """Check that no sensor of the machine is hot."""
    found = health.temperatures()
    if not found:
        return Check("temperature", None, "no sensor")
    hottest = max(found.values())
    shown = ", ".join(f"{sensor} {degrees:.0f} °C" for sensor, degrees in found.items())
    if hottest >= HOT:
        return Check(
            "temperature", None, shown + (", too hot" if hottest >= TOO_HOT else ", hot"), "add a heat sink or a fan"
        )
    return Check("temperature", True, shown)


def check_frequency() -> Check:
    """Check that no core is held at its slowest frequency."""
    names = health.governors()
    if not names:
        return Check("frequency", None, "not governed")
    shown = f"governor {', '.join(sorted(names))}"
    if "powersave" in names:
        return Check("frequency", None, f"{shown}: the slowest", "sudo cpupower frequency-set -g ondemand")
    return Check("frequency", True, shown)
