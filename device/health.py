"""What Linux tells about the machine: temperature, throttling, clock, memory.

Functions return None, or something empty, for what it doesn't tell. Tests give a `root`, under which files are looked
for.
"""

import ctypes
import os
from pathlib import Path

__all__ = ["clock_synchronized", "governors", "open_files", "resident_bytes", "temperatures", "throttled"]

ROOT = Path("/")

# https://www.raspberrypi.com/documentation/computers/os.html#get_throttled
THROTTLED_BITS = {
    0: "under_voltage",
    1: "frequency_capped",
    2: "throttled",
    3: "soft_temperature_limit",
    16: "under_voltage_since_boot",
    17: "frequency_capped_since_boot",
    18: "throttled_since_boot",
    19: "soft_temperature_limit_since_boot",
}
# systemd's limit for NTPSynchronized in `timedatectl show`: the kernel's error bound reaches 16 s when nothing
# has set the clock for some hours. STA_UNSYNC is also set by programs that keep the hardware clock to themselves.
SYNCHRONIZED_BELOW_US = 16_000_000


def temperatures(root: Path = ROOT) -> dict[str, float]:
    """Return degrees Celsius by sensor, such as {"cpu-thermal": 48.3}; empty if there is no sensor."""
    found = {}
    for zone in sorted((root / "sys/class/thermal").glob("thermal_zone*")):
        kind, value = _text(zone / "type"), _text(zone / "temp")
        try:
            degrees = int(value or "") / 1000
        except ValueError:
            continue
        name = kind or zone.name
        found[name if name not in found else f"{name}-{zone.name}"] = degrees
    return found


def throttled(root: Path = ROOT) -> dict[str, bool] | None:
    """Return a Raspberry Pi's flags about power supply and temperature, now and since boot; see THROTTLED_BITS."""
    for path in sorted((root / "sys/devices/platform").glob("soc*/soc*:firmware/get_throttled")):
        try:
            flags = int(_text(path) or "", 16)
        except ValueError:
            continue
        return {name: bool(flags >> bit & 1) for bit, name in THROTTLED_BITS.items()}
    return None


def governors(root: Path = ROOT) -> set[str]:
    """Return the names of the cores' frequency governors; empty if the frequency isn't governed."""
    paths = (root / "sys/devices/system/cpu").glob("cpu[0-9]*/cpufreq/scaling_governor")
    return {name for path in paths if (name := _text(path))}


def resident_bytes() -> int | None:
    """Return the bytes of this process that are in RAM."""
    fields = (_text(Path("/proc/self/statm")) or "").split()
    return int(fields[1]) * os.sysconf("SC_PAGE_SIZE") if len(fields) > 1 else None


def open_files() -> int | None:
    """Return how many file descriptors this process has open."""
    try:
        return sum(1 for _ in Path("/proc/self/fd").iterdir()) - 1  # one of them is the listing's own
    except OSError:
        return None


def clock_synchronized() -> bool | None:
    """Return whether a time service has set the clock (adjtimex(2), which needs no privilege to read)."""
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        state = _Timex()
        if libc.adjtimex(ctypes.byref(state)) < 0:
            return None
    except (OSError, AttributeError):
        return None
    return bool(state.maxerror < SYNCHRONIZED_BELOW_US)


class _Timex(ctypes.Structure):
    """`struct timex` up to the last field that is read. The rest is room for the kernel's 208 bytes."""

    _fields_ = (
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("freq", ctypes.c_long),
        ("maxerror", ctypes.c_long),
        ("rest", ctypes.c_char * 256),
    )


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return None
