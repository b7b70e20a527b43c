"""Tasks that are Python functions of the user's own."""

import importlib
from collections.abc import Callable
from typing import Any

from rjpeg.errors import ConfigError
from server.processing.answer import failure_text

__all__ = ["load_function"]


def load_function(path: str) -> Callable[..., Any]:
    """Import a function.

    Args:
        path: "package.module:function".

    Raises:
        ConfigError: there is no such function, or its module fails when it is imported.
    """
    module_name, _, name = path.partition(":")
    try:
        found = getattr(importlib.import_module(module_name), name)
    # a module may fail in any way while it is imported
    except Exception as error:
        raise ConfigError(f"task {path} can't be imported: {failure_text(error)}") from error
    if not callable(found):
        raise ConfigError(f"task {path} is of type {type(found).__name__}, expected a function of (frame, meta)")
    return found
