"""The configuration of `capture.py`: one commented YAML file; flags override what is usual to change."""

import re
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from rjpeg._arguments import path_text
from rjpeg._files import read_yaml
from rjpeg._protocol import CAMERA_ID
from rjpeg._secrets import masked
from rjpeg._zones import MAX_ZONES, Polygon
from rjpeg.errors import ConfigError

__all__ = [
    "DEFAULT_PATH",
    "CameraConfig",
    "Config",
    "DeliveryConfig",
    "EncodingConfig",
    "MqttConfig",
    "Polygon",
    "SkipConfig",
    "SpoolConfig",
    "StreamConfig",
    "ViewConfig",
    "ZonesConfig",
    "check",
    "for_camera",
    "load",
    "parse_bitrate",
    "token_file_of",
]

DEFAULT_PATH = Path(__file__).with_name("config.yaml")
CAMERA_PATTERN = f"^{CAMERA_ID}$"

# What holds if none of the keys that exclude each other is given.
DEFAULT_QUALITY = 50.0
DEFAULT_SERVER = "http://127.0.0.1:8000"
SPENDING = ("quality", "target_bytes", "bitrate")
PREFIXES = {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9}

Positive = Annotated[float, msgspec.Meta(gt=0, le=1e9)]
NotNegative = Annotated[float, msgspec.Meta(ge=0, le=1e9)]
PositiveInt = Annotated[int, msgspec.Meta(gt=0, le=10**15)]
Polygons = Annotated[list[Polygon], msgspec.Meta(max_length=MAX_ZONES)]


class ZonesConfig(msgspec.Struct, forbid_unknown_fields=True):
    """Parts of a camera's picture, as polygons.

    Attributes:
        private: Coded as flat gray before anything leaves the device.
        ignored: Not worth bits, nor a frame.
        watched: Worth at least as much as an important region.
    """

    private: Polygons = msgspec.field(default_factory=list)
    ignored: Polygons = msgspec.field(default_factory=list)
    watched: Polygons = msgspec.field(default_factory=list)


class CameraConfig(msgspec.Struct, forbid_unknown_fields=True):
    """Where frames come from.

    Attributes:
        id: Name of the camera, 1 to 64 of A-Z a-z 0-9 _ -.
        source: What `device.sources.open_source` opens.
        size: WIDTHxHEIGHT in pixels; None: as frames come.
        fps: Frames a second at most; None: as they come.
        pixel_format: Four characters of V4L2 such as MJPG or YUYV, or one of picamera2's names.
        exposure: "auto", or milliseconds.
        stall_seconds: A camera without a frame for so long is opened anew.
        live: Play a video file at its own speed, again and again, as if it were a camera.
        zones: Parts of the picture that are private, ignored or watched.
    """

    id: Annotated[str, msgspec.Meta(pattern=CAMERA_PATTERN)] = "camera"
    source: int | str = 0
    size: Annotated[str, msgspec.Meta(pattern=r"^[1-9][0-9]{0,4}x[1-9][0-9]{0,4}$")] | None = None
    fps: Positive | None = None
    pixel_format: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9]{4,8}$")] | None = None
    exposure: Literal["auto"] | Positive | None = None
    stall_seconds: Positive = 10.0
    live: bool = False
    zones: ZonesConfig = msgspec.field(default_factory=ZonesConfig)


class StreamConfig(msgspec.Struct, forbid_unknown_fields=True):
    """How a live camera leaves out what it has already sent.

    Attributes:
        keep: "auto": files of live cameras refer to a key; "off": each is decoded by itself. YAML reads a bare `off` as
            False, which is taken for it.
        key_seconds: A new key is sent at least so often.
        plain_view: What a viewer that knows nothing shows of a follower: "tiles", which are fewest bytes, or "soft",
            the whole frame. None: soft if Home Assistant looks on or `coding_size` is full, else tiles.
        importance_folder: Where the cameras' importance maps are kept, and the zones that the server has.
    """

    keep: Literal["auto", "off"] | bool = "auto"
    key_seconds: Positive = 600.0
    plain_view: Literal["tiles", "soft"] | None = None
    importance_folder: str = "importance"

    def __post_init__(self) -> None:
        """Read YAML's False as "off", and refuse its True."""
        if self.keep is True:
            raise ValueError("keep is True, expected auto or off")
        self.keep = self.keep or "off"


