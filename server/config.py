"""Read the configuration of `python -m server`: one commented YAML file. Flags override some of its keys."""

import os
import sys
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from rjpeg._arguments import path_text
from rjpeg._files import read_yaml
from rjpeg._protocol import CAMERA_ID, broker_address
from rjpeg._zones import MAX_NAME
from rjpeg.errors import ConfigError
from server.processing.task_config import FETCHED_TASKS, TaskConfig, put_home, read_task

__all__ = [
    "DEFAULT_DATA",
    "DEFAULT_PATH",
    "Config",
    "DecodingConfig",
    "LimitsConfig",
    "MqttConfig",
    "RetentionConfig",
    "RuleConfig",
    "StorageConfig",
    "TlsConfig",
    "WebhookConfig",
    "check",
    "data_folder",
    "database_url",
    "files_url",
    "load",
    "max_pixels",
    "token_command",
    "workers",
]

DEFAULT_PATH = Path(__file__).with_name("config.yaml")

DEFAULT_DATA = "out/server"
"""It is in the folder of Region JPEG, whatever the current one is, so that all commands find it."""

MAX_PIXELS = 2**24
MAX_PIXELS_RESTORED = 2**21

Positive = Annotated[float, msgspec.Meta(gt=0, le=1e9)]
PositiveInt = Annotated[int, msgspec.Meta(gt=0, le=10**18)]
Count = Annotated[int, msgspec.Meta(gt=0, le=10**6)]
Name = Annotated[str, msgspec.Meta(pattern=f"^{CAMERA_ID}$")]
Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
Seconds = Annotated[float, msgspec.Meta(ge=0, le=86400)]


class TlsConfig(msgspec.Struct, forbid_unknown_fields=True):
    """Files of PEM. Both are given, or neither.

    Attributes:
        certificate: chain of certificates, the server's first.
        key: the private key.
    """

    certificate: str | None = None
    key: str | None = None


class StorageConfig(msgspec.Struct, forbid_unknown_fields=True):
    """Where frames are kept.

    Attributes:
        data: folder of database and files.
        database: URL of another database, or None.
        files: URL of another folder for files, or None.
    """

    data: Annotated[str, msgspec.Meta(min_length=1)] = DEFAULT_DATA
    database: str | None = None
    files: str | None = None


class RetentionConfig(msgspec.Struct, forbid_unknown_fields=True):
    """Which frames are deleted, oldest first. None stands for no limit.

    Attributes:
        days: limit on the age of a frame.
        bytes: limit on all files.
        quarantine_days: time for which files without a row stay set aside.
        every_seconds: pause between two rounds.
    """

    days: Positive | None = None
    bytes: PositiveInt | None = None
    quarantine_days: Annotated[float, msgspec.Meta(gt=0, le=1e6)] | None = 30.0
    every_seconds: Annotated[float, msgspec.Meta(ge=0.1, le=86400)] = 60.0


class DecodingConfig(msgspec.Struct, forbid_unknown_fields=True):
    """How frames are decoded.

    Attributes:
        model: folder of the networks. None: those that come with rjpeg.
        restore: let the model's restorer undo what coding did.
        workers: number of frames decoded at a time. None: one a core.
        batch: number of frames whose maps are found together.
        task_seconds: limit on the time that the task takes for a frame. Then its process is ended.
        base_bytes: limit on the memory for decoded keys and patches.
    """

    model: str | None = None
    restore: bool = False
    workers: Annotated[int, msgspec.Meta(gt=0, le=1024)] | None = None
    batch: Annotated[int, msgspec.Meta(gt=0, le=256)] = 8
    task_seconds: Annotated[float, msgspec.Meta(gt=0, le=3600)] = 10.0
    base_bytes: PositiveInt = 2**28


class LimitsConfig(msgspec.Struct, forbid_unknown_fields=True):
    """Limits on one request, one camera, and all together. `config.yaml` says what each is."""

    max_bytes: Annotated[int, msgspec.Meta(gt=0, le=2**31)] = 2**23
    max_pixels: Annotated[int, msgspec.Meta(gt=0, le=2**32)] | None = None
    body_seconds: Annotated[float, msgspec.Meta(gt=0, le=86400)] = 10.0
    connections: Count = 512
    pending: Count = 32
    pending_of_camera: Count = 16
    frames_per_second: Positive = 100.0
    cameras: Count = 10_000
    views: Count = 4
    streams: Count = 64


ZoneName = Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_NAME)]


class WebhookConfig(msgspec.Struct, forbid_unknown_fields=True):
    """Who is called when a rule begins and ceases to hold.

    Attributes:
        url: http:// or https://. It is called as it stands; an answer that redirects is not followed.
        token_file: file with a secret that goes in the header Authorization: Bearer.
        ca_file: authorities of the certificate. None: the system's.
    """

    url: Annotated[str, msgspec.Meta(pattern=r"^https?://[^\s/?#@]+([/?#]\S*)?$", max_length=2000)]
    token_file: str | None = None
    ca_file: str | None = None


class RuleConfig(msgspec.Struct, forbid_unknown_fields=True):
    """What the task has to find for an alert. `config.yaml` says what each is."""

    name: Name
    classes: Annotated[list[str], msgspec.Meta(min_length=1, max_length=1000)]
    cameras: list[Name] | None = None
    score: float = 0.5
    seconds: Seconds = 0.0
    pause: Seconds = 10.0
    zone: Annotated[list[tuple[Share, Share]], msgspec.Meta(min_length=3, max_length=64)] | ZoneName | None = None
    webhook: WebhookConfig | None = None


