"""What the commands of `python -m server` share: flags, their place in the configuration, and the log."""

import argparse
import logging
from typing import TypeAlias

from rjpeg._arguments import path_text, positive
from rjpeg._secrets import masked_text
from server import config as configuration
from server.config import Config
from server.processing.task_config import read_task

__all__ = [
    "Commands",
    "add_log_level_flag",
    "add_output_flags",
    "add_processing_flags",
    "add_storage_flags",
    "read_config",
    "set_up_logging",
]

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"
"""What `add_subparsers` returns."""

LOG_LEVELS = ["debug", "info", "warning", "error"]


def add_storage_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags that say where frames, rows and tokens are."""
    parser.add_argument(
        "--config",
        type=path_text,
        metavar="FILE",
        default=str(configuration.DEFAULT_PATH),
        help="settings; flags override them (default: server/config.yaml)",
    )
    parser.add_argument(
        "--data",
        type=path_text,
        metavar="FOLDER",
        help="of database and files (default: out/server in the folder of Region JPEG)",
    )
    parser.add_argument("--database", metavar="URL", help="(default: sqlite:///DATA/server.sqlite3)")
    parser.add_argument(
        "--files", type=path_text, metavar="URL", help="folder or s3://BUCKET/PREFIX (default: DATA/frames)"
    )


def add_processing_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags that say how frames are decoded and who looks at them."""
    parser.add_argument(
        "--task",
        type=path_text,
        metavar="TASK",
        help="detector or classifier, which `make network` fetches; a .tflite classifier; or YAML as `task` in the "
        "configuration has it",
    )
    parser.add_argument(
        "--model",
        type=path_text,
        metavar="FOLDER",
        help="made by `make export-tflite` (default: what comes with rjpeg)",
    )
    parser.add_argument(
        "--restore",
        action="store_true",
        default=None,
        help="let the model's restorer undo what coding did (default: no)",
    )
    parser.add_argument("--workers", type=positive, metavar="N", help="frames decoded at a time (default: one a core)")


def add_output_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags that say what is printed and logged."""
    parser.add_argument("--json", action="store_true", help="print a JSON line for every frame (default: no)")
    add_log_level_flag(parser)


def add_log_level_flag(parser: argparse.ArgumentParser) -> None:
    """Add the flag that says what is logged."""
    parser.add_argument("--log-level", choices=LOG_LEVELS, default="info", help="(default: %(default)s)")


def read_config(args: argparse.Namespace) -> Config:
    """Return the configuration of a file, with what flags override.

    Raises:
        ConfigError: the file can't be read, or a value is wrong.
    """
    config = configuration.load(args.config)
    for section, key, flag in (
        (config, "listen", "listen"),
        (config, "auth", "auth"),
        (config.tls, "certificate", "tls_certificate"),
        (config.tls, "key", "tls_key"),
        (config.storage, "data", "data"),
        (config.storage, "database", "database"),
        (config.storage, "files", "files"),
        (config.decoding, "model", "model"),
        (config.decoding, "restore", "restore"),
        (config.decoding, "workers", "workers"),
    ):
        value = getattr(args, flag, None)
        if value is not None:
            setattr(section, key, value)
    if getattr(args, "task", None) is not None:
        config.task = read_task(args.task)
    configuration.check(config)
    return config


def set_up_logging(level: str) -> None:
    """Log to standard error from a level on, one of LOG_LEVELS."""
    handler = logging.StreamHandler()
    handler.setFormatter(_MaskedFormatter("%(asctime)s %(levelname)s %(message)s"))
    logging.basicConfig(level=level.upper(), handlers=[handler])
    if level == "info":
        # it logs every step of a migration at this level
        logging.getLogger("alembic").setLevel(logging.WARNING)


class _MaskedFormatter(logging.Formatter):
    """Leave passwords in addresses out of messages, whoever wrote them."""

    def format(self, record: logging.LogRecord) -> str:
        return masked_text(super().format(record))
