"""The store's files in object storage, such as S3, or in another file system that fsspec reaches."""

import contextlib
import datetime
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from rjpeg._secrets import masked
from rjpeg.errors import ConfigError, RjpegError, StorageError
from server.store.files import MARK, foreign_mark_error
from server.store.keys import check_key

__all__ = ["Objects"]

MARK_SECONDS = 5.0
"""How long a mark that was read is relied on. Unlike a disk, a bucket is not unmounted."""


class Objects:
    """Files in object storage, or in another file system that fsspec reaches; see `server.store.files.Files`.

    Args:
        url: such as s3://BUCKET/PREFIX.

    Raises:
        ConfigError: the URL names no bucket, or a package for it is not installed.
        StorageError: the place can't be reached.
    """

    # there are no locks; adding a frame fails after a sixth of this time
    grace = datetime.timedelta(hours=1)
    locks = False

    def __init__(self, url: str) -> None:
        import fsspec

        options: dict[str, Any] = {"use_listings_cache": False, "skip_instance_cache": True}
        if url.startswith("s3://"):
            options["config_kwargs"] = {"connect_timeout": 10, "read_timeout": 30, "retries": {"max_attempts": 3}}
        self.name = masked(url)
        self.mark: bytes | None = None
        self._mark_seen = float("-inf")
        try:
            self._fs, root = fsspec.core.url_to_fs(url, **options)
        except (ImportError, ValueError) as error:
            raise ConfigError(f"files {self.name}: {error}; for S3: pip install --group s3") from error
        self._root = root.rstrip("/")
        if not self._root:
            raise ConfigError(f"files {self.name}: expected a bucket, such as s3://bucket or s3://bucket/prefix")
        self.ping()

    def write(self, key: str, data: bytes) -> Callable[[], None]:
        """See Files."""
        path = self._path(key)
        self.check()
        with self._errors("write", path):
            self._fs.pipe_file(path, data)
        return lambda: None

    def read(self, key: str) -> bytes:
        """See Files."""
        path = self._path(key)
        with self._errors("read", path):
            return bytes(self._fs.cat_file(path))

    def size(self, key: str) -> int | None:
        """See Files."""
        path = self._path(key)
        with self._errors("read", path):
            try:
                return int(self._fs.info(path)["size"])
            except FileNotFoundError:
                return None

    def remove(self, keys: Iterable[str]) -> None:
        """See Files."""
        paths = [self._path(key) for key in keys]
        if not paths:
            return
        self.check()
        try:
            with self._errors("remove", f"{len(paths)} files of {self.name}"):
                self._fs.rm(paths)
        except StorageError as error:
            if not isinstance(error.__cause__, FileNotFoundError):
                raise
            # in some file systems, a missing file ends the removal of the others
            for path in paths:
                with self._errors("remove", path), contextlib.suppress(FileNotFoundError):
                    self._fs.rm_file(path)

    def names(self, *folders: str) -> list[str]:
        """See Files."""
        self.check()
        path = "/".join([self._root, *folders])
        with self._errors("read", path):
            try:
                found = self._fs.ls(path, detail=False)
            except (FileNotFoundError, NotADirectoryError):
                return []
        return [name.rstrip("/").rpartition("/")[2] for name in found]

    def count(self, folder: str) -> tuple[int, int]:
        """See Files."""
        path = f"{self._root}/{folder}"
        with self._errors("read", path):
            try:
                found = self._fs.find(path, detail=True)
            except FileNotFoundError:
                return 0, 0
        return len(found), sum(int(each["size"] or 0) for each in found.values())

    @contextlib.contextmanager
    def hold(self, key: str) -> Iterator[bool]:
        """See Files. There are no locks."""
        yield self.size(key) is not None

    def move(self, key: str, target: str) -> None:
        """See Files."""
        self.check()
        source, path = self._path(key), self._path(target)
        with self._errors("move", source):
            self._fs.cp_file(source, path)
            self._fs.rm_file(source)

    def move_idle(self, key: str, target: str, is_owned: Callable[[], bool]) -> bool:
        """See Files."""
        if self.size(key) is None or is_owned():
            return False
        self.move(key, target)
        return True

    def read_mark(self) -> bytes | None:
        """See Files."""
        path = f"{self._root}/{MARK}"
        with self._errors("read", path):
            try:
                return bytes(self._fs.cat_file(path))
            except FileNotFoundError:
                return None

    def write_mark(self, data: bytes) -> None:
        """See Files. If two programs write it at once, one of them then finds the other's mark."""
        path = f"{self._root}/{MARK}"
        if self.read_mark() is None:
            with self._errors("write", path):
                self._fs.pipe_file(path, data)

    def check(self) -> None:
        """See Files. The mark is read at most once in MARK_SECONDS."""
        if self.mark is None or time.monotonic() < self._mark_seen + MARK_SECONDS:
            return
        found = self.read_mark()
        if found != self.mark:
            raise foreign_mark_error(self.name, found)
        self._mark_seen = time.monotonic()

    def ping(self) -> None:
        """See Files."""
        with self._errors("read", self.name):
            if hasattr(self._fs, "call_s3"):
                # `ls` can't tell an empty prefix from a missing bucket, and may list all files
                bucket, _, prefix = self._root.partition("/")
                self._fs.call_s3("list_objects_v2", Bucket=bucket, Prefix=prefix, MaxKeys=1)
            else:
                with contextlib.suppress(FileNotFoundError):
                    self._fs.ls(self._root, detail=False)
        self._mark_seen = float("-inf")
        self.check()

    def _path(self, key: str) -> str:
        return f"{self._root}/{check_key(key)}"

    @contextlib.contextmanager
    def _errors(self, verb: str, what: str) -> Iterator[None]:
        try:
            yield
        except RjpegError:
            raise
        except Exception as error:
            raise StorageError(f"can't {verb} {what}: {type(error).__name__}: {error}") from error