class EncodingConfig(msgspec.Struct, forbid_unknown_fields=True):
    """How much to spend. Of `quality`, `target_bytes` and `bitrate` one is given; if none is, `quality` is 50.

    Attributes:
        quality: 1 to 100.
        target_bytes: No file is larger.
        bitrate: Bits a second on the wire, for all cameras together. In YAML also a text, see `parse_bitrate`.
        model: Folder of the importance model; None: the one that comes with `rjpeg`.
        coding_size: "auto": a frame may be reduced before it is coded, as its detail and the rate suggest; "full": it
            never is, so that any viewer shows it at its own size.
        stream: How what was sent before is left out.
    """

    quality: Annotated[float, msgspec.Meta(ge=1, le=100)] | None = None
    target_bytes: PositiveInt | None = None
    bitrate: Positive | None = None
    model: str | None = None
    coding_size: Literal["auto", "full"] = "auto"
    stream: StreamConfig = msgspec.field(default_factory=StreamConfig)


class SkipConfig(msgspec.Struct, forbid_unknown_fields=True):
    """Which frames of a live camera are not worth sending.

    Attributes:
        threshold: Gray levels, 0 to 255, by which a part has to change; 0: send all frames.
        heartbeat_seconds: A frame is sent at least so often, and with it the metrics.
    """

    threshold: Annotated[float, msgspec.Meta(ge=0, le=255)] = 0.0
    heartbeat_seconds: Positive = 60.0


class MqttConfig(msgspec.Struct, forbid_unknown_fields=True):
    """What only MQTT needs.

    Attributes:
        topic: Prefix of all topics.
        username: {camera} in it is the camera's id. The password is in `delivery.token_file`.
        discovery: Topic under which Home Assistant looks for configurations; None: tell it nothing.
    """

    topic: Annotated[str, msgspec.Meta(pattern=r"^[^+#\x00]{1,200}$")] = "rjpeg"
    username: str | None = None
    discovery: Annotated[str, msgspec.Meta(pattern=r"^[^+#\x00]{1,200}$")] | None = None


class SpoolConfig(msgspec.Struct, forbid_unknown_fields=True):
    """Where policy `record` keeps frames until they are delivered, and how many bytes they may take."""

    folder: str = "spool"
    max_bytes: Annotated[int, msgspec.Meta(ge=1_000_000, le=10**15)] = 1_000_000_000


class DeliveryConfig(msgspec.Struct, forbid_unknown_fields=True):
    """Where files go. Of `server` and `out` one is given; if none is, a server on this machine is meant.

    Attributes:
        server: URL.
        out: Folder.
        policy: "live": newest frame first; "record": every frame, through a spool.
        token_file: Holds the token or password. {camera} in its name is the camera's id.
        ca_file: PEM file of the server's certificate authority; None: the system's.
        timeout_seconds: What the server has for a frame.
        retry_seconds: How long a frame of a file or folder is tried.
        mqtt: What only MQTT needs.
        spool: What only policy `record` needs.
    """

    server: str | None = None
    out: str | None = None
    policy: Literal["live", "record"] = "live"
    token_file: str | None = None
    ca_file: str | None = None
    timeout_seconds: Positive = 10.0
    retry_seconds: NotNegative = 60.0
    mqtt: MqttConfig = msgspec.field(default_factory=MqttConfig)
    spool: SpoolConfig = msgspec.field(default_factory=SpoolConfig)


class ViewConfig(msgspec.Struct, forbid_unknown_fields=True):
    """The local page.

    Attributes:
        listen: HOST:PORT; None: there is no page.
        password_file: Needed unless it listens on loopback.
    """

    listen: Annotated[str, msgspec.Meta(pattern=r"^.+:[0-9]{1,5}$")] | None = None
    password_file: str | None = None


class Config(msgspec.Struct, forbid_unknown_fields=True):
    """The whole file, one attribute a section."""

    cameras: Annotated[list[CameraConfig], msgspec.Meta(min_length=1, max_length=16)] = msgspec.field(
        default_factory=lambda: [CameraConfig()]
    )
    encoding: EncodingConfig = msgspec.field(default_factory=EncodingConfig)
    skip: SkipConfig = msgspec.field(default_factory=SkipConfig)
    delivery: DeliveryConfig = msgspec.field(default_factory=DeliveryConfig)
    view: ViewConfig = msgspec.field(default_factory=ViewConfig)


