"""`python -m server worker`: decode what an MQTT broker delivers."""

import argparse
import asyncio
import contextlib
import functools
import re
import signal
from typing import TYPE_CHECKING

from rjpeg._arguments import path_text, positive
from rjpeg._files import read_token
from rjpeg._protocol import broker_address
from server.arguments import (
    Commands,
    add_output_flags,
    add_processing_flags,
    add_storage_flags,
    read_config,
    set_up_logging,
)
from server.config import data_folder
from server.frames import CAMERA_ID
from server.lines import LineWriter
from server.mqtt.names import reserve_name

if TYPE_CHECKING:
    from server.background import Done
    from server.core import Service
    from server.mqtt.worker import Worker

__all__ = ["add_parser"]

DESCRIPTION = """\
Take frames off an MQTT 5 broker and do with them what the service does: decode, ask the task, store.

    python -m server worker --broker mqtt://broker:1883 --data frames
    python -m server worker --broker mqtts://broker:8883 --username decoder --token-file password \\
        --database postgresql+psycopg://rjpeg@database/rjpeg --files s3://bucket/frames --task detector
"""

EPILOG = """\
Workers of one --group share the cameras' frames by a shared subscription ($share/GROUP/TOPIC/+/image, MQTT 5), behind
any number of brokers of one cluster. Each frame goes to one of them. A frame is acknowledged once it is stored. The
broker sends what a dead worker had not acknowledged again, to that worker or to another. A frame that is stored already
is recognized. So the workers of a group share one store: --database and --files, or --data on one machine. A file that
can't be decoded is acknowledged, counted and logged. When the store fails, frames are kept and tried again, and no more
are taken meanwhile.

The broker keeps a worker's session, by its --name, for --session seconds after the worker has gone. A worker that is
restarted goes on with what waits there. Let the broker queue that many messages (mosquitto: persistence true,
max_queued_messages); it drops the rest. With --leave, SIGTERM gives the session up for good.

With --listen, the worker is a whole service besides, see `python -m server --help`: the page, /metrics, /healthz.
SIGTERM and Ctrl-C end it, exit 0.
"""


def add_parser(commands: Commands) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "worker",
        help="be one more decoder behind an MQTT broker",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_broker_flags(parser)
    parser.add_argument("--listen", metavar="HOST:PORT", help="be the whole service besides (default: no)")
    add_storage_flags(parser)
    add_processing_flags(parser)
    add_output_flags(parser)
    parser.set_defaults(run=run)


def _add_broker_flags(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--broker", required=True, metavar="URL", help="mqtt://HOST[:1883] or mqtts://HOST[:8883]")
    add("--group", type=name_part, default="rjpeg", help="of workers that share the frames (default: %(default)s)")
    add("--topic", type=topic_prefix, default="rjpeg", help="frames are at TOPIC/{camera}/image (default: %(default)s)")
    add(
        "--name",
        type=name_part,
        help="of this worker, for the broker to know it again (default: host's name and the first number that is free)",
    )
    add("--username", metavar="NAME", help="for the broker, with --token-file (default: none)")
    add("--token-file", type=path_text, metavar="FILE", help="with the password (default: none)")
    add(
        "--ca-file",
        type=path_text,
        metavar="FILE",
        help="authority of the broker's certificate (default: the system's)",
    )
    add("--pending", type=positive, metavar="N", help="frames done at a time (default: limits.pending, 32)")
    add(
        "--session",
        type=positive,
        default=86400,
        metavar="SECONDS",
        help="that the broker keeps frames for this worker when it has gone (default: %(default)s)",
    )
    add("--leave", action="store_true", help="at SIGTERM, finish what waits and give the session up")


def name_part(text: str) -> str:
    """Check what may be part of a client id and of a shared subscription, for argparse."""
    if not CAMERA_ID.fullmatch(text):
        raise argparse.ArgumentTypeError(f"{text!r}, expected 1 to 64 of A-Z a-z 0-9 _ -")
    return text


def topic_prefix(text: str) -> str:
    """Check a prefix of topics, for argparse."""
    if not re.fullmatch(r"[^+#\x00]{1,200}", text):
        raise argparse.ArgumentTypeError(f"{text!r}, expected 1 to 200 characters without + and #")
    return text


def run(args: argparse.Namespace) -> int:
    """Take frames until a signal ends it. Return the exit code.

    Raises:
        RjpegError: the configuration is wrong, a part of the service can't be started, or the broker refuses the
            worker for good.
    """
    set_up_logging(args.log_level)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    config = read_config(args)
    broker_address("--broker", args.broker)
    # only here: other commands need no MQTT client
    from server.listening import check_tls, needs_token, open_socket
    from server.mqtt.broker import BrokerSettings
    from server.mqtt.worker import Worker
    from server.service import make_service, serve

    emit = LineWriter() if args.json else lambda _: None
    with contextlib.ExitStack() as stack:
        name = args.name or stack.enter_context(
            reserve_name(data_folder(config) / "workers", f"{args.broker} {args.group} {args.topic}")
        )
        settings = BrokerSettings(
            broker=args.broker,
            name=name,
            group=args.group,
            topic=args.topic,
            username=args.username,
            password=read_token(args.token_file) if args.token_file else None,
            ca_file=args.ca_file,
            session=args.session,
        )
        listening, required = None, False
        if args.listen is not None:
            required = needs_token(config)
            check_tls(config)
            listening = stack.enter_context(open_socket(config))
        service = stack.enter_context(make_service(config, access_required=required, emit=emit))
        late = data_folder(config) / "workers" / "late"
        worker = Worker(service, settings, late, pending=args.pending or config.limits.pending, leave=args.leave)
        if listening is None:
            asyncio.run(_run_until_signal(service, worker))
        else:
            serve(service, listening, background={"worker": functools.partial(_stop_on_error, worker)})
        if worker.error is not None:
            raise worker.error
    return 0


async def _run_until_signal(service: "Service", worker: "Worker") -> None:
    """Run a worker and tend its store, until SIGINT or SIGTERM.

    Frames of other programs are not followed, since nobody asks a worker without --listen for them.
    """
    from server.upkeep import keep_tending

    background = service.background
    running = asyncio.ensure_future(background.run("worker", functools.partial(_stop_on_error, worker)))
    tending = asyncio.ensure_future(background.run("retention", functools.partial(keep_tending, service)))
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, running.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        await running
    tending.cancel()
    await asyncio.gather(tending, return_exceptions=True)


async def _stop_on_error(worker: "Worker", done: "Done") -> None:
    """Run a worker. End the program if the worker can't go on."""
    await worker.run(done)
    signal.raise_signal(signal.SIGTERM)
    # the signal's handler cancels this
    await asyncio.Event().wait()
