"""`server/decode.py` on files, folders and standard input."""

import io
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

import rjpeg

ROOT = Path(__file__).resolve().parents[2]


def lines(result):
    return [json.loads(line) for line in result.stdout.splitlines()]


@pytest.mark.slow
def test_a_file_becomes_the_picture_that_the_library_decodes_and_a_line_that_describes_it(
    decode, jpeg, photograph, tmp_path
):
    (tmp_path / "a.jpg").write_bytes(jpeg)
    result = decode(tmp_path / "a.jpg", "--out", tmp_path / "out")
    assert result.returncode == 0, result.stderr
    [record] = lines(result)
    details = rjpeg.Decoder().decode_with_details(jpeg)
    assert (record["width"], record["height"], record["bytes"]) == (201, 150, len(jpeg))
    assert record["bpp"] == pytest.approx(8 * len(jpeg) / (201 * 150), abs=1e-4)
    assert (record["coding_height"], record["coding_width"]) == details.coding_size
    assert record["mean_level_luma"] == pytest.approx(details.quality_map[..., 0].mean(), abs=1e-3)
    factors = rjpeg.inspect(jpeg)["quality_factors"]
    assert record["mean_quality_chroma"] == pytest.approx(factors[..., 1].mean(), abs=1e-3)
    assert record["refinement_bytes"] == details.refinement_bytes
    assert record["picture"] == str(tmp_path / "out" / "a.png")
    np.testing.assert_array_equal(cv2.imread(record["picture"]), details.frame)


@pytest.mark.slow
def test_raw_pictures_are_numpy_arrays(decode, jpeg, tmp_path):
    (tmp_path / "a.jpg").write_bytes(jpeg)
    [record] = lines(decode(tmp_path / "a.jpg", "--out", tmp_path, "--format", "raw"))
    frame = np.load(record["picture"], allow_pickle=False)
    np.testing.assert_array_equal(frame, rjpeg.Decoder().decode(jpeg))


@pytest.mark.slow
def test_standard_input_is_one_file(decode, jpeg, tmp_path):
    result = subprocess.run(
        [sys.executable, "-m", "server.decode", "-", "--out", str(tmp_path)],
        cwd=ROOT,
        input=jpeg,
        capture_output=True,
        check=True,
        timeout=120,
    )
    assert json.loads(result.stdout)["picture"] == str(tmp_path / "stdin.png")
    np.testing.assert_array_equal(cv2.imread(str(tmp_path / "stdin.png")), rjpeg.Decoder().decode(jpeg))


@pytest.mark.slow
def test_a_film_gives_every_frame_and_a_followers_key_is_in_it(decode, stream, jpeg, tmp_path):
    files = [each.jpeg for each in stream.files]
    cut = jpeg[: len(jpeg) - 60]
    (tmp_path / "film.mjpeg").write_bytes(b"".join([*files, cut, jpeg]))
    limit = max(map(len, [*files, jpeg]))
    result = decode(tmp_path / "film.mjpeg", "--out", tmp_path / "out", "--max-bytes", str(limit))
    assert result.returncode == 1
    records = lines(result)
    assert [record["frame"] for record in records] == list(range(len(files) + 2))
    assert ["error" in record for record in records] == [False] * len(files) + [True, False]
    shown = rjpeg.StreamDecoder()
    for number, file in enumerate([*files, cut, jpeg]):
        if file is not cut:
            np.testing.assert_array_equal(cv2.imread(str(tmp_path / "out" / f"film-{number}.png")), shown.decode(file))


