"""A bundle's folder as `scripts/bundle` lays it out, round wheels that a test has put there."""

import hashlib
import shutil
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def lay_out(folder: Path, *, version: str, machine: str, python: str) -> None:
    """Put beside `folder/wheels` what else a bundle has, and the sums of all."""
    shutil.copytree(ROOT / "device", folder / "device", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "install.sh").symlink_to("device/install.sh")
    (folder / "README.md").write_text("guide\n")
    (folder / "BUNDLE").write_text(f"version={version}\nos=bookworm\nmachine={machine}\npython={python}\n")
    files = sorted(path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    sums = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  ./{path.relative_to(folder)}\n" for path in files]
    (folder / "SHA256SUMS").write_text("".join(sums))
