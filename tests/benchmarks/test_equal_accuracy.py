import itertools
import json
import math

import numpy as np
import pytest

from benchmarks import equal_accuracy
from rjpeg.errors import StorageError


def measured(ours, plain):
    def points(pairs):
        return [{"bpp": bpp, "top1": top1, "standard_error": 0.02} for bpp, top1 in pairs]

    return {
        "pictures": 634,
        "data": "imagenet_val",
        "size": [224, 224],
        "classifier": "net.tflite",
        "date": "2026-11-25",
        "plain_codecs": ["libjpeg-turbo", "mozjpeg"],
        "region_jpeg": points(ours),
        "region_jpeg_restored": points([(bpp, top1 + 0.05) for bpp, top1 in ours]),
        "plain_jpeg": points(plain),
    }


@pytest.fixture
def use(monkeypatch):
    def use(ours, plain):
        monkeypatch.setattr(equal_accuracy, "about", lambda: measured(ours, plain))

    return use


def test_at_a_measured_point_it_is_the_plain_jpeg_of_the_same_accuracy(use):
    use([(0.25, 0.5), (0.5, 0.6)], [(0.25, 0.4), (0.4, 0.5), (0.8, 0.6)])
    assert equal_accuracy.plain_jpeg_bpp(0.25) == pytest.approx(0.4)
    assert equal_accuracy.plain_jpeg_bpp(0.5) == pytest.approx(0.8)
    # halfway in the logarithm of both
    assert equal_accuracy.plain_jpeg_bpp(math.sqrt(0.25 * 0.5)) == pytest.approx(math.sqrt(0.4 * 0.8))
    assert equal_accuracy.plain_jpeg_bpp(0.25, restored=True) == pytest.approx(math.sqrt(0.4 * 0.8))


@pytest.mark.parametrize("bpp", [0.2499, 0.5001, 0, -1, math.nan, math.inf])
def test_outside_of_the_measured_range_there_is_no_figure(use, bpp):
    use([(0.25, 0.5), (0.5, 0.6)], [(0.1, 0.1), (4, 0.9)])
    assert equal_accuracy.plain_jpeg_bpp(bpp) is None


def test_an_accuracy_that_no_plain_jpeg_had_has_no_figure(use):
    use([(0.25, 0.3), (0.5, 0.6), (1.0, 0.7)], [(0.25, 0.4), (1, 0.65)])
    assert equal_accuracy.plain_jpeg_bpp(0.26) is None  # worse than the least that was measured
    assert equal_accuracy.plain_jpeg_bpp(0.5) is not None
    assert equal_accuracy.plain_jpeg_bpp(1.0) is None  # better than the best


def test_noise_in_the_points_never_makes_more_bits_worth_less(use):
    use([(0.2, 0.4), (0.4, 0.6), (0.6, 0.59), (0.8, 0.7)], [(0.2, 0.3), (0.3, 0.5), (0.5, 0.48), (0.6, 0.62), (2, 0.8)])
    found = [equal_accuracy.plain_jpeg_bpp(float(bpp)) for bpp in np.linspace(0.2, 0.8, 40)]
    assert None not in found
    assert all(following >= value for value, following in itertools.pairwise(found))


def test_the_committed_points_say_what_they_are_and_where_they_end():
    points = equal_accuracy.about()
    assert points["command"].startswith("python -m evaluate ")
    assert "/" not in points["command"]  # of no machine's folders
    assert points["pictures"] >= 300
    low, high = points["region_jpeg"][0]["bpp"], points["region_jpeg"][-1]["bpp"]
    assert equal_accuracy.plain_jpeg_bpp(0.99 * low) is None
    assert equal_accuracy.plain_jpeg_bpp(1.01 * high) is None
    # the rates of docs/results.md
    for bpp in (0.25, 0.38, 0.49):
        assert bpp * 0.8 < equal_accuracy.plain_jpeg_bpp(bpp) < bpp * 2
    said = equal_accuracy.source()
    for told in (str(points["pictures"]), points["data"], "224x224", points["classifier"], points["date"]):
        assert told in said


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"region_jpeg": []}', '{"region_jpeg": [{"bpp": "x"}]}'])
def test_a_file_without_points_is_an_error_that_names_it(tmp_path, content):
    path = tmp_path / "points.json"
    path.write_text(content)
    with pytest.raises(StorageError, match=r"points\.json has no points of region_jpeg, .*evaluate\.bandwidth"):
        equal_accuracy.read_points(path)
    with pytest.raises(StorageError, match=r"can't read .*nowhere\.json"):
        equal_accuracy.read_points(tmp_path / "nowhere.json")


def test_a_file_that_was_made_is_read(tmp_path):
    path = tmp_path / "points.json"
    path.write_text(json.dumps(measured([(0.5, 0.6), (0.25, 0.5)], [(0.3, 0.4), (0.9, 0.7)])))
    assert [point["bpp"] for point in equal_accuracy.read_points(path)["region_jpeg"]] == [0.25, 0.5]
