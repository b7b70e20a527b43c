"""`python -m server remove-camera`: remove a camera that sends no more."""

import argparse
import contextlib

from rjpeg.errors import ConfigError
from server.arguments import Commands, add_storage_flags, read_config, set_up_logging
from server.config import database_url, files_url

__all__ = ["add_parser"]


def add_parser(commands: Commands) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "remove-camera",
        help="remove a camera with all of its frames",
        description="Remove a camera that sends no more, with all of its frames, maps and zones. There is no "
        "way back. Its token stays, see `tokens revoke`. If it sends again, it is a new camera.",
    )
    parser.add_argument("camera", metavar="NAME", help="of the camera")
    add_storage_flags(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Remove the camera. Return the exit code.

    Raises:
        RjpegError: there is no such camera, the configuration is wrong, or the store can't be used.
    """
    set_up_logging("info")
    config = read_config(args)
    # only here: `--help` needs no database
    from server.store import Store

    with contextlib.closing(Store.open(database_url(config), files_url(config))) as store:
        deleted = store.remove_camera(args.camera)
        if deleted is None:
            known = ", ".join(store.camera_names()) or "there are none"
            raise ConfigError(f"no camera {args.camera!r} in {store.database.name}; cameras: {known}")
    print(f"camera {args.camera} is removed, with {deleted} frames")
    return 0
