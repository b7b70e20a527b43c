"""The console script does what its help says, on files and pipes, and ends with words and a code."""

import json
import subprocess
import sys

import cv2
import numpy as np
import pytest

import rjpeg
from rjpeg.cli import main


@pytest.fixture
def picture(tmp_path, photo):
    path = tmp_path / "photo.png"
    cv2.imwrite(str(path), photo)
    return path


def test_encode_inspect_and_decode_make_the_round_trip(tmp_path, picture, photo, capsys):
    jpeg, back = tmp_path / "a.jpg", tmp_path / "b.png"
    assert main(["encode", str(picture), str(jpeg), "--target-bytes", "3000", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["bytes"] == jpeg.stat().st_size <= 3000
    assert main(["inspect", str(jpeg), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["frame_size"] == [224, 224]
    assert np.shape(facts["quality_map"]) == (facts["rows"], facts["cols"], 2)
    assert main(["inspect", str(jpeg)]) == 0
    assert "quality factors, luma" in capsys.readouterr().out
    assert main(["decode", str(jpeg), str(back)]) == 0
    np.testing.assert_array_equal(cv2.imread(str(back)), rjpeg.Decoder().decode(jpeg.read_bytes()))


@pytest.mark.slow
def test_pipes_carry_pictures_and_nothing_else(picture, photo):
    command = [sys.executable, "-m", "rjpeg.cli"]
    encoded = subprocess.run(
        [*command, "encode", "-", "-", "--json"],
        input=picture.read_bytes(),
        capture_output=True,
        timeout=60,
        check=True,
    )
    assert encoded.stdout == rjpeg.Encoder().encode(photo, quality=50)
    decoded = subprocess.run(
        [*command, "decode", "-", "-"], input=encoded.stdout, capture_output=True, timeout=60, check=True
    )
    frame = cv2.imdecode(np.frombuffer(decoded.stdout, np.uint8), cv2.IMREAD_COLOR)
    np.testing.assert_array_equal(frame, rjpeg.Decoder().decode(encoded.stdout))


def test_map_draws_a_picture_or_a_folder_of_them_and_goes_past_a_broken_one(tmp_path, picture, capsys):
    assert main(["map", str(picture), str(tmp_path / "sheet.png")]) == 0
    sheet = cv2.imread(str(tmp_path / "sheet.png"))
    assert sheet.shape[1] > 5 * 224
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "a.png").write_bytes(picture.read_bytes())
    (folder / "broken.jpg").write_bytes(b"no picture")
    assert main(["map", str(folder), str(tmp_path / "maps")]) == 1
    assert [path.name for path in (tmp_path / "maps").iterdir()] == ["a.map.png"]
    assert "1 of 2 pictures" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["encode", "missing.png", "out.jpg"], "can't read missing.png: No such file"),
        (["decode", "/dev/null", "out.png"], "not a readable JPEG"),
        (["encode", "{picture}", "out.jpg", "--quality", "500"], "quality is 500"),
        (["encode", "{picture}", "/dev/null/out.jpg"], "can't write"),
        (["decode", "{jpeg}", "out.nosuch"], "OpenCV writes no .nosuch"),
        (["encode", "{picture}", "o.jpg", "--model", "nowhere"], "model manifest nowhere"),
        (["encode", "{picture}", "o.jpg", "--max-pixels", "99"], "larger than 99 pixels"),
    ],
)
def test_errors_are_one_line_and_exit_code_1(tmp_path, picture, photo, arguments, message, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.jpg").write_bytes(rjpeg.Encoder().encode(photo, quality=50))
    filled = [argument.format(picture=picture, jpeg=tmp_path / "a.jpg") for argument in arguments]
    assert main(filled) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error
    assert error.count("\n") == 1


def test_wrong_usage_is_exit_code_2(capsys):
    for arguments in ([], ["encode"], ["encode", "a", "b", "--quality", "5", "--target-bytes", "5"], ["nosuch"]):
        with pytest.raises(SystemExit, match="2"):
            main(arguments)


def test_help_shows_defaults(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["encode", "--help"])
    assert "(default: 4:2:0)" in capsys.readouterr().out
