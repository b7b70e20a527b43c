"""The configuration of `capture.py`: one commented YAML file, every key of which a flag can override."""

import re
from pathlib import Path
from typing import Annotated

import msgspec
import yaml

from rjpeg.errors import ConfigError

__all__ = [
    "CAMERA_ID",
    "DEFAULT_PATH",
    "CameraConfig",
    "Config",
    "DeliveryConfig",
    "EncodingConfig",
    "check",
    "load",
]

DEFAULT_PATH = Path(__file__).with_name("config.yaml")
CAMERA_ID = r"^[A-Za-z0-9_-]{1,64}$"

Positive = Annotated[float, msgspec.Meta(gt=0, le=1e9)]
PositiveInt = Annotated[int, msgspec.Meta(gt=0)]


class CameraConfig(msgspec.Struct, forbid_unknown_fields=True):
    """Where frames come from. `size`: `WIDTHxHEIGHT` in pixels; `fps`: frames a second; None: as they come."""

    id: Annotated[str, msgspec.Meta(pattern=CAMERA_ID)] = "camera"
    source: int | str = 0
    size: Annotated[str, msgspec.Meta(pattern=r"^[1-9][0-9]{0,4}x[1-9][0-9]{0,4}$")] | None = None
    fps: Positive | None = None


class EncodingConfig(msgspec.Struct, forbid_unknown_fields=True):
    """How much to spend. Exactly one of `quality` (1..100), `target_bytes` and `bitrate` (bits a second)."""

    quality: Annotated[float, msgspec.Meta(ge=1, le=100)] | None = None
    target_bytes: PositiveInt | None = None
    bitrate: Positive | None = None
    model: str | None = None


class DeliveryConfig(msgspec.Struct, forbid_unknown_fields=True):
    """Where files go. Exactly one of `server` (URL) and `out` (folder); times in seconds."""

    server: str | None = None
    out: str | None = None
    token_file: str | None = None
    timeout_seconds: Positive = 10.0
    retry_seconds: Annotated[float, msgspec.Meta(ge=0, le=1e9)] = 60.0


class Config(msgspec.Struct, forbid_unknown_fields=True):
    """The whole file, one field a section."""

    camera: CameraConfig = msgspec.field(default_factory=CameraConfig)
    encoding: EncodingConfig = msgspec.field(default_factory=EncodingConfig)
    delivery: DeliveryConfig = msgspec.field(default_factory=DeliveryConfig)


def load(path: str | Path) -> Config:
    """Read a configuration file.

    Raises:
        ConfigError: the file can't be read, isn't YAML, or has an unknown key or a value of the wrong kind;
            the message names the file and the key.
    """
    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"can't read configuration {path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"configuration {path} is not YAML: {' '.join(str(error).split())}") from error
    try:
        return msgspec.convert({} if values is None else values, Config)
    except msgspec.ValidationError as error:
        raise ConfigError(f"configuration {path}: {error}") from error


def check(config: Config) -> None:
    """Check what flags have changed, and what no single key can say.

    Raises:
        ConfigError: a value is out of range, or not exactly one of the keys that exclude each other is given.
    """
    try:
        msgspec.convert(msgspec.to_builtins(config), Config)
    except msgspec.ValidationError as error:
        raise ConfigError(f"configuration: {error}") from error
    _exactly_one("encoding", config.encoding, ("quality", "target_bytes", "bitrate"))
    _exactly_one("delivery", config.delivery, ("server", "out"))
    if config.delivery.server is not None and not re.match(r"https?://[^/?#]", config.delivery.server):
        raise ConfigError(f"delivery.server: {config.delivery.server!r} is no URL like http://192.168.1.2:8000")


def _exactly_one(section: str, values: msgspec.Struct, keys: tuple[str, ...]) -> None:
    given = [key for key in keys if getattr(values, key) is not None]
    if len(given) != 1:
        raise ConfigError(f"{section}: give exactly one of {', '.join(keys)}; got {' and '.join(given) or 'none'}")
