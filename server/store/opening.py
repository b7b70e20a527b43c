"""Opens the place that a URL names for the store's files."""

from rjpeg._secrets import masked
from rjpeg.errors import ConfigError
from server.store.files import Files
from server.store.folder import Folder

__all__ = ["open_files"]


def open_files(url: str) -> Files:
    """Open a place for files, and create it if it is a folder that does not exist.

    Args:
        url: folder, file:///FOLDER, or a URL that fsspec knows, such as s3://BUCKET/PREFIX.

    Raises:
        ConfigError: the URL is malformed, or a package for it is not installed.
        StorageError: the place can't be reached or created.
    """
    scheme, colon, rest = url.partition("://")
    if not colon or scheme in ("file", "local"):
        folder = rest if colon else url
        if not folder or (colon and not folder.startswith("/")):
            raise ConfigError(
                f"files {masked(url)!r}, expected a folder, file:///FOLDER or a URL such as s3://BUCKET/PREFIX"
            )
        return Folder(folder)
    # only here, as most stores are folders
    from server.store.objects import Objects

    return Objects(url)
