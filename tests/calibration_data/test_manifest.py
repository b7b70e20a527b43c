"""What the manifest says of the pictures is true."""

import cv2
import numpy as np
import pytest

import calibration_data
from rjpeg.errors import StorageError

PICTURES = calibration_data.read_manifest()
REDISTRIBUTABLE = (
    "CC0-1.0",
    "LicenseRef-public-domain",
    *(f"CC-BY-{version}" for version in ("1.0", "2.0", "3.0", "4.0")),
    *(f"CC-BY-SA-{version}" for version in ("2.0", "3.0", "4.0")),
)


@pytest.mark.parametrize("picture", PICTURES, ids=lambda picture: picture.file)
def test_an_entry_describes_its_file(picture):
    path = calibration_data.check(picture)
    assert path.stat().st_size == picture.bytes
    frame = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR)
    assert frame.shape == (picture.height, picture.width, 3)
    assert max(frame.shape) <= 640
    assert picture.license in REDISTRIBUTABLE
    assert picture.title
    assert picture.source
    assert picture.author


def test_every_picture_in_the_folder_has_one_entry():
    files = sorted(path.name for path in calibration_data.FOLDER.glob("*.jpg"))
    assert [picture.file for picture in PICTURES] == files


def test_a_third_of_the_pictures_is_kept_from_calibration():
    kept = sum(picture.use == "evaluation" for picture in PICTURES)
    assert 0.3 <= kept / len(PICTURES) <= 0.4


def test_the_pictures_stay_under_three_megabytes():
    assert sum(picture.bytes for picture in PICTURES) < 3e6


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not a manifest"),
        ('{"format": 2, "pictures": []}', "format"),
        ('{"format": 1, "pictures": [{"file": "a.jpg"}]}', "title"),
        ('{"format": 1, "pictures": [], "colour": 1}', "colour"),
    ],
)
def test_a_broken_manifest_is_named_with_what_is_wrong(tmp_path, text, message):
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(StorageError, match=message):
        calibration_data.read_manifest(tmp_path)


def test_a_missing_manifest_and_a_changed_picture_are_errors(tmp_path):
    with pytest.raises(StorageError, match=r"manifest\.json: No such file"):
        calibration_data.read_manifest(tmp_path)
    (tmp_path / PICTURES[0].file).write_bytes(b"another picture")
    with pytest.raises(StorageError, match="the manifest says"):
        calibration_data.check(PICTURES[0], tmp_path)
