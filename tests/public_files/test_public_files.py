"""The judge of public files finds what is wrong, and the sets that can be had here have nothing that is."""

import shutil

import cv2
import numpy as np
import pytest

from tests.public_files import judge
from tests.public_files.__main__ import Judge, distinct, table, try_set
from tests.public_files.sets import SETS, UnavailableError, fetch, is_jpeg

pytestmark = pytest.mark.skipif(shutil.which("djpeg") is None, reason="needs djpeg (Debian's libjpeg-turbo-progs)")


@pytest.fixture
def picture():
    return cv2.resize(np.random.default_rng(1).integers(0, 256, (6, 8, 3), np.uint8), (64, 48))


@pytest.mark.slow
def test_files_are_sorted_by_what_the_reference_makes_of_them(tmp_path, picture):
    sound = cv2.imencode(".jpg", picture)[1].tobytes()
    files = {
        "same": sound,
        "refused": b"\xff\xd8\xff no picture",
        "whole": sound[:-2],
        "damaged": sound[:-200] + sound[-2:],
    }
    for outcome, data in files.items():
        path = tmp_path / f"{outcome}.jpg"
        path.write_bytes(data)
        assert judge.judge_jpeg(path) == (outcome, ())


@pytest.mark.slow
def test_another_picture_than_the_references_is_a_finding(tmp_path, picture, monkeypatch):
    path = tmp_path / "a.jpg"
    cv2.imwrite(str(path), picture)
    theirs = judge._djpeg(path)[0]
    monkeypatch.setattr(judge, "_djpeg", lambda _: (theirs ^ 2, ""))
    assert judge.judge_jpeg(path).findings == ("it is 2 levels from djpeg's picture",)
    monkeypatch.setattr(judge, "_djpeg", lambda _: (None, "no JPEG"))
    assert judge.judge_jpeg(path).findings == ("finding: it is accepted, and djpeg refuses it: no JPEG",)


@pytest.mark.release
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("public", SETS, ids=[public.name for public in SETS])
def test_a_public_set_has_no_finding(public, tmp_path_factory):
    try:
        archive = fetch(public, tmp_path_factory.getbasetemp() / "public_files")
    except UnavailableError as error:
        pytest.skip(f"{public.name} can't be had here: {error}")
    assert any(is_jpeg(name, data) for name, data in distinct(archive, set()))
    with Judge() as jury:
        counts, findings = try_set(archive, set(), jury, others=True)
    assert findings == []
    assert public.name in table([(public, counts)])
