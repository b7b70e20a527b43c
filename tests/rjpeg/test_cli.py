"""The console script does what its help says, on files and pipes, and ends with words and a code."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

import rjpeg
from rjpeg.cli import main
from tests.rjpeg.streams import film

ENVIRONMENT = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}


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


def test_files_that_differ_only_in_their_ending_get_a_name_each(tmp_path, photo):
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("a.jpg", "a.png"):
        cv2.imwrite(str(folder / name), photo)
    assert main(["map", str(folder), str(tmp_path / "maps")]) == 0
    assert {path.name for path in (tmp_path / "maps").iterdir()} == {"a.jpg.map.png", "a.png.map.png"}
    (folder / "a.jpeg").write_bytes((folder / "a.jpg").read_bytes())
    assert main(["decode", str(folder), str(tmp_path / "back")]) == 0
    assert {path.name for path in (tmp_path / "back").iterdir()} == {"a.jpg.png", "a.jpeg.png"}


def test_a_photograph_on_its_side_is_coded_and_decoded_upright(tmp_path, photo):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(photo[:100]).save(tmp_path / "phone.jpg", exif=exif)
    assert main(["encode", str(tmp_path / "phone.jpg"), str(tmp_path / "sent.jpg")]) == 0
    assert rjpeg.Decoder().decode((tmp_path / "sent.jpg").read_bytes()).shape == (224, 100, 3)
    assert main(["decode", str(tmp_path / "phone.jpg"), str(tmp_path / "back.png")]) == 0
    assert cv2.imread(str(tmp_path / "back.png")).shape == (224, 100, 3)


def test_of_a_film_the_first_frame_is_taken_with_a_word(tmp_path, photos, caplog):
    film = [cv2.imencode(".jpg", photo[:64, :96])[1].tobytes() for photo in photos[:3]]
    (tmp_path / "film.mjpeg").write_bytes(b"".join(film))
    for command in ("decode", "encode"):
        caplog.clear()
        assert main([command, str(tmp_path / "film.mjpeg"), str(tmp_path / f"{command}.bmp")]) == 0
        assert "film.mjpeg is a film of several frames; the first is taken" in caplog.text
    assert cv2.imread(str(tmp_path / "decode.bmp")).shape == (64, 96, 3)


def test_a_path_may_begin_at_the_home_folder(tmp_path, picture, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert main(["encode", f"~/{picture.name}", "~/a.jpg"]) == 0
    assert (tmp_path / "a.jpg").stat().st_size


def test_what_is_cut_is_an_error_of_inspect_as_of_decode(tmp_path, photo, pictures, capsys):
    ordinary = cv2.imencode(".jpg", photo)[1].tobytes()
    assert main(["encode", "--stream", str(pictures), str(tmp_path / "sent"), "--json"]) == 0
    follower = (tmp_path / "sent" / "10.jpg").read_bytes()
    capsys.readouterr()
    for jpeg in (ordinary, rjpeg.Encoder().encode(photo, 50), follower):
        (tmp_path / "cut.jpg").write_bytes(jpeg[:-30])
        assert main(["inspect", str(tmp_path / "cut.jpg")]) == 1
        inspected = capsys.readouterr()
        assert inspected.out == ""
        assert "error: damaged JPEG: " in inspected.err


@pytest.mark.slow
def test_a_full_disk_or_a_closed_pipe_at_standard_output_is_one_line_and_an_exit_code(tmp_path, photo):
    (tmp_path / "a.jpg").write_bytes(rjpeg.Encoder().encode(photo, 50))
    for arguments in (["inspect", "a.jpg"], ["inspect", "a.jpg", "--json"], ["decode", "a.jpg", "-"]):
        command = shlex.join([sys.executable, "-m", "rjpeg.cli", *arguments])
        for redirected, code, said in (
            ("> /dev/full", 1, "error: can't write to standard output: No space left on device\n"),
            ("| true", 141, "error: standard output was closed\n"),
        ):
            # a short output that nobody has read yet is no error
            script = f"{{ sleep 0.3; {command}; echo $? >&2; }} {redirected}"
            options = {"cwd": tmp_path, "env": ENVIRONMENT, "capture_output": True, "text": True, "timeout": 60}
            done = subprocess.run(["bash", "-c", script], check=False, **options)
            assert done.stderr == f"{said}{code}\n", arguments


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


# Streams


@pytest.fixture
def pictures(tmp_path):
    """Pictures of a camera that stands still, in a folder."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number, frame in enumerate(film(64, 96, 4)):
        cv2.imwrite(str(folder / f"{number + 9}.png"), frame)
    return folder


def facts_of(text):
    return [json.loads(line) for line in text.splitlines()]


