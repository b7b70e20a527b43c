"""`python -m server rebuild`: make the rows of files that have none."""

import argparse
import contextlib
import json
from dataclasses import asdict

from rjpeg._arguments import positive
from server.arguments import Commands, add_log_level_flag, add_storage_flags, read_config, set_up_logging
from server.config import database_url, files_url, max_pixels, workers

__all__ = ["add_parser"]

TEXTS = {
    "known": "files have a row",
    "duplicates": "files are of a frame that has a row with another file; they are left",
    "deleted": "files were deleted and are on their way out",
    "damaged": "files are not what was written under their names, as the log says; they are left",
    "unreadable": "files can't be read, as the log says; they are left",
    "not_decoded": "files can't be decoded, as the log says; they are left",
    "no_key": "files need a key or a patch that has no row; they are left",
    "under_way": "files may be of frames that are just being added; run this again in an hour",
    "made": "rows made",
}


def add_parser(commands: Commands) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "rebuild",
        help="make rows again from the files, after the database was lost",
        description="Make rows again of files that have none: after the database was lost, or one of some time ago was "
        "restored. Answers of the task, metrics of cameras and tokens are only in a backup of the database. This may "
        "run beside the service, and again at any time.",
    )
    add_storage_flags(parser)
    parser.add_argument(
        "--model", metavar="FOLDER", help="that the frames were decoded with (default: what comes with rjpeg)"
    )
    parser.add_argument("--workers", type=positive, metavar="N", help="files decoded at a time (default: one a core)")
    parser.add_argument("--json", action="store_true", help="print the counts as JSON (default: no)")
    add_log_level_flag(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Make the rows, and print how many. Return the exit code.

    Raises:
        RjpegError: the configuration is wrong, or database or files can't be used.
    """
    set_up_logging(args.log_level)
    config = read_config(args)
    # only here: `--help` needs no database
    from tqdm.contrib.logging import logging_redirect_tqdm

    from server.rebuild import make_measure, open_unchecked, rebuild

    measure = make_measure(config.decoding.model, max_pixels(config))
    store = open_unchecked(database_url(config), files_url(config))
    with contextlib.closing(store), logging_redirect_tqdm():
        counts = asdict(rebuild(store, measure, workers=workers(config), progress=True))
    if args.json:
        print(json.dumps(counts))
    else:
        for name, text in TEXTS.items():
            if counts[name] or name == "made":
                print(f"{counts[name]:>10,} {text}")
    return 0