@pytest.mark.slow
def test_what_is_behind_a_picture_is_no_frame_and_the_picture_is_upright(decode, photograph, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 8
    file, preview = io.BytesIO(), cv2.imencode(".jpg", photograph[::4, ::4])[1].tobytes()
    Image.fromarray(photograph).save(file, "JPEG", exif=exif)
    (tmp_path / "a.jpg").write_bytes(file.getvalue() + preview)
    [record] = lines(decode(tmp_path / "a.jpg", "--out", tmp_path))
    assert "frame" not in record
    assert cv2.imread(str(tmp_path / "a.png")).shape == (201, 150, 3)


@pytest.mark.slow
def test_a_pipe_is_read_while_somebody_writes(decode, jpeg, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=lambda: (tmp_path / "pipe").write_bytes(jpeg))
    writer.start()
    [record] = lines(decode(tmp_path / "pipe"))
    writer.join()
    assert record["bytes"] == len(jpeg)


@pytest.mark.slow
def test_a_full_disk_at_standard_output_is_one_line_and_an_exit_code(decode, jpeg, tmp_path):
    (tmp_path / "a.jpg").write_bytes(jpeg)
    command = [sys.executable, "server/decode.py", str(tmp_path / "a.jpg")]
    with Path("/dev/full").open("wb") as full:
        options = {"cwd": ROOT, "stdout": full, "stderr": subprocess.PIPE, "text": True, "timeout": 60}
        result = subprocess.run(command, check=False, **options)
    assert result.returncode == 1
    assert "standard output can't be written: No space left on device" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.slow
def test_a_folder_is_decoded_past_its_broken_files_and_the_exit_code_tells(decode, jpeg, photograph, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "10.jpg").write_bytes(jpeg)
    (folder / "2.JPEG").write_bytes(cv2.imencode(".jpg", photograph)[1].tobytes())
    (folder / "3.jpg").write_bytes(jpeg[: len(jpeg) // 2])
    (folder / "4.jpg").write_bytes(b"")
    (folder / "5.jpg").symlink_to("nowhere")
    (folder / "notes.txt").write_text("no picture")
    result = decode(folder, "--out", tmp_path / "out")
    assert result.returncode == 1
    assert result.stderr.endswith("error: 3 not decoded or not written; their lines say why\n")
    records = lines(result)
    assert [Path(r["file"]).name for r in records] == ["2.JPEG", "3.jpg", "4.jpg", "5.jpg", "10.jpg"]
    assert ["error" in r for r in records] == [False, True, True, True, False]
    assert records[0]["mean_level_luma"] is None, "an ordinary JPEG has no map"
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["10.png", "2.png"]


@pytest.mark.slow
def test_files_that_differ_only_in_their_ending_get_two_pictures(decode, jpeg, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "a.jpg").write_bytes(jpeg)
    (folder / "a.jpeg").write_bytes(jpeg)
    assert decode(folder, "--out", tmp_path / "out").returncode == 0
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["a.jpeg.png", "a.jpg.png"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{tmp}/empty"], "holds no picture"),
        (["{tmp}/a.jpg", "--model", "{tmp}/nowhere"], "nowhere"),
        (["{tmp}/a.jpg", "--task", "{tmp}/nowhere.tflite"], "nowhere.tflite"),
        (["{tmp}/a.jpg", "--task", "{tmp}/a.jpg"], "a.jpg is no network"),
        (["{tmp}/a.jpg", "--task", "{tmp}/wrong.yaml"], "wrong.yaml: Object contains unknown field `speed`"),
        (["{tmp}/a.jpg", "--task", "{tmp}/nowhere.yaml"], "can't read task"),
    ],
)
def test_what_cannot_work_ends_with_one_line_that_says_why(decode, jpeg, tmp_path, arguments, message):
    (tmp_path / "empty").mkdir()
    (tmp_path / "a.jpg").write_bytes(jpeg)
    (tmp_path / "wrong.yaml").write_text("{kind: python, function: 'json:dumps', speed: 3}")
    result = decode(*(a.format(tmp=tmp_path) for a in arguments))
    assert result.returncode == 1
    assert result.stdout == ""
    [line] = result.stderr.splitlines()
    assert line.startswith("error: ")
    assert message in line


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [[], ["a.jpg", "--listen", "127.0.0.1:0"], ["a.jpg", "--max-bytes", "0"], ["a.jpg", "--keep-jpeg"]],
)
def test_wrong_usage_exits_with_2(decode, arguments):
    result = decode(*arguments)
    assert result.returncode == 2
    assert "usage:" in result.stderr


@pytest.mark.slow
def test_limits_on_bytes_and_pixels_are_kept(decode, jpeg, tmp_path):
    (tmp_path / "a.jpg").write_bytes(jpeg)
    by_bytes = decode(tmp_path / "a.jpg", "--max-bytes", str(len(jpeg) - 1))
    by_pixels = decode(tmp_path / "a.jpg", "--max-pixels", str(201 * 150 - 1))
    within = decode(tmp_path / "a.jpg", "--max-bytes", str(len(jpeg)), "--max-pixels", str(208 * 160))
    assert "larger than" in lines(by_bytes)[0]["error"]
    assert "error" in lines(by_pixels)[0]
    assert (by_bytes.returncode, by_pixels.returncode, within.returncode) == (1, 1, 0)


@pytest.mark.slow
def test_a_full_disk_is_an_error_and_leaves_no_half_of_a_picture(decode, encoder, tmp_path):
    noise = np.random.default_rng(1).integers(0, 256, (300, 300, 3), np.uint8)
    (tmp_path / "a.jpg").write_bytes(encoder.encode(noise, quality=90))
    full = tmp_path / "full"
    full.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(full)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("mounting a small disk needs root")
    try:
        result = decode(tmp_path / "a.jpg", "--out", full)
        assert result.returncode == 1
        assert "No space left on device" in lines(result)[0]["error"]
        assert list(full.iterdir()) == []
    finally:
        subprocess.run(["umount", str(full)], check=True)
