"""Give each worker of a machine a name of its own, by which a broker knows it again."""

import contextlib
import fcntl
import hashlib
import os
import re
import socket
from collections.abc import Iterator
from pathlib import Path

from rjpeg.errors import ConfigError

__all__ = ["reserve_name"]

MAX_WORKERS = 9_999
MAX_HOST_CHARACTERS = 40


@contextlib.contextmanager
def reserve_name(folder: Path, scope: str) -> Iterator[str]:
    """Reserve the first free name, {host}-{number}, until the end of the block.

    A worker that is restarted, or that replaces one that was killed, so gets that one's name and session.

    Args:
        folder: of the workers' locks. It is made if there is none.
        scope: text. Names are unique among the workers of this machine with the same folder and scope.

    Raises:
        ConfigError: the folder can't be written.
    """
    host = re.sub(r"[^A-Za-z0-9_-]", "_", socket.gethostname())[:MAX_HOST_CHARACTERS]
    digest = hashlib.sha256(scope.encode()).hexdigest()[:12]
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for number in range(1, MAX_WORKERS + 1):
            name = f"{host}-{number}"
            descriptor = os.open(folder / f"{name}-{digest}.lock", os.O_CREAT | os.O_RDWR, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(descriptor)
                continue
            break
    except OSError as error:
        raise ConfigError(f"can't find a name in {folder}: {error.strerror or error}; give one with --name") from error
    try:
        yield name
    finally:
        os.close(descriptor)
