"""Checks of the configuration itself: its values, its files, and the page's address."""

from pathlib import Path

from device import config as configuration
from device.check.result import Check
from device.config import Config, token_file_of
from device.metrics import Metrics
from device.view import View
from rjpeg._files import read_token

__all__ = ["check_configuration", "check_page"]


def check_configuration(config: Config) -> Check:
    """Check values, and that tokens can be read, and by nobody else.

    Raises:
        RjpegError: a value is wrong, or a token can't be read.
    """
    configuration.check(config)
    for camera in config.cameras:
        path = token_file_of(config.delivery, camera.id)
        if path is not None:
            read_token(path)
            if Path(path).stat().st_mode & 0o077:
                return Check("configuration", None, f"others can read the token in {path}", f"chmod 600 {path}")
    number = len(config.cameras)
    return Check("configuration", True, f"{number} camera{'s' if number > 1 else ''}")


def check_page(config: Config) -> Check:
    """Check that the local page can listen, by opening and closing it.

    Raises:
        ConfigError: it can't, or it needs a password.
    """
    view, password = config.view, None
    if view.password_file is not None:
        password = read_token(view.password_file)
    page = View(str(view.listen), password, Metrics(), dict)
    page.close()
    return Check("local page", True, f"{view.listen} is free")
