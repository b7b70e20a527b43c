"""Receives frames from cameras, decodes them, lets a task look at them, keeps them, and shows them.

python -m server                                            on this machine only, no token needed
python -m server tokens add --camera yard > yard.token      a token for a camera
python -m server tokens add --reader                        a token for the page and for programs that read
python -m server --listen 0.0.0.0:8000 --data frames --task classifier.tflite
python -m server worker --broker mqtt://broker:1883         one more decoder behind an MQTT broker
python -m server rebuild                                    rows again from the files, after the database was lost
"""

import argparse
import contextlib
import datetime
import json
import logging
import signal
import sys
from collections.abc import Sequence
from typing import Any

from rjpeg._arguments import positive
from rjpeg._protocol import time_text
from rjpeg.errors import ConfigError, RjpegError
from server import config as configuration
from server.arguments import add_storage_flags, read_config, set_up_logging

EPILOG = """\
Frames are received by POST /v1/cameras/{camera}/frames: the body is the JPEG, its Content-Type image/jpeg, the
headers Rjpeg-Sequence (an integer) and Rjpeg-Capture-Time (ISO 8601) name it. The answer 201 means that the file and
its row are stored and would survive a power cut; 200 with "duplicate": true, that they were already. /openapi.json
describes that and everything that can be read. The line "listening on http://HOST:PORT" appears on standard error once
the server does. SIGTERM and Ctrl-C end it, exit 0.

Other commands: `tokens add|list|revoke`, `confirm-clock`, `worker`, `rebuild`; each has --help.
"""

logger = logging.getLogger("server")


