"""The configuration of `capture.py`."""

import pytest
import yaml

from device import config
from rjpeg.errors import ConfigError


def written(tmp_path, text):
    path = tmp_path / "c.yaml"
    path.write_text(text)
    return path


def test_the_file_that_comes_with_it_is_valid_and_names_every_key():
    loaded = config.load(config.DEFAULT_PATH)
    config.check(loaded)
    values = yaml.safe_load(config.DEFAULT_PATH.read_text())
    assert {section: set(keys) for section, keys in values.items()} == {
        "camera": set(config.CameraConfig.__struct_fields__),
        "encoding": set(config.EncodingConfig.__struct_fields__),
        "delivery": set(config.DeliveryConfig.__struct_fields__),
    }
    assert loaded.camera == config.CameraConfig()
    assert (loaded.delivery.timeout_seconds, loaded.delivery.retry_seconds) == (
        config.DeliveryConfig().timeout_seconds,
        config.DeliveryConfig().retry_seconds,
    )


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("camera: {sorce: 0}", "sorce"),
        ("kamera: {}", "kamera"),
        ("camera: {fps: fast}", "camera.fps"),
        ("camera: {fps: 0}", "camera.fps"),
        ("camera: {fps: .nan}", "camera.fps"),
        ("camera: {id: ../x}", "camera.id"),
        ("camera: {size: 640}", "camera.size"),
        ("camera: {size: 0x480}", "camera.size"),
        ("encoding: {quality: 101}", "encoding.quality"),
        ("encoding: {target_bytes: 1.5}", "encoding.target_bytes"),
        ("delivery: {retry_seconds: -1}", "delivery.retry_seconds"),
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
        ("delivery: {out: a}", "exactly one of quality, target_bytes, bitrate; got none"),
        ("encoding: {quality: 50, bitrate: 9}\ndelivery: {out: a}", "got quality and bitrate"),
        ("encoding: {quality: 50}\ndelivery: {out: a, server: http://a}", "got server and out"),
        ("encoding: {quality: 50}\ndelivery: {server: localhost:8000}", "'localhost:8000' is no URL"),
        ("encoding: {quality: 50}\ndelivery: {server: 'ftp://a'}", "'ftp://a' is no URL"),
    ],
)
def test_keys_that_exclude_each_other_are_told_apart(tmp_path, text, named):
    loaded = config.load(written(tmp_path, text))
    with pytest.raises(ConfigError) as caught:
        config.check(loaded)
    assert named in str(caught.value)


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"nowhere\.yaml"):
        config.load(tmp_path / "nowhere.yaml")
    with pytest.raises(ConfigError, match="Is a directory"):
        config.load(tmp_path)
