"""Try every fault that the kit claims to survive, and print what was lost as a table.

Faults are the tests with the marker `faults`. Here each is tried as often as docs/reliability.md says, which takes
hours; `make test ARGS="-m slow"` tries each a few times.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
BEGIN, END = "<!-- faults: begin -->", "<!-- faults: end -->"


def main(arguments: list[str] | None = None) -> int:
    """Run the program; return its exit code: 0 where nothing was lost and every test passed."""
    args = parser().parse_args(arguments)
    results = args.out / "faults.jsonl"
    args.out.mkdir(parents=True, exist_ok=True)
    if not args.resume:
        results.unlink(missing_ok=True)
    command = [sys.executable, "-m", "pytest", "-m", "faults", "--timeout", "10800", "-n", str(args.workers)]
    command += ["-k", args.only] if args.only else []
    code = subprocess.run(command, cwd=ROOT, env=os.environ | {"RJPEG_FAULTS": str(results.resolve())}).returncode
    lines = results.read_text().splitlines() if results.exists() else []
    # a fault that was tried again counts as it was last
    rows = list({row["fault"]: row for row in map(json.loads, lines)}.values())
    print(table(rows))
    if args.write:
        write(ROOT / "docs" / "reliability.md", table(rows))
    return code or int(any(row["lost"] for row in rows))


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    p = argparse.ArgumentParser(
        prog="python -m tests.faults", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("--only", metavar="WORDS", help="tests whose names match, as pytest's -k (default: all)")
    p.add_argument("--workers", type=int, default=2, metavar="N", help="tests at a time (default: %(default)s)")
    p.add_argument(
        "--out",
        type=Path,
        default=ROOT / "out" / "faults",
        metavar="FOLDER",
        help="for faults.jsonl (default: out/faults)",
    )
    p.add_argument("--resume", action="store_true", help="keep the lines of earlier runs (default: no)")
    p.add_argument("--write", action="store_true", help="put the table into docs/reliability.md (default: no)")
    return p


def table(rows: list[dict[str, Any]]) -> str:
    """Return the rows as Markdown, sorted by what was done."""
    lines = ["| fault | tried | lost | ended | test |", "|---|---:|---:|---|---|"]
    for row in sorted(rows, key=lambda row: str(row["fault"])):
        name = row["test"].rpartition("::")[2]
        lines.append(f"| {row['fault']} | {row['tried']:,} | {row['lost']:,} | {row['ended']} | `{name}` |")
    return "\n".join(lines)


def write(path: Path, text: str) -> None:
    """Put the table between the two marks of a document."""
    document = path.read_text()
    head, _, rest = document.partition(BEGIN)
    _, _, tail = rest.partition(END)
    path.write_text(f"{head}{BEGIN}\n{text}\n{END}{tail}")


if __name__ == "__main__":
    sys.exit(main())
