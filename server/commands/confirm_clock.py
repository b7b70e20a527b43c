"""`python -m server confirm-clock`: say that this machine's clock is right."""

import argparse
import contextlib
import datetime

from rjpeg._protocol import time_text
from server.arguments import Commands, add_storage_flags, read_config, set_up_logging
from server.config import database_url

__all__ = ["add_parser"]


def add_parser(commands: Commands) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "confirm-clock",
        help="say that this machine's clock is right",
        description="Say that this machine's clock is right. Until then, retention doesn't count a jump of the clock "
        "as age. This holds for the jumps up to now and for no later one. Running programs know of it at once.",
    )
    add_storage_flags(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Confirm the clock as it is now. Return the exit code.

    Raises:
        RjpegError: the configuration is wrong, or the database can't be used.
    """
    set_up_logging("info")
    config = read_config(args)
    # only here: `--help` needs no database
    from server.store import clock
    from server.store.database import Database

    # without the files, which need not be reachable from here
    with contextlib.closing(Database(database_url(config))) as database:
        now, newest = datetime.datetime.now(datetime.UTC), clock.newest_time(database)
        clock.confirm(database, now, clock.SteadyClock.of_machine())
    print(f"confirmed: now is {time_text(now)}")
    print("no frame is kept" if newest is None else f"the newest frame was stored at {time_text(newest)}")
    return 0
