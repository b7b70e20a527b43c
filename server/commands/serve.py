"""`python -m server serve`: serve until a signal ends it."""

import argparse
import logging
import shlex
import signal
import sys
from pathlib import Path

from rjpeg._arguments import path_text
from rjpeg._secrets import masked
from server.arguments import (
    Commands,
    add_output_flags,
    add_processing_flags,
    add_storage_flags,
    read_config,
    set_up_logging,
)
from server.config import DEFAULT_PATH, Config, data_folder
from server.lines import LineWriter

__all__ = ["EPILOG", "add_flags", "add_parser"]

logger = logging.getLogger(__name__)

EPILOG = """\
Frames are received by POST /v1/cameras/{camera}/frames: the body is the JPEG, its Content-Type image/jpeg, the
headers Rjpeg-Sequence (an integer) and Rjpeg-Capture-Time (ISO 8601) name it. The answer 201 means that the file and
its row are stored and would survive a power cut; 200 with "duplicate": true, that they were already. /openapi.json
describes that and everything that can be read. The line "listening on http://HOST:PORT" appears on standard error once
the server does. SIGTERM and Ctrl-C end it, exit 0.
"""


def add_parser(commands: Commands) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "serve",
        help="serve; it may be left out",
        # without its name, since it may be left out
        prog="python -m server",
        usage="%(prog)s [serve] [options]",
        description="Receive frames from cameras, decode them, ask a task about them, keep them, and show them.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_flags(parser)
    parser.set_defaults(run=run)


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the command's flags."""
    add_storage_flags(parser)
    parser.add_argument("--listen", metavar="HOST:PORT", help="(default: 127.0.0.1:8000)")
    add_processing_flags(parser)
    parser.add_argument(
        "--auth", choices=["on", "off", "auto"], help="whether a token is needed (default: auto, when not on loopback)"
    )
    parser.add_argument(
        "--tls-certificate", type=path_text, metavar="FILE", help="PEM, with --tls-key (default: no TLS)"
    )
    parser.add_argument("--tls-key", type=path_text, metavar="FILE", help="PEM")
    add_output_flags(parser)


def run(args: argparse.Namespace) -> int:
    """Serve until a signal ends it. Return the exit code.

    Raises:
        RjpegError: the configuration is wrong, or a part of the service can't be started.
    """
    set_up_logging(args.log_level)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    config = read_config(args)
    # only here: other commands need no HTTP
    from server.listening import check_tls, needs_token, open_socket
    from server.service import make_service, serve

    required = needs_token(config)
    check_tls(config)
    emit = LineWriter() if args.json else lambda _: None
    with open_socket(config) as listening, make_service(config, access_required=required, emit=emit) as service:
        if required:
            logger.info("a reader's token, for the page: %s", _whole_command(args, config))
        if required and config.tls.certificate is None:
            logger.warning("tokens travel unencrypted; use --tls-certificate and --tls-key where others can listen")
        serve(service, listening)
    return 0


def _whole_command(args: argparse.Namespace, config: Config) -> str:
    """Return the command that makes a reader's token for this server from any folder. A password is left out."""
    parts = [sys.executable, "-m", "server", "tokens", "add", "--reader"]
    if Path(args.config).resolve() != DEFAULT_PATH:
        parts += ["--config", str(Path(args.config).resolve())]
    if args.data is not None:
        parts += ["--data", str(data_folder(config))]
    if args.database is not None:
        parts += ["--database", masked(args.database)]
    return f"cd {shlex.quote(str(DEFAULT_PATH.parents[1]))} && {shlex.join(parts)}"