def main(argv: Sequence[str] | None = None) -> int:
    """The program; returns its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    command = arguments.pop(0) if arguments and not arguments[0].startswith("-") else "serve"
    commands = {
        "serve": serve_command,
        "tokens": tokens_command,
        "confirm-clock": confirm_clock_command,
        "worker": worker_command,
        "rebuild": rebuild_command,
    }
    if command not in commands:
        parser().error(f"command {command!r}, expected {', '.join(commands)}")
    try:
        return commands[command](arguments)
    except RjpegError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def parser() -> argparse.ArgumentParser:
    """The command line of `serve`."""
    p = argparse.ArgumentParser(
        prog="python -m server",
        usage="%(prog)s [serve | tokens | confirm-clock | worker | rebuild] [options]",
        description=__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_storage_flags(p)
    p.add_argument("--listen", metavar="HOST:PORT", help="(default: 127.0.0.1:8000)")
    p.add_argument("--task", metavar="FILE", help="a .tflite classifier, or YAML as `task` in the configuration has it")
    p.add_argument("--model", metavar="FOLDER", help="made by `make export-tflite` (default: what comes with rjpeg)")
    p.add_argument(
        "--restore",
        action="store_true",
        default=None,
        help="let the model's restorer undo what coding did (default: no)",
    )
    p.add_argument("--workers", type=positive, metavar="N", help="frames decoded at a time (default: one a core)")
    p.add_argument(
        "--auth", choices=["on", "off", "auto"], help="whether a token is needed (default: auto, when not on loopback)"
    )
    p.add_argument("--tls-certificate", metavar="FILE", help="PEM, with --tls-key (default: no TLS)")
    p.add_argument("--tls-key", metavar="FILE", help="PEM")
    p.add_argument("--json", action="store_true", help="print a JSON line for every frame (default: no)")
    p.add_argument(
        "--log-level", choices=["debug", "info", "warning", "error"], default="info", help="(default: %(default)s)"
    )
    return p


def serve_command(arguments: list[str]) -> int:
    """Serve until a signal ends it."""
    args = parser().parse_args(arguments)
    set_up_logging(args.log_level)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    config = read_config(args)
    # only here: tokens and workers need no HTTP
    from server.lines import LineWriter
    from server.listening import check_tls, needs_token, open_socket
    from server.service import make_service, serve

    required = needs_token(config)
    check_tls(config)
    emit = LineWriter() if args.json else lambda _: None
    with open_socket(config) as listening, make_service(config, access_required=required, emit=emit) as service:
        if required and config.tls.certificate is None:
            logger.warning("tokens travel unencrypted; use --tls-certificate and --tls-key where others can listen")
        serve(service, listening)
    return 0


def tokens_command(arguments: list[str]) -> int:
    """Make, list and revoke tokens."""
    args = tokens_parser().parse_args(arguments)
    set_up_logging(args.log_level)
    config = read_config(args)
    from server.store import tokens
    from server.store.database import Database

    # without the files, which are not asked for and need not be reached from here
    store = tokens.TokenDatabase(Database(configuration.database_url(config)))
    with contextlib.closing(store.database):
        if args.action == "add":
            role: tokens.Role = "reader" if args.reader else "camera"
            print(tokens.make(store, role, args.camera, args.note))
            logger.info("this is the only time that the token is shown")
        elif args.action == "list":
            print_tokens(tokens.list_tokens(store), as_json=args.json)
        elif not tokens.revoke(store, args.id):
            raise ConfigError(f"there is no token {args.id}")
    return 0


def tokens_parser() -> argparse.ArgumentParser:
    """The command line of `tokens`."""
    p = argparse.ArgumentParser(
        prog="python -m server tokens",
        description="Tokens for cameras, which send, and for readers: people at the page and programs. Only a hash of "
        "a token is kept. A running server knows of a change within two seconds.",
    )
    actions = p.add_subparsers(dest="action", required=True)
    add = actions.add_parser("add", help="make a token and print it", description="Make a token and print it.")
    add.add_argument("--camera", metavar="NAME", help="for this camera to send; with --reader: for reading it alone")
    add.add_argument("--reader", action="store_true", help="for reading (default: for sending)")
    add.add_argument("--note", default="", metavar="TEXT", help="for whom it is (default: none)")
    listing = actions.add_parser("list", help="list them", description="List all tokens, without their secrets.")
    listing.add_argument("--json", action="store_true", help="one JSON line a token (default: a table)")
    revoking = actions.add_parser("revoke", help="take one back", description="Take a token back.")
    revoking.add_argument("id", type=positive, metavar="ID", help="its number, which is also its second part")
    for action in (add, listing, revoking):
        add_storage_flags(action)
        action.add_argument(
            "--log-level", choices=["debug", "info", "warning", "error"], default="info", help="(default: %(default)s)"
        )
    return p


def print_tokens(infos: Sequence[Any], *, as_json: bool) -> None:
    """A line a token."""
    for info in infos:
        made = time_text(info.made_time)
        if as_json:
            record = {"id": info.id, "role": info.role, "camera": info.camera, "note": info.note, "made_time": made}
            print(json.dumps(record))
        else:
            print(f"{info.id:>6}  {info.role:6}  {info.camera or 'all':<24}  {made[:19]}Z  {info.note}".rstrip())


def confirm_clock_command(arguments: list[str]) -> int:
    """Believe this machine's clock as it is now."""
    p = argparse.ArgumentParser(
        prog="python -m server confirm-clock",
        description="Say that this machine's clock is right now. Retention doesn't count a jump of the clock as age "
        "until then. It holds for the jumps up to now and for no later one. Running programs know of it at once.",
    )
    add_storage_flags(p)
    args = p.parse_args(arguments)
    set_up_logging("info")
    config = read_config(args)
    from server.store import clock
    from server.store.database import Database

    # without the files, as for tokens
    with contextlib.closing(Database(configuration.database_url(config))) as database:
        now, newest = datetime.datetime.now(datetime.UTC), clock.newest_time(database)
        clock.confirm(database, now, clock.SteadyClock.of_machine())
    print(f"confirmed: now is {time_text(now)}")
    print("no frame is kept" if newest is None else f"the newest frame was stored at {time_text(newest)}")
    return 0


def worker_command(arguments: list[str]) -> int:
    """Decode what an MQTT broker hands out."""
    # only here: it needs an MQTT client
    from server.mqtt import worker

    return worker.main(arguments)


def rebuild_command(arguments: list[str]) -> int:
    """Make rows of files that have none."""
    # only here: it decodes
    from server import rebuild

    return rebuild.main(arguments)


if __name__ == "__main__":
    sys.exit(main())
