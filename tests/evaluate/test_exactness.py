import importlib.util
import json
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from evaluate import exactness
from evaluate.exactness import RUNTIMES, File, make_jobs, tally, varied_pictures
from evaluate.stream_exactness import Film, FilmFile, Shown, make_films, tally_films
from rjpeg.errors import InputError

CALIBRATION_DATA = exactness.CALIBRATION_DATA
INSTALLED = [name for name in RUNTIMES if importlib.util.find_spec(name)]


@pytest.fixture(scope="module")
def files() -> list[Path]:
    return sorted(CALIBRATION_DATA.glob("*.jpg"))


@pytest.mark.slow
def test_the_pictures_differ_in_place_and_size_and_reach_every_file(files):
    pictures = varied_pictures(files, 150)
    windows = {(picture.path, picture.window) for picture in pictures}
    sizes = {picture.window[2:] for picture in pictures}
    assert len(windows) == 150
    assert len(sizes) > 60
    assert {picture.path for picture in pictures} == set(files)
    assert sum(height % 2 and width % 2 for height, width in sizes) > 20
    for picture in pictures:
        top, left, height, width = picture.window
        shape = cv2.imread(str(picture.path)).shape
        assert min(height, width) >= 1
        assert 0 <= top <= shape[0] - height
        assert 0 <= left <= shape[1] - width


def test_the_same_seed_chooses_the_same_pictures(files):
    assert varied_pictures(files, 20, 3) == varied_pictures(files, 20, 3) != varied_pictures(files, 20, 4)


def test_too_few_different_pictures_are_told(tmp_path):
    cv2.imwrite(str(tmp_path / "dot.png"), np.zeros((1, 1, 3), np.uint8))
    with pytest.raises(InputError, match="give only 1 different crops, 5 were asked for"):
        varied_pictures([tmp_path / "dot.png"], 5)
    with pytest.raises(InputError, match="no pictures"):
        varied_pictures([], 5)


@pytest.fixture
def case(files):
    """Two jobs, their files as an encoder would have told them, and maps read back without a fault."""
    rng = np.random.default_rng(0)
    pictures = [picture for picture in varied_pictures(files, 20) if min(picture.window[2:]) >= 160][:2]
    jobs = make_jobs(pictures, (50.0,))
    coded = [
        [
            File("quality 50", None, b"x" * 1000, rng.integers(0, 13, (3, 4, 2), np.uint8), 14, 0),
            File("1000 bytes", 1000, b"x" * 980, rng.integers(0, 13, (3, 4, 2), np.uint8), 24, 10),
        ]
        for _ in jobs
    ]
    return jobs, coded, [[file.quality_map.copy() for file in row] for row in coded]


def test_equal_maps_count_as_exact_and_figures_add_up(case):
    figures = tally(*case)
    assert (figures["pictures"], figures["files"], figures["differing"]) == (2, 4, 0)
    assert figures["mean_marker_bytes"] == 14
    assert figures["refinement_share"] == pytest.approx(20 / 3960)
    assert (figures["targets"], figures["targets_exceeded"], figures["targets_out_of_reach"]) == (2, 0, 0)
    assert figures["mean_shortfall"] == figures["largest_shortfall"] == pytest.approx(0.02)


@pytest.mark.parametrize("fault", ["one level", "another shape", "an error"])
def test_every_kind_of_difference_counts(case, fault):
    jobs, coded, found = case
    if fault == "one level":
        found[1][0][2, 3, 1] += 1
    else:
        found[1][0] = found[1][0][:2] if fault == "another shape" else "MarkerError: checksum"
    figures = tally(jobs, coded, found)
    assert figures["differing"] == 1
    assert jobs[1].picture.name in figures["differing_files"][0]


def test_a_file_larger_than_its_target_counts(case):
    jobs, coded, found = case
    coded[0][1] = replace(coded[0][1], jpeg=b"x" * 1001)
    coded[1][1] = replace(coded[1][1], jpeg=b"x" * 950)
    figures = tally(jobs, coded, found)
    assert figures["targets_exceeded"] == 1
    assert figures["targets_missed_by_more_than_3_percent"] == 1
    assert figures["largest_shortfall"] == pytest.approx(0.05)


