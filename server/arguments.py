"""What the commands of `python -m server` have in common: flags, their place in the configuration, and the log."""

import argparse
import logging

from server import config as configuration
from server.config import Config
from server.processing.task_config import read_task

__all__ = ["add_storage_flags", "read_config", "set_up_logging"]


def add_storage_flags(p: argparse.ArgumentParser) -> None:
    """What says where frames, rows and tokens are."""
    p.add_argument(
        "--config",
        metavar="FILE",
        default=str(configuration.DEFAULT_PATH),
        help="settings; flags override them (default: server/config.yaml)",
    )
    p.add_argument("--data", metavar="FOLDER", help="of database and files (default: out/server)")
    p.add_argument("--database", metavar="URL", help="(default: sqlite:///DATA/server.sqlite3)")
    p.add_argument("--files", metavar="URL", help="folder or s3://BUCKET/PREFIX (default: DATA/frames)")


def read_config(args: argparse.Namespace) -> Config:
    """The configuration file with what flags override. Raises ConfigError."""
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
    """Messages to standard error."""
    logging.basicConfig(level=level.upper(), format="%(asctime)s %(levelname)s %(message)s")
    if level == "info":
        # its every step is no news
        logging.getLogger("alembic").setLevel(logging.WARNING)