def test_a_folder_of_pictures_becomes_a_stream_that_decodes_in_any_order(tmp_path, pictures, capsys):
    sent, back = tmp_path / "sent", tmp_path / "back"
    assert main(["encode", "--stream", str(pictures), str(sent), "--quality", "60", "--json"]) == 0
    facts = facts_of(capsys.readouterr().out)
    assert [each["file"] for each in facts] == ["9.jpg", "10.jpg", "11.jpg", "12.jpg"]
    first, *others = [each["kind"] for each in facts]
    assert first == "key"
    assert "key" not in others
    # The key comes last by name.
    (sent / "9.jpg").rename(sent / "99.jpg")
    assert main(["decode", str(sent), str(back)]) == 0
    stream = rjpeg.StreamDecoder()
    for name in ("99", "10", "11", "12"):
        expected = stream.decode((sent / f"{name}.jpg").read_bytes())
        np.testing.assert_array_equal(cv2.imread(str(back / f"{name}.png")), expected)
    assert main(["decode", str(sent / "11.jpg"), str(tmp_path / "one.png")]) == 0
    np.testing.assert_array_equal(cv2.imread(str(tmp_path / "one.png")), cv2.imread(str(back / "11.png")))


def test_pictures_one_by_one_become_a_stream_too_and_a_new_key_comes_in_time(tmp_path, pictures, caplog):
    caplog.set_level("INFO")
    names = [str(pictures / f"{number}.png") for number in (9, 10, 11, 12)]
    options = ["--key-seconds", "20", "--interval", "10", "--target-bytes", "2000", "--plain-view", "soft"]
    assert main(["encode", "--stream", *names, str(tmp_path / "sent"), *options]) == 0
    kinds = [rjpeg.identify((tmp_path / f"sent/{number}.jpg").read_bytes()).kind for number in (9, 10, 11, 12)]
    assert kinds == ["key", "follower", "key", "follower"]
    assert all(path.stat().st_size <= 2000 for path in (tmp_path / "sent").iterdir())
    assert "2 key of" in caplog.text


def test_a_missing_key_is_named_and_the_plain_view_is_given_on_request(tmp_path, pictures, capsys, caplog):
    sent, back = tmp_path / "sent", tmp_path / "back"
    assert main(["encode", "--stream", str(pictures), str(sent), "--json"]) == 0
    key = facts_of(capsys.readouterr().out)[0]["id"]
    (sent / "9.jpg").unlink()
    assert main(["decode", str(sent), str(back)]) == 1
    assert "3 of 3 files" in capsys.readouterr().err
    assert caplog.text.count(key) == 3
    assert main(["decode", str(sent / "10.jpg"), str(tmp_path / "one.png")]) == 1
    assert key in capsys.readouterr().err
    assert main(["decode", str(sent), str(back), "--without-key", "plain"]) == 0
    plain = rjpeg.Decoder().decode_plain((sent / "10.jpg").read_bytes())
    np.testing.assert_array_equal(cv2.imread(str(back / "10.png")), plain)


def test_inspect_and_map_of_a_follower_find_its_key_beside_it(tmp_path, pictures, capsys):
    sent = tmp_path / "sent"
    assert main(["encode", "--stream", str(pictures), str(sent), "--json", "--coding-size", "96x64"]) == 0
    capsys.readouterr()
    assert main(["inspect", str(sent / "10.jpg"), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["kind"], facts["frame_size"]) == ("follower", [64, 96])
    assert np.shape(facts["kept"]) == (4, 6)
    assert main(["inspect", str(sent / "10.jpg")]) == 0
    assert "of 24 regions" in capsys.readouterr().out
    assert main(["map", str(sent), str(tmp_path / "maps")]) == 0
    sheet = cv2.imread(str(tmp_path / "maps" / "10.map.png"))
    assert sheet.shape[1] > 3 * 96
    (sent / "9.jpg").unlink()
    assert main(["inspect", str(sent / "10.jpg")]) == 0
    assert "frame_size: None" in capsys.readouterr().out
    assert main(["map", str(sent), str(tmp_path / "maps")]) == 1


def test_what_a_stream_does_not_do_is_refused(tmp_path, pictures, capsys):
    for arguments in (
        ["encode", str(pictures / "9.png"), str(pictures / "10.png"), "out.jpg"],
        ["encode", "--stream", str(pictures), "out", "--subsampling", "4:4:4"],
    ):
        with pytest.raises(SystemExit, match="2"):
            main(arguments)
    other = tmp_path / "9.png"
    other.write_bytes((pictures / "9.png").read_bytes())
    assert main(["encode", "--stream", str(pictures / "9.png"), str(other), str(tmp_path / "sent")]) == 1
    assert "written as 9.jpg" in capsys.readouterr().err