class MqttConfig(msgspec.Struct, forbid_unknown_fields=True):
    """The broker that is told what the task finds.

    Attributes:
        broker: mqtt://host:port or mqtts://host:port. None: nobody is told.
        topic: prefix of topics.
        username: for the broker, or None.
        password_file: file with the password, or None.
        ca_file: authorities of the broker's certificate. None: the system's.
        discovery: topic under which Home Assistant looks for configurations. None: it is told nothing.
        classes: classes of which each camera gets a sensor of its own, without a rule.
    """

    broker: str | None = None
    topic: Annotated[str, msgspec.Meta(pattern=r"^[^+#\x00]{1,200}$")] = "rjpeg-found"
    username: str | None = None
    password_file: str | None = None
    ca_file: str | None = None
    discovery: str | None = "homeassistant"
    classes: Annotated[list[str], msgspec.Meta(max_length=100)] = []


class Config(msgspec.Struct, forbid_unknown_fields=True):
    """The whole file, with a field for each section."""

    listen: Annotated[str, msgspec.Meta(pattern=r"^.*:[0-9]{1,5}$")] = "127.0.0.1:8000"
    # YAML reads a bare on or off as a boolean
    auth: Literal["on", "off", "auto"] | bool = "auto"
    hosts: list[str] = msgspec.field(default_factory=list)
    tls: TlsConfig = msgspec.field(default_factory=TlsConfig)
    storage: StorageConfig = msgspec.field(default_factory=StorageConfig)
    retention: RetentionConfig = msgspec.field(default_factory=RetentionConfig)
    decoding: DecodingConfig = msgspec.field(default_factory=DecodingConfig)
    task: TaskConfig | None = None
    follow_seconds: Annotated[float, msgspec.Meta(ge=0.1, le=3600)] = 1.0
    rules: Annotated[list[RuleConfig], msgspec.Meta(max_length=100)] = []
    mqtt: MqttConfig = msgspec.field(default_factory=MqttConfig)
    limits: LimitsConfig = msgspec.field(default_factory=LimitsConfig)


def load(path: str | Path) -> Config:
    """Read a configuration file.

    Raises:
        ConfigError: the file can't be read, isn't YAML, or has an unknown key or a value of the wrong kind.
            The message names the file and the key.
    """
    values = read_yaml(path, "configuration")
    if isinstance(values, dict) and values.get("task") in FETCHED_TASKS:
        values["task"] = msgspec.to_builtins(read_task(values["task"]))
    try:
        config = msgspec.convert({} if values is None else values, Config)
    except msgspec.ValidationError as error:
        raise ConfigError(f"configuration {path}: {error}") from error
    if isinstance(config.auth, bool):
        config.auth = "on" if config.auth else "off"
    return config


def check(config: Config) -> None:
    """Check the values that flags have set, and those that depend on each other. In paths, ~ becomes the home folder.

    Raises:
        ConfigError: a value is out of range, only one of `tls.certificate` and `tls.key` is given, or two rules have
            one name.
    """
    try:
        msgspec.convert(msgspec.to_builtins(config), Config)
    except msgspec.ValidationError as error:
        raise ConfigError(f"configuration: {error}") from error
    if (config.tls.certificate is None) != (config.tls.key is None):
        raise ConfigError("tls: give certificate and key, or neither")
    _put_home(config)
    names = [rule.name for rule in config.rules]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ConfigError(f"rules: {', '.join(twice)} is the name of several; expected names of their own")
    if config.mqtt.broker is not None:
        broker_address("mqtt.broker", config.mqtt.broker)


def _put_home(config: Config) -> None:
    """Put the home folder in place of ~ in every path."""
    sections: list[tuple[msgspec.Struct, tuple[str, ...]]] = [
        (config.tls, ("certificate", "key")),
        (config.storage, ("data", "files")),
        (config.decoding, ("model",)),
        (config.mqtt, ("password_file", "ca_file")),
        *((rule.webhook, ("token_file", "ca_file")) for rule in config.rules if rule.webhook is not None),
    ]
    for section, keys in sections:
        for key in keys:
            value = getattr(section, key)
            if value is not None:
                setattr(section, key, path_text(value))
    if config.task is not None:
        put_home(config.task)


def data_folder(config: Config) -> Path:
    """Return the folder of database and files, absolute."""
    if config.storage.data == DEFAULT_DATA:
        return Path(__file__).resolve().parents[1] / DEFAULT_DATA
    return Path(config.storage.data).resolve()


def database_url(config: Config) -> str:
    """Return the URL of the database, for SQLAlchemy."""
    return config.storage.database or f"sqlite:///{data_folder(config) / 'server.sqlite3'}"


def files_url(config: Config) -> str:
    """Return the folder or URL of the files."""
    return config.storage.files or str(data_folder(config) / "frames")


def token_command(config: Config) -> str:
    """Return the command that makes a token for the server of this configuration, as anyone may see it.

    Names of folders and hosts are left out: FOLDER and URL stand for them.
    """
    python = ".venv/bin/python" if Path(sys.executable) == Path.cwd() / ".venv/bin/python" else "python"
    own = config.storage.data != DEFAULT_DATA
    place = " --database URL" if config.storage.database else " --data FOLDER" if own else ""
    return f"{python} -m server tokens add{place}"


def max_pixels(config: Config) -> int:
    """Return the limit on a picture. The default takes a core less than 2 s."""
    if config.limits.max_pixels is not None:
        return config.limits.max_pixels
    return MAX_PIXELS_RESTORED if config.decoding.restore else MAX_PIXELS


def workers(config: Config) -> int:
    """Return the number of frames decoded at a time."""
    return config.decoding.workers or len(os.sched_getaffinity(0))
