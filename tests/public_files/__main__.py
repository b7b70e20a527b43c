"""Try the pictures of public sets, and print what became of them as a table.

The sets are the tests of other programs, in archives that are named and hashed in tests/public_files/sets.py. Each
distinct JPEG file is decoded, inspected, read as a film and as a camera's source, and encoded anew. djpeg and Pillow
decode it, too: what they refuse is to be refused, and what they show is to be the same. It needs djpeg, and apt for the
sets that Debian has. The exit code is 1 if a finding is left, or if a set can't be had.
"""

from __future__ import annotations

import argparse
import hashlib
import multiprocessing
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Self

from tqdm import tqdm

from tests.public_files import judge
from tests.public_files.judge import Verdict
from tests.public_files.sets import SETS, PublicSet, UnavailableError, fetch, is_jpeg, pictures_in, version_of

ROOT = Path(__file__).resolve().parents[2]
COLUMNS = ("same", "refused", "whole", "damaged", "left out")
HANG_SECONDS = 300
"""Of the wall clock, on a busy machine; the processor time of a file has a limit of its own."""


def main(arguments: list[str] | None = None) -> int:
    """Run the program. Return its exit code."""
    args = parser().parse_args(arguments)
    if shutil.which("djpeg") is None:
        print("error: djpeg is not installed: sudo apt-get install libjpeg-turbo-progs", file=sys.stderr)
        return 2
    rows, failed, seen = [], False, set()
    with Judge() as jury:
        for public in SETS:
            if args.only and public.name not in args.only:
                continue
            try:
                counts, findings = try_set(fetch(public, args.out), seen, jury, others=args.others)
            except UnavailableError as error:
                print(f"{public.name}: {error}", file=sys.stderr)
                failed = True
                continue
            for finding in findings:
                print(f"{public.name}: {finding}", file=sys.stderr)
            failed = failed or bool(findings)
            rows.append((public, counts))
            print(f"{public.name}: {dict(counts)}", file=sys.stderr, flush=True)
    print(table(rows))
    return int(failed)


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    p = argparse.ArgumentParser(
        prog="python -m tests.public_files", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("--only", action="append", metavar="SET", choices=[each.name for each in SETS], help="one of them")
    p.add_argument("--others", action="store_true", help="try pictures of other kinds, too (default: JPEG files alone)")
    p.add_argument(
        "--out",
        type=Path,
        default=ROOT / "out" / "public_files",
        metavar="FOLDER",
        help="for the archives, which are kept (default: out/public_files)",
    )
    return p


class Judge:
    """Judges files in another process, so that a crash or a hang is a finding and no end."""

    def __enter__(self) -> Self:
        """Start the process."""
        # not forked: TFLite's and OpenCV's threads would be missing there
        context = multiprocessing.get_context("spawn")
        self._pool = ProcessPoolExecutor(1, mp_context=context, initializer=judge.limit)
        return self

    def __exit__(self, *_: object) -> None:
        """End the process, even one that hangs."""
        for process in list((self._pool._processes or {}).values()):
            process.kill()
        self._pool.shutdown(cancel_futures=True)

    def __call__(self, function: Callable[[Path], Verdict], path: Path) -> Verdict:
        """Return the verdict of a function of tests/public_files/judge.py."""
        try:
            return self._pool.submit(function, path).result(HANG_SECONDS)
        except (BrokenProcessPool, TimeoutError) as error:
            self.__exit__()
            self.__enter__()
            return Verdict("crash", (f"{type(error).__name__}: it crashed or hung",))


def try_set(archive: Path, seen: set[str], jury: Judge, *, others: bool) -> tuple[Counter[str], list[str]]:
    """Judge the files of an archive that were not seen before. Return counts by outcome, and findings."""
    counts: Counter[str] = Counter()
    findings = []
    with tempfile.TemporaryDirectory() as folder:
        for name, data in tqdm(distinct(archive, seen), desc=archive.name, unit="", disable=None):
            jpeg = is_jpeg(name, data)
            if not jpeg and not others:
                continue
            path = Path(folder, f"picture{Path(name).suffix}")
            path.write_bytes(data)
            verdict = jury(judge.judge_jpeg if jpeg else judge.judge_other, path)
            counts[verdict.outcome] += 1
            counts["JPEG"] += jpeg
            findings += [f"{name}: {finding}" for finding in verdict.findings]
    return counts, findings


def distinct(archive: Path, seen: set[str]) -> Iterator[tuple[str, bytes]]:
    """Yield the pictures of an archive that were not seen before, and note them."""
    for name, data in pictures_in(archive):
        digest = hashlib.sha256(data).hexdigest()
        if digest not in seen:
            seen.add(digest)
            yield name, data


def table(rows: list[tuple[PublicSet, Counter[str]]]) -> str:
    """Return counts as Markdown, with their sum."""
    lines = ["| set | version | JPEG files | " + " | ".join(COLUMNS) + " |", "|---|---|" + "---:|" * (len(COLUMNS) + 1)]
    named = [(public.name, version_of(public), counts) for public, counts in rows]
    for name, version, counts in [*named, ("all", "", sum((counts for *_, counts in named), Counter()))]:
        cells = [f"{counts[column]:,}" for column in ("JPEG", *COLUMNS)]
        lines.append(" | ".join([f"| {name}", version, *cells]) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
