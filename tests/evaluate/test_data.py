from pathlib import Path

import cv2
import numpy as np
import pytest

from evaluate.data import (
    DataSet,
    Picture,
    calibration_pictures,
    check_labels,
    find_pictures,
    fit_frame,
    load,
    read_frame,
    take,
)
from rjpeg.errors import InputError


def save(path: Path, frame: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), frame)


@pytest.fixture
def folder(tmp_path, photographs) -> Path:
    for index, name in enumerate(("b.png", "a.png", "c.webp")):
        save(tmp_path / "set" / name, photographs[index])
    return tmp_path / "set"


def names(data: DataSet) -> list[tuple[str, int | None]]:
    return [(picture.name, picture.label) for picture in data.pictures]


@pytest.mark.parametrize(
    "text",
    [
        "file,label\nb.png,7\na.png,0\n",
        "file,imagenet_class\nb.png,7\na.png,0\n",
        "label,file\n7,b.png\n0,a.png\n",
        "b.png,7\na.png,0\n",
        "\ufefffile,label\r\nb.png,7\r\n\r\na.png,0\r\n",
    ],
)
def test_labels_are_read_with_and_without_a_header(folder, text):
    (folder / "labels.csv").write_text(text, encoding="utf-8")
    assert names(find_pictures(folder)) == [("a.png", 0), ("b.png", 7)]


def test_labels_may_lie_beside_the_folder(folder):
    folder.with_suffix(".csv").write_text("c.webp,3\n", encoding="utf-8")
    assert names(find_pictures(folder)) == [("c.webp", 3)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("file,label\n", "lists no pictures"),
        ("file,color\na.png,red\n", "none of"),
        ("a.png,red\n", "line 1: class index must be a whole number from 0, got 'red'"),
        ("a.png,-1\n", "got '-1'"),
        ("a.png,1.5\n", "got '1.5'"),
        ("file,label\na.png\n", "line 2: expected a file name and a class index"),
        ("a.png,1\na.png,2\n", "line 2: a.png is listed twice"),
        ("none.png,1\n", "none.png is missing"),
    ],
)
def test_a_wrong_labels_file_is_told_with_its_line(folder, text, message):
    (folder / "labels.csv").write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=message):
        find_pictures(folder)


def test_labels_that_are_not_text_are_refused(folder):
    (folder / "labels.csv").write_bytes(b"\xff\xfe\x00,1\n")
    with pytest.raises(InputError, match="cannot be read"):
        find_pictures(folder)


def test_pictures_alone_have_no_labels(folder):
    data = find_pictures(folder)
    assert names(data) == [("a.png", None), ("b.png", None), ("c.webp", None)]
    assert not data.labelled


def test_class_folders_give_indices_by_sorted_name(tmp_path, photographs):
    for name in ("zebra", "cat", "dog"):
        save(tmp_path / name / "1.png", photographs[0])
    data = find_pictures(tmp_path)
    assert names(data) == [("cat/1.png", 0), ("dog/1.png", 1), ("zebra/1.png", 2)]
    check_labels(data, 3)
    with pytest.raises(InputError, match="3 class folders for a classifier of 1000 classes"):
        check_labels(data, 1000)


def test_folders_named_by_number_are_the_indices_themselves(tmp_path, photographs):
    for name in ("7", "10"):
        save(tmp_path / name / "1.png", photographs[0])
    data = find_pictures(tmp_path)
    assert names(data) == [("10/1.png", 10), ("7/1.png", 7)]
    check_labels(data, 11)
    with pytest.raises(InputError, match=r"class 10, the classifier has classes 0\.\.9"):
        check_labels(data, 10)


def test_a_folder_without_pictures_is_refused(tmp_path):
    with pytest.raises(InputError, match="neither pictures nor folders of pictures"):
        find_pictures(tmp_path)


def test_a_missing_folder_is_refused(tmp_path):
    with pytest.raises(InputError, match="nowhere is not a folder"):
        find_pictures(tmp_path / "nowhere")


@pytest.mark.parametrize("content", [b"", b"\xff\xd8\xff", b"no picture at all"])
def test_an_unreadable_picture_is_told_by_name(tmp_path, content):
    (tmp_path / "broken.jpg").write_bytes(content)
    with pytest.raises(InputError, match=r"broken\.jpg is not a picture"):
        read_frame(tmp_path / "broken.jpg")


def test_a_missing_picture_is_told_by_name(tmp_path):
    with pytest.raises(InputError, match=r"gone\.png cannot be read"):
        read_frame(tmp_path / "gone.png")


def test_a_picture_a_little_too_large_is_only_cut():
    frame = np.random.default_rng(0).integers(0, 256, (227, 229, 3), np.uint8)
    assert np.array_equal(fit_frame(frame, (224, 224), "crop"), frame[1:225, 2:226])


@pytest.mark.parametrize("shape", [(1000, 500), (333, 900), (50, 70), (224, 224), (1, 1), (300, 224)])
@pytest.mark.parametrize("fit", ["crop", "squash"])
def test_every_picture_gets_the_classifiers_size(shape, fit):
    frame = np.full((*shape, 3), 90, np.uint8)
    fitted = fit_frame(frame, (224, 192), fit)
    assert fitted.shape == (224, 192, 3)
    assert np.all(fitted == 90)


def test_a_large_picture_keeps_seven_eighths_of_its_short_side():
    columns = np.linspace(0, 255, 512, dtype=np.float32)
    frame = np.repeat(np.tile(columns, (512, 1))[:, :, np.newaxis], 3, axis=2).astype(np.uint8)
    row = fit_frame(frame, (224, 224), "crop")[100, :, 0].astype(float)
    assert row[0] == pytest.approx(255 / 16, abs=1.5)
    assert row[-1] == pytest.approx(255 * 15 / 16, abs=1.5)


def test_a_window_is_cut_out_before_anything_else(tmp_path, photographs):
    save(tmp_path / "p.png", photographs[0])
    picture = Picture("p", tmp_path / "p.png", None, (10, 21, 33, 47))
    assert np.array_equal(load(picture, "whole", (224, 224)), photographs[0][10:43, 21:68])


def test_a_limit_spreads_over_the_whole_list():
    pictures = [Picture(str(index), Path()) for index in range(10)]
    assert [picture.name for picture in take(pictures, 4)] == ["0", "2", "5", "7"]
    assert take(pictures, None) == take(pictures, 99) == pictures


def test_calibration_data_gives_different_crops_that_lie_within_their_pictures():
    root = Path(__file__).resolve().parents[2] / "calibration_data"
    data = calibration_pictures(root, 224)
    assert len(data.pictures) >= 24
    assert len({(picture.path, picture.window) for picture in data.pictures}) == len(data.pictures)
    assert all(load(picture, "whole", (0, 0)).shape == (224, 224, 3) for picture in data.pictures)


@pytest.mark.parametrize("text", ["{", "[]", '{"pictures": 3}', '{"pictures": [{"use": "evaluation"}]}'])
def test_a_broken_manifest_is_told(tmp_path, text):
    (tmp_path / "manifest.json").write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match="is not a manifest"):
        calibration_pictures(tmp_path, 224)