@pytest.mark.slow
@pytest.mark.skipif(not INSTALLED, reason="no TFLite runtime")
def test_the_command_crosses_the_runtimes_that_are_here(monkeypatch, capsys):
    arguments = ["exactness", "--pictures", "8", "--films", "2", "--qualities", "20", "80", "--workers", "2", "--json"]
    monkeypatch.setattr(sys, "argv", [*arguments, "--runtimes", *INSTALLED])
    status = exactness.main()
    pairs = json.loads(capsys.readouterr().out)["pairs"]
    assert status == 0
    assert [(pair["encoder"], pair["decoder"]) for pair in pairs] == list(
        dict.fromkeys([(INSTALLED[0], INSTALLED[-1]), (INSTALLED[-1], INSTALLED[0])])
    )
    for pair in pairs:
        assert pair["pictures"] == 8
        assert pair["files"] == 16 + pair["targets"]
        assert pair["targets"] > 0
        assert (pair["differing"], pair["targets_exceeded"]) == (0, 0)
        assert (pair["films"], pair["film_files_differing"]) == (2, 0)
        assert pair["film_followers"] > 0
        assert pair["film_keys"] + pair["film_patches"] + pair["film_followers"] == 16


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--pictures", "0"], "--pictures and --workers must be at least 1, and --films"),
        (["--data", "/nowhere"], "/nowhere is not a folder"),
        (["--pictures", "2", "--model", "/nowhere"], "/nowhere"),
        (["--pictures", "2", "--qualities", "101"], "101"),
    ],
)
def test_a_wrong_request_ends_with_one_line_and_status_1(arguments, message, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["exactness", *arguments, "--runtimes", INSTALLED[0]])
    assert exactness.main() == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = (line for line in captured.err.splitlines() if line.startswith("error: "))
    assert message in line


def test_a_difference_fails_the_command_and_shows_in_the_table(case, monkeypatch, capsys):
    jobs, coded, found = case
    found[0][0][0, 0, 0] += 1
    row = tally(jobs, coded, found) | tally_films([], [], []) | {"encoder": "a", "decoder": "b"}
    monkeypatch.setattr(exactness, "cross", lambda *_: row)
    monkeypatch.setattr(sys, "argv", ["exactness", "--pictures", "2", "--runtimes", RUNTIMES[0]])
    assert exactness.main() == 1
    lines = capsys.readouterr().out.splitlines()
    assert next(line for line in lines if "must be 0" in line).split()[-1] == "1"


def test_films_are_made_of_pictures_that_are_large_enough_in_both_layouts(files):
    pictures = varied_pictures(files, 40)
    films = make_films(pictures, 8, (20.0, 80.0))
    assert len(films) == 8
    assert {film.plain_view for film in films} == {"tiles", "soft"}
    assert {film.quality for film in films} == {20.0, 80.0}
    assert {film.eager for film in films} == {True, False}
    assert all(min(film.picture.window[2:]) >= 48 for film in films)
    assert make_films(pictures, 0, (50.0,)) == []


@pytest.mark.parametrize("fault", [None, "kept", "frame", "id", "error"])
def test_every_difference_between_the_two_sides_of_a_film_counts(files, fault):
    [picture] = varied_pictures(files, 1)
    film = Film(picture, picture, 50.0, "tiles", eager=True, shaken=False)
    right = [Shown("key", "abc123", None, 1), Shown("follower", "abc124", 5, 2)]
    changes = {None: {}, "kept": {"kept_crc": 6}, "frame": {"frame_crc": 3}, "id": {"id": "abc125"}}
    there = "MarkerError: checksum" if fault == "error" else replace(right[1], **changes[fault])
    figures = tally_films([film], [[FilmFile(b"", each) for each in right]], [[right[0], there]])
    assert (figures["films"], figures["film_keys"], figures["film_followers"]) == (1, 1, 1)
    assert figures["film_files_differing"] == (fault is not None)
    if fault is not None:
        assert "frame 1: " in figures["differing_film_files"][0]
