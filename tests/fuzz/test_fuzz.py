"""Damaged and forged files by the thousand, and bombs, do no harm; the second reader and the mutator are as they say.

`python -m tests.fuzz` decodes as many as one likes, `make fuzz` with the sanitizers' build.
"""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import rjpeg
from rjpeg import _native
from tests.fuzz import corpus, mutator, oracle, reader, stream_oracle, streams

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.skipif(
    shutil.which("cjpeg") is None or shutil.which("jpegtran") is None,
    reason="cjpeg and jpegtran (Debian: libjpeg-turbo-progs) are not installed",
)


def fuzz(*arguments, timeout=900):
    command = [sys.executable, "-m", "tests.fuzz", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=timeout, check=False)
    assert done.returncode in (0, 1), done.stderr
    return json.loads(done.stdout), done.stderr


def make_sanitized():
    """Make the environment whose native part has sanitizers, or skip the test."""
    if shutil.which("gcc") is None:
        pytest.skip("gcc is not installed")
    made = subprocess.run(
        ["make", ".venv-sanitized/.ready"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=900,
        env=os.environ | {"PYTHON": sys.executable},
        check=False,
    )
    assert made.returncode == 0, made.stderr


@pytest.mark.slow
def test_the_second_reader_reads_what_libjpeg_turbo_reads():
    compared = 0
    for name, jpeg in corpus.files().items():
        try:
            file = _native.read_file(jpeg, 10**6, 0xEA, True)
        except rjpeg.JpegError:
            continue
        picture = reader.read(jpeg)
        assert (picture.height, picture.width) == (file["height"], file["width"]), name
        for component, blocks, table in zip(picture.components, file["blocks"], file["tables"], strict=True):
            np.testing.assert_array_equal(component.blocks, blocks, err_msg=name)
            np.testing.assert_array_equal(component.table, table, err_msg=name)
        compared += 1
    assert compared > 30


def test_the_oracle_knows_a_wrong_map_a_wrong_picture_and_a_forged_checksum():
    decoder = rjpeg.Decoder()
    seeds = corpus.region_files()
    jpeg, other = seeds["region 48x64"], seeds["region own map"]
    assert oracle.check(jpeg, decoder.decode_with_details(jpeg), decoder.model, signed=False) is None
    of_other = decoder.decode_with_details(other)
    assert "another than the file's" in oracle.check(jpeg, of_other, decoder.model, signed=False)
    at = jpeg.index(b"\xff\xea") + 9
    forged = jpeg[:at] + b"\x00\x00\x00" + jpeg[at + 3 :]
    decoded = decoder.decode_with_details(jpeg)
    assert "checksum" in oracle.check(forged, decoded, decoder.model, signed=False)


@pytest.mark.slow
def test_a_mutant_is_the_same_file_each_time_and_none_is_like_another():
    first = [mutator.make(3, number).jpeg for number in range(200)]
    assert first == [mutator.make(3, number).jpeg for number in range(200)]
    assert len(set(first)) > 190
    assert first != [mutator.make(4, number).jpeg for number in range(200)]


def test_a_file_taken_apart_and_joined_is_the_same_file():
    for jpeg in corpus.files().values():
        assert mutator.join(mutator.split(jpeg)) == jpeg


@pytest.mark.slow
def test_a_thousand_mutants_do_no_harm(tmp_path):
    summary, said = fuzz("--count", "1000", "--seed", "7", "--workers", "1", "--out", str(tmp_path))
    assert summary["findings"] == 0, said
    assert summary["files"] == 1000
    # Enough of them come far enough to mean something.
    assert summary["accepted"]["region"] > 30
    assert sum("checksum" in kind for kind in summary["errors"]) == 1


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.release
def test_small_files_that_ask_for_the_most_stay_within_two_seconds_and_the_memory_of_their_pixels(tmp_path):
    summary, said = fuzz("--bombs", "--max-pixels", str(2**24), "--out", str(tmp_path))
    assert summary["findings"] == 0, said
    assert summary["files"] > 40
    assert summary["slowest"]["cpu_seconds"] < 2
    assert summary["most memory"]["memory"] < 24 * 2**24, "bytes a pixel"


@pytest.mark.release
@pytest.mark.timeout(1800)
def test_thousands_of_mutants_do_no_harm_under_the_sanitizers(tmp_path):
    make_sanitized()
    summary, said = fuzz("--sanitized", ".venv-sanitized", "--count", "5000", "--seed", "8", "--out", str(tmp_path))
    assert summary["sanitized"]
    assert summary["findings"] == 0, said
    assert summary["files"] == 5000


# Streams


@pytest.mark.slow
def test_a_mutated_stream_is_the_same_each_time_and_forgers_get_their_checksums():
    first = [streams.make(3, number) for number in range(100)]
    assert first == [streams.make(3, number) for number in range(100)]
    assert len(set(first)) > 95
    assert sum(file.signed for mutant in first for file in mutant.files) > 5


def test_the_oracle_of_streams_knows_another_base_picture_and_map():
    key, *others = streams.films()["shaken"]
    decoder, bases = rjpeg.Decoder(), streams.bases()
    follower = next(
        jpeg for jpeg in others if rjpeg.inspect(jpeg)["light"] == [1, 0] and not any(rjpeg.inspect(jpeg)["shift"])
    )
    base = bases[rjpeg.identify(follower).base_id]
    decoded = decoder.decode_with_details(follower, base)
    file = streams.File(follower)
    assert stream_oracle.check(file, decoded, base) is None
    other = next(each for each in bases.values() if each.id != base.id)
    assert "another base" in stream_oracle.check(file, decoded, other)
    assert "another picture" in stream_oracle.check(file, replace(decoded, frame=decoded.frame ^ 1), base)
    changed = decoded.kept.copy()
    changed[0, 0] ^= True
    assert "kept regions are others" in stream_oracle.check(file, replace(decoded, kept=changed), base)
    forged = replace(decoded, frame=decoded.frame ^ 1)
    assert "something else" in stream_oracle.check(streams.File(follower, signed=True), forged, base)
    assert stream_oracle.check(streams.File(key), decoder.decode_with_details(key), None) is None


@pytest.mark.slow
def test_hundreds_of_mutated_streams_give_the_right_pictures_or_errors(tmp_path):
    arguments = ("--streams", "--count", "300", "--seed", "7", "--workers", "1", "--out", str(tmp_path))
    summary, said = fuzz(*arguments)
    assert summary["findings"] == 0, said
    assert summary["mutants"] == 300
    # Enough of them come far enough to mean something.
    assert min(summary["accepted"][kind] for kind in ("key", "patch", "follower")) > 100
    assert any(kind.startswith("KeyMissingError") for kind in summary["errors"])
    assert any("checksum" in kind for kind in summary["errors"])


@pytest.mark.release
@pytest.mark.timeout(7200)
def test_a_hundred_thousand_mutated_streams_give_the_right_pictures_or_errors(tmp_path):
    summary, said = fuzz("--streams", "--count", "100000", "--seed", "9", "--out", str(tmp_path), timeout=7000)
    assert summary["findings"] == 0, said
    assert summary["mutants"] == 100_000


@pytest.mark.release
@pytest.mark.timeout(3600)
def test_thousands_of_mutated_streams_do_no_harm_under_the_sanitizers(tmp_path):
    make_sanitized()
    arguments = ("--sanitized", ".venv-sanitized", "--count", "5000", "--seed", "8", "--out", str(tmp_path))
    summary, said = fuzz("--streams", *arguments, timeout=3000)
    assert summary["sanitized"]
    assert summary["findings"] == 0, said
