"""Results of `python -m benchmarks` in Markdown, and beside their budgets."""

import math
import statistics
from typing import Any

from benchmarks.coding import (
    DECODE,
    ENCODE,
    ENCODE_MAP,
    ENCODE_TO_TARGET,
    ENCODE_VIDEO,
    OPENCV_ENCODE,
    PEERS,
    RESTORE,
)
from benchmarks.following import DECODE_FOLLOWER, ENCODE_FOLLOWER
from benchmarks.following import PEERS as FOLLOWER_PEERS
from benchmarks.frames import parse_size

__all__ = ["BUDGET_SIZE", "MEMORY_BUDGET", "budgets", "table"]

BUDGET_SIZE = "640x480"
NETWORKS = ("generator", "predictor")
# what is wished for at BUDGET_SIZE: times OpenCV's; all but the networks; megabytes; share of the mean cost a pixel
BUDGETS = {ENCODE: 3.0, ENCODE_MAP: 1.3, DECODE: 2.5}
FOLLOWER_BUDGETS = {ENCODE_FOLLOWER: 1.0, DECODE_FOLLOWER: 0.8}
RESTORE_BUDGET = 10.0
"""Decoding and restoring, times decoding."""
HELD_BUDGET = 3.0
"""Bytes that a stream holds a pixel of its coding size."""
MEMORY_BUDGET = 120
LINEAR_WITHIN = 0.15


def without_networks(row: dict[str, Any]) -> float:
    """Return milliseconds of encoding less those of its two networks."""
    of_networks = (row["stages"][ENCODE].get(stage, 0.0) for stage in NETWORKS)
    return float(row["milliseconds"][ENCODE] - sum(of_networks))


def budgets(results: dict[str, Any]) -> list[tuple[str, float, float]]:
    """List (what, found, below what it should be)."""
    lines = []
    for row in results["sizes"]:
        if row["size"] != BUDGET_SIZE:
            continue
        times = row["milliseconds"]
        for name, limit in BUDGETS.items():
            lines.append((f"{name}, times {PEERS[name]}", times[name] / times[PEERS[name]], limit))
        rest = without_networks(row) / times[OPENCV_ENCODE]
        lines.append((f"encode without the networks, times {OPENCV_ENCODE}", rest, BUDGETS[ENCODE_MAP]))
        if RESTORE in times:
            lines.append((f"{RESTORE}, times {DECODE}", times[RESTORE] / times[DECODE], RESTORE_BUDGET))
    if "stream" in results:
        times = results["stream"]["milliseconds"]
        for name, limit in FOLLOWER_BUDGETS.items():
            peer = FOLLOWER_PEERS[name]
            lines.append((f"{name}, times {peer}", times[name] / times[peer], limit))
        held = results["stream"]["held_bytes_a_pixel"]
        lines.append(("bytes that a stream holds a pixel of its coding size", held, HELD_BUDGET))
    costs = results["pixel_nanoseconds"]
    if len(costs) > 1:
        mean = statistics.fmean(costs.values())
        farthest = max(abs(cost / mean - 1) for cost in costs.values())
        lines.append((f"encode, cost a pixel off its mean, {_ends(results)}", farthest, LINEAR_WITHIN))
    if "process" in results:
        lines.append(
            (f"megabytes of a process that encodes {BUDGET_SIZE}", results["process"]["peak_megabytes"], MEMORY_BUDGET)
        )
    return lines


def _ends(results: dict[str, Any]) -> str:
    sizes = sorted(results["pixel_nanoseconds"], key=lambda size: math.prod(parse_size(size)))
    return f"{sizes[0]} to {sizes[-1]}"


def _rows_of_followers(found: dict[str, Any]) -> list[str]:
    rows = []
    for name, value in found["milliseconds"].items():
        peer = found["milliseconds"][FOLLOWER_PEERS.get(name, name)]
        size = f"{found['mean_bytes'][name]:.0f}" if name in found["mean_bytes"] else ""
        rows.append(f"| {found['size']} | {name} | {value:.2f} | {value / peer:.2f} | {size} |")
    return rows


def table(results: dict[str, Any]) -> str:
    """Render the times in Markdown: totals with their ratio to OpenCV, then the stages."""
    on = results["machine"]
    lines = [
        f"{on['processor']}, Python {on['python']}, OpenCV {on['opencv']}, {on['runtime']}.",
        f"Milliseconds, median; one thread; quality {results['quality']:g}.",
        "",
        "| size | operation | ms | to OpenCV | mean bytes |",
        "| --- | --- | ---: | ---: | ---: |",
    ]
    for row in results["sizes"]:
        for name, value in row["milliseconds"].items():
            peer = row["milliseconds"][PEERS.get(name, name)]
            size = f"{row['mean_bytes'][name]:.0f}" if name in row["mean_bytes"] else ""
            lines.append(f"| {row['size']} | {name} | {value:.2f} | {value / peer:.2f} | {size} |")
    if "stream" in results:
        lines += _rows_of_followers(results["stream"])
    sizes = [row["size"] for row in results["sizes"]]
    lines += ["", "| stage | " + " | ".join(sizes) + " |", "| --- |" + " ---: |" * len(sizes)]
    for operation in (ENCODE, ENCODE_MAP, ENCODE_TO_TARGET, ENCODE_VIDEO, DECODE, RESTORE):
        names = dict.fromkeys(stage for row in results["sizes"] for stage in row["stages"].get(operation, {}))
        for stage in names:
            cells = [row["stages"].get(operation, {}).get(stage) for row in results["sizes"]]
            text = " | ".join("" if cell is None else f"{cell:.2f}" for cell in cells)
            lines.append(f"| {operation}: {stage} | {text} |")
    costs = " | ".join(f"{results['pixel_nanoseconds'][size]:.1f}" for size in sizes)
    lines.append(f"| {ENCODE}: nanoseconds a pixel, frame after frame | {costs} |")
    lines += ["", "| budget | found | limit | |", "| --- | ---: | ---: | --- |"]
    for what, found, limit in budgets(results):
        lines.append(f"| {what} | {found:.2f} | {limit:g} | {'met' if found < limit else 'not met'} |")
    if "process" in results:
        found = results["process"]
        times = f"{found['import_seconds']:.2f} s to import, {found['first_frame_seconds']:.3f} s to its first frame"
        lines += ["", f"A new process: {times} at {BUDGET_SIZE}, {found['peak_megabytes']:.0f} MB at most."]
    return "\n".join(lines)