def for_camera(setting: str | None, camera: str) -> str | None:
    """Return a setting that is meant for every camera as it is for one: {camera} in it becomes the id."""
    return None if setting is None else setting.replace("{camera}", camera)


def token_file_of(config: DeliveryConfig, camera: str) -> str | None:
    """Return the file with a camera's token; None if there is none."""
    return for_camera(config.token_file, camera)


def load(path: str | Path) -> Config:
    """Read a configuration file.

    Raises:
        ConfigError: The file can't be read, isn't YAML, or has an unknown key or a value of the wrong kind. The message
            names the file and the key.
    """
    values = read_yaml(path, "configuration")
    try:
        config = msgspec.convert(_completed(values), Config)
    except (msgspec.ValidationError, ValueError) as error:
        raise ConfigError(f"configuration {path}: {error}") from error
    if not any(getattr(config.encoding, key) is not None for key in SPENDING):
        config.encoding.quality = DEFAULT_QUALITY
    if config.delivery.server is None and config.delivery.out is None:
        config.delivery.server = DEFAULT_SERVER
    return config


def parse_bitrate(text: str) -> float:
    """Return the bits a second of a text such as 100000, 100k, 100kbit, "100 kbit/s", 0.1M or 1Mbps.

    Raises:
        ValueError: It is none of these. The message says what is expected.
    """
    match = re.fullmatch(r"([0-9.]+(?:[eE][0-9]+)?)\s*([kKmMgG]?)(?:bits?|b)?(?:\s*/\s*s|ps)?", text.strip(), re.ASCII)
    try:
        return float(match[1]) * PREFIXES[match[2].lower()] if match else float(text)
    except ValueError:
        raise ValueError(f"bitrate {text!r}, expected bits a second such as 100000, 100k, 100kbit or 0.1M") from None


def _completed(values: Any) -> Any:
    """Return what a file holds, without sections that are empty, and with a bitrate as a number. Raises ValueError."""
    if values is None:
        return {}
    if not isinstance(values, dict):
        return values
    # a section whose keys are all commented out
    values = {key: value for key, value in values.items() if value is not None}
    encoding = values.get("encoding")
    if isinstance(encoding, dict) and isinstance(encoding.get("bitrate"), str):
        values["encoding"] = encoding | {"bitrate": parse_bitrate(encoding["bitrate"])}
    return values


def check(config: Config) -> None:
    """Check what flags have changed, and what no single key can say. In paths, ~ becomes the home folder.

    Raises:
        ConfigError: A value is out of range, or not exactly one of the keys that exclude each other is given.
    """
    try:
        msgspec.convert(msgspec.to_builtins(config), Config)
    except msgspec.ValidationError as error:
        raise ConfigError(f"configuration: {error}") from error
    _put_home(config)
    _exactly_one("encoding", config.encoding, SPENDING)
    _exactly_one("delivery", config.delivery, ("server", "out"))
    ids = [camera.id for camera in config.cameras]
    twice = sorted({name for name in ids if ids.count(name) > 1})
    if twice:
        raise ConfigError(f"cameras: every id only once; {', '.join(twice)} is there more often")
    server = config.delivery.server
    if server is not None and not re.match(r"(https?|mqtts?)://[^/?#]", server):
        raise ConfigError(
            f"delivery.server: {masked(server)!r} is no URL like http://192.168.1.2:8000 or mqtts://broker:8883"
        )
    if config.delivery.out is not None and config.delivery.policy == "record":
        raise ConfigError("delivery: policy record is for a server; files in a folder (out) need no spool")


def _put_home(config: Config) -> None:
    """Put the home folder in place of ~ in every path."""
    for camera in config.cameras:
        camera.source = camera.source if isinstance(camera.source, int) else path_text(camera.source)
    delivery, encoding = config.delivery, config.encoding
    for section, keys in (
        (encoding, ("model",)),
        (encoding.stream, ("importance_folder",)),
        (delivery, ("out", "token_file", "ca_file")),
        (delivery.spool, ("folder",)),
        (config.view, ("password_file",)),
    ):
        for key in keys:
            value = getattr(section, key)
            if value is not None:
                setattr(section, key, path_text(value))


def _exactly_one(section: str, values: msgspec.Struct, keys: tuple[str, ...]) -> None:
    given = [key for key in keys if getattr(values, key) is not None]
    if len(given) != 1:
        raise ConfigError(f"{section}: give exactly one of {', '.join(keys)}; got {' and '.join(given) or 'none'}")
