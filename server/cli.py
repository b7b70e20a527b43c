"""Receive frames from cameras, decode them, ask a task about them, keep them, and show them.

python -m server                                            on this machine only, no token needed
python -m server tokens add --camera yard > yard.token      a token for a camera
python -m server tokens add --reader                        a token for the page and for programs that read
python -m server --listen 0.0.0.0:8000 --data frames --task detector
python -m server worker --broker mqtt://broker:1883         one more decoder behind an MQTT broker
python -m server rebuild                                    rows again from the files, after the database was lost
"""

import argparse
import sys
from collections.abc import Sequence

from rjpeg.errors import RjpegError
from server.commands import confirm_clock, rebuild, remove_camera, serve, tokens, worker

__all__ = ["build_parser", "main"]

COMMANDS = (serve, tokens, remove_camera, confirm_clock, worker, rebuild)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program. Return its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    # flags without a command are those of `serve`
    if not arguments or (arguments[0].startswith("-") and arguments[0] not in ("-h", "--help")):
        arguments.insert(0, "serve")
    args = build_parser().parse_args(arguments)
    try:
        code: int = args.run(args)
    except RjpegError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return code


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the whole command line."""
    parser = argparse.ArgumentParser(
        prog="python -m server",
        usage="%(prog)s [serve | tokens | remove-camera | confirm-clock | worker | rebuild] [options]",
        description=__doc__,
        epilog=serve.EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(
        title="commands", metavar="COMMAND", required=True, prog=parser.prog, description="each has --help"
    )
    for command in COMMANDS:
        command.add_parser(commands)
    # for --help alone, since `main` gives flags without a command to `serve`
    serve.add_flags(parser)
    return parser
