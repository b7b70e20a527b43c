"""`python -m server tokens`: make, list and revoke tokens."""

import argparse
import contextlib
import json
import logging
from collections.abc import Sequence
from typing import Any

from rjpeg._arguments import positive
from rjpeg._protocol import time_text
from rjpeg.errors import ConfigError
from server.arguments import Commands, add_log_level_flag, add_storage_flags, read_config, set_up_logging
from server.config import data_folder, database_url

__all__ = ["add_parser"]

logger = logging.getLogger(__name__)


def add_parser(commands: Commands) -> None:
    """Add the command and its actions."""
    parser = commands.add_parser(
        "tokens",
        help="make, list and revoke tokens",
        description="Tokens for cameras, which send; for readers: people at the page and programs; and for managers, "
        "which set maps of importance and zones. Only a hash of a token is kept. A running server knows of a change "
        "within two seconds.",
    )
    actions = parser.add_subparsers(dest="action", required=True)
    add = actions.add_parser("add", help="make a token and print it", description="Make a token and print it.")
    add.add_argument("--camera", metavar="NAME", help="for this camera to send; else: for this one alone")
    of = add.add_mutually_exclusive_group()
    of.add_argument("--reader", action="store_true", help="for reading (default: for sending)")
    of.add_argument("--manager", action="store_true", help="for setting maps and zones (default: for sending)")
    add.add_argument("--note", default="", metavar="TEXT", help="for whom it is (default: none)")
    listing = actions.add_parser("list", help="list them", description="List all tokens, without their secrets.")
    listing.add_argument("--json", action="store_true", help="one JSON line a token (default: a table)")
    revoking = actions.add_parser("revoke", help="take one back", description="Take a token back.")
    revoking.add_argument("id", type=positive, metavar="ID", help="its number, which is also its second part")
    for action in (add, listing, revoking):
        add_storage_flags(action)
        add_log_level_flag(action)
        action.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Make, list or revoke tokens. Return the exit code.

    Raises:
        RjpegError: the configuration or an argument is wrong, or the database can't be used.
    """
    set_up_logging(args.log_level)
    config = read_config(args)
    # only here: `--help` needs no database
    from server.store import tokens
    from server.store.database import Database

    # without the files, which need not be reachable from here
    path = data_folder(config) / "server.sqlite3"
    is_new = config.storage.database is None and not path.exists()
    store = tokens.TokenDatabase(Database(database_url(config)))
    with contextlib.closing(store.database):
        if args.action == "add":
            role: tokens.Role = "reader" if args.reader else "manager" if args.manager else "camera"
            print(tokens.make(store, role, args.camera, args.note))
            logger.info("this is the only time that the token is shown; it is for %s", store.database.name)
            if is_new:
                logger.warning(
                    "no server has kept anything in %s yet; one that runs already has another --config, --data or "
                    "--database, and does not take this token",
                    path.parent,
                )
        elif args.action == "list":
            _print_tokens(tokens.list_tokens(store), as_json=args.json)
        elif not tokens.revoke(store, args.id):
            raise ConfigError(f"there is no token {args.id}")
    return 0


def _print_tokens(infos: Sequence[Any], *, as_json: bool) -> None:
    """Print a line for each token."""
    for info in infos:
        made = time_text(info.made_time)
        if as_json:
            record = {"id": info.id, "role": info.role, "camera": info.camera, "note": info.note, "made_time": made}
            print(json.dumps(record))
        else:
            print(f"{info.id:>6}  {info.role:7}  {info.camera or 'all':<24}  {made[:19]}Z  {info.note}".rstrip())
