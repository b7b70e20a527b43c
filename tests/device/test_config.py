"""The configuration of `capture.py`."""

import msgspec
import pytest
import yaml

from device import config
from rjpeg.errors import ConfigError


def written(tmp_path, text):
    path = tmp_path / "c.yaml"
    path.write_text(text)
    return path


def keys_and_defaults(struct, values, path=""):
    """Every key of a section's type is in the file; those that differ from the defaults, by their paths."""
    assert set(values) == set(struct.__struct_fields__), path
    default, different = msgspec.to_builtins(struct()), set()
    for key, value in values.items():
        kind = struct.__annotations__[key]
        if isinstance(value, dict):
            different |= keys_and_defaults(kind, value, f"{path}{key}.")
        elif key == "cameras":
            different |= keys_and_defaults(config.CameraConfig, value[0], "cameras[].")
        elif value != default[key]:
            different.add(f"{path}{key}")
    return different


def test_the_file_that_comes_with_it_is_valid_and_names_every_key_with_its_default():
    config.check(config.load(config.DEFAULT_PATH))
    values = yaml.safe_load(config.DEFAULT_PATH.read_text())
    assert keys_and_defaults(config.Config, values) == {"encoding.quality", "delivery.server"}


def test_the_home_folder_is_put_in_every_path(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    settings = config.Config(
        cameras=[config.CameraConfig(source="~/film.mjpeg"), config.CameraConfig(id="b", source="http://host/~me")],
        encoding=config.EncodingConfig(
            quality=50, model="~/model", stream=config.StreamConfig(importance_folder="~/maps")
        ),
        delivery=config.DeliveryConfig(
            out="~/frames", token_file="~/token", ca_file="~/ca.pem", spool=config.SpoolConfig(folder="~")
        ),
        view=config.ViewConfig(password_file="~/password"),
    )
    config.check(settings)
    written = msgspec.json.encode(settings).decode()
    assert written.count("/home/me") == 8
    assert written.count("~") == 1
    assert settings.delivery.out == "/home/me/frames"


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("cameras: [{sorce: 0}]", "sorce"),
        ("kamera: {}", "kamera"),
        ("cameras: [{fps: fast}]", "cameras[0].fps"),
        ("cameras: [{fps: 0}]", "cameras[0].fps"),
        ("cameras: [{fps: .nan}]", "cameras[0].fps"),
        ("cameras: [{id: ../x}]", "cameras[0].id"),
        ("cameras: [{size: 640}]", "cameras[0].size"),
        ("cameras: [{size: 0x480}]", "cameras[0].size"),
        ("encoding: {quality: 101}", "encoding.quality"),
        ("encoding: {target_bytes: 1.5}", "encoding.target_bytes"),
        ("encoding: {bitrate: fast}", "bitrate 'fast', expected bits a second such as 100000, 100k"),
        ("encoding: {bitrate: 100kB}", "bitrate '100kB', expected bits a second"),
        ("encoding: {bitrate: 0k}", "encoding.bitrate"),
        ("delivery: {retry_seconds: -1}", "delivery.retry_seconds"),
        ("cameras: []", "cameras"),
        ("skip: {threshold: 256}", "skip.threshold"),
        ("encoding: {stream: {keep: on}}", "keep is True, expected auto or off"),
        ("encoding: {stream: {keep: sometimes}}", "encoding.stream.keep"),
        ("encoding: {stream: {key_seconds: 0}}", "encoding.stream.key_seconds"),
        ("encoding: {stream: {plain_view: blurred}}", "encoding.stream.plain_view"),
        ("delivery: {policy: both}", "delivery.policy"),
        ("delivery: {spool: {size: 1}}", "size"),
        ("delivery: {mqtt: {topic: 'a/#'}}", "delivery.mqtt.topic"),
        ("view: {listen: everywhere}", "view.listen"),
        ("camera: [", "not YAML"),
        ("- 1", "Expected `object`"),
        ("!!python/object/apply:os.getcwd []", "not YAML"),
    ],
)
def test_what_is_wrong_in_a_file_is_named(tmp_path, text, named):
    path = written(tmp_path, text)
    with pytest.raises(ConfigError, match=r"c\.yaml") as caught:
        config.load(path)
    assert named in str(caught.value)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("encoding: {quality: 50, bitrate: 9}\ndelivery: {out: a}", "got quality and bitrate"),
        ("encoding: {quality: 50}\ndelivery: {out: a, server: http://a}", "got server and out"),
        ("encoding: {quality: 50}\ndelivery: {server: localhost:8000}", "'localhost:8000' is no URL"),
        ("encoding: {quality: 50}\ndelivery: {server: 'ftp://a'}", "'ftp://a' is no URL"),
        ("cameras: [{id: a}, {id: b}, {id: a}]\nencoding: {quality: 50}\ndelivery: {out: a}", "a is there more often"),
        ("encoding: {quality: 50}\ndelivery: {out: a, policy: record}", "policy record is for a server"),
    ],
)
def test_keys_that_exclude_each_other_are_told_apart(tmp_path, text, named):
    loaded = config.load(written(tmp_path, text))
    with pytest.raises(ConfigError) as caught:
        config.check(loaded)
    assert named in str(caught.value)


@pytest.mark.parametrize(("text", "kept"), [("auto", "auto"), ("off", "off"), ("'off'", "off"), ("false", "off")])
def test_a_stream_can_be_switched_off_as_yaml_writes_it(tmp_path, text, kept):
    loaded = config.load(
        written(tmp_path, f"encoding: {{quality: 50, stream: {{keep: {text}}}}}\ndelivery: {{out: a}}")
    )
    config.check(loaded)
    assert loaded.encoding.stream.keep == kept


def test_a_configuration_needs_neither_encoding_nor_delivery(tmp_path):
    for text in ("", "cameras: [{id: yard}]", "encoding:\n  # quality: 30\ndelivery:\n", "encoding: {model: null}"):
        loaded = config.load(written(tmp_path, text))
        config.check(loaded)
        assert (loaded.encoding.quality, loaded.encoding.bitrate) == (50, None)
        assert (loaded.delivery.server, loaded.delivery.out) == ("http://127.0.0.1:8000", None)


@pytest.mark.parametrize(
    "text", ["100000", "100k", "100K", "100kbit", "100 kbit/s", "100kbps", "0.1M", "0.1Mbit/s", "1e5", "100000 bit/s"]
)
def test_a_bitrate_may_have_a_unit(tmp_path, text):
    assert config.load(written(tmp_path, f"encoding: {{bitrate: {text}}}")).encoding.bitrate == 100_000
    assert config.parse_bitrate(text) == 100_000


def test_a_message_about_yaml_does_not_quote_the_line(tmp_path):
    with pytest.raises(ConfigError, match=r"not YAML: line 2, column [0-9]+: ") as caught:
        config.load(written(tmp_path, "cameras:\n  - {source: rtsp://me:secret@nvr: 1, x: [}"))
    assert "secret" not in str(caught.value)


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"nowhere\.yaml"):
        config.load(tmp_path / "nowhere.yaml")
    with pytest.raises(ConfigError, match="Is a directory"):
        config.load(tmp_path)
