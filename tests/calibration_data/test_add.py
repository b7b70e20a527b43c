"""A person adds pictures of their own."""

import cv2
import numpy as np
import pytest

import calibration_data
from calibration_data import add


def picture(height, width, seed=0):
    """A smooth random (height, width, 3) uint8 picture."""
    small = np.random.default_rng(seed).integers(0, 256, (9, 13, 3), dtype=np.uint8)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)


def write(path, frame):
    path.parent.mkdir(exist_ok=True)
    assert cv2.imwrite(str(path), frame)
    return path


def test_a_folder_of_pictures_is_reduced_and_listed(tmp_path, capsys):
    write(tmp_path / "in" / "Front Door.png", picture(901, 1203))
    write(tmp_path / "in" / "small.png", picture(33, 57, 1))
    folder = tmp_path / "out"
    code = add.main([str(tmp_path / "in"), "--folder", str(folder), "--author", "Ada", "--license", "CC0-1.0"])
    assert code == 0
    assert capsys.readouterr().out.split() == ["front-door.jpg", "small.jpg"]
    door, small = calibration_data.read_manifest(folder)
    assert (door.width, door.height) == (640, 479)
    assert (small.width, small.height) == (57, 33)
    assert (door.title, door.author, door.license, door.use) == (
        "Front Door",
        "Ada",
        "CC0-1.0",
        "calibration",
    )
    for entry in (door, small):
        frame = cv2.imread(str(calibration_data.check(entry, folder)))
        assert frame.shape == (entry.height, entry.width, 3)
    expected = cv2.resize(picture(901, 1203), (640, 479), interpolation=cv2.INTER_AREA)
    error = cv2.imread(str(folder / door.file)).astype(float) - expected
    assert np.sqrt((error**2).mean()) < 4


def test_the_same_picture_is_not_added_twice_and_another_of_its_name_gets_a_number(tmp_path, capsys):
    source = write(tmp_path / "in" / "a.png", picture(40, 60))
    folder = tmp_path / "out"
    assert add.main([str(source), "--folder", str(folder)]) == 0
    assert add.main([str(source), "--folder", str(folder)]) == 0
    write(source, picture(40, 60, 1))
    assert add.main([str(source), "--folder", str(folder), "--use", "evaluation"]) == 0
    assert capsys.readouterr().out.split() == ["a.jpg", "a-2.jpg"]
    entries = calibration_data.read_manifest(folder)
    assert [(entry.file, entry.use) for entry in entries] == [
        ("a-2.jpg", "evaluation"),
        ("a.jpg", "calibration"),
    ]
    assert entries[0].license == "LicenseRef-not-for-redistribution"


def test_frames_of_a_video_are_taken_at_the_distance_asked_for(tmp_path):
    path = tmp_path / "clip.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 10, (96, 64))
    for index in range(25):
        writer.write(np.full((64, 96, 3), 10 * index, np.uint8))
    writer.release()
    folder = tmp_path / "out"
    assert add.main([str(path), "--every", "0.5", "--folder", str(folder)]) == 0
    levels = sorted(cv2.imread(str(folder / e.file)).mean() for e in calibration_data.read_manifest(folder))
    np.testing.assert_allclose(levels, [0, 50, 100, 150, 200], atol=4)
    assert add.main([str(path), "--count", "2", "--folder", str(tmp_path / "two"), "--every", "0.1"]) == 0
    assert len(calibration_data.read_manifest(tmp_path / "two")) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["no such folder"], "no such folder"),
        (["/dev/video99", "--count", "1"], "/dev/video99"),
        (["99"], "camera 99"),
    ],
)
def test_a_source_that_is_not_there_is_named(tmp_path, capsys, arguments, message):
    assert add.main([*arguments, "--folder", str(tmp_path)]) == 1
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ")
    assert message in captured.err
    assert captured.out == ""
    assert list(tmp_path.iterdir()) == []


def test_a_broken_manifest_is_left_as_it_is(tmp_path, capsys):
    source = write(tmp_path / "in" / "a.png", picture(40, 60))
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "manifest.json").write_text("{")
    assert add.main([str(source), "--folder", str(folder)]) == 1
    assert "is not a manifest" in capsys.readouterr().err
    assert [path.name for path in folder.iterdir()] == ["manifest.json"]
    assert (folder / "manifest.json").read_text() == "{"


def test_a_folder_without_a_readable_picture_is_an_error(tmp_path, capsys):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.jpg").write_bytes(b"no picture")
    assert add.main([str(tmp_path / "in"), "--folder", str(tmp_path / "out")]) == 1
    assert "no picture that can be read" in capsys.readouterr().err


@pytest.mark.parametrize(
    "flag", [["--count", "0"], ["--every", "-1"], ["--long-side", "x"], ["--use", "fun"], ["--every", "nan"]]
)
def test_a_wrong_flag_is_a_usage_error(capsys, flag):
    with pytest.raises(SystemExit) as stopped:
        add.main(["source", *flag])
    assert stopped.value.code == 2
    assert flag[0] in capsys.readouterr().err
