import pytest

from evaluate.curves import rising
from evaluate.streams.agreement import BoxAgreement
from evaluate.streams.clips import read_clip
from evaluate.streams.codecs import Coded, Pictures, StreamCodec
from evaluate.streams.measure import Bench, Point, bracketing, f1_of

from .conftest import RedJudge


class Counted(StreamCodec):
    """Sends frames as they are, and counts how often."""

    name, version, settings = "counted", "1", (1, 2, 3, 4, 5)

    def __init__(self):
        self.runs = 0

    def run(self, clip, setting):
        self.runs += 1
        kinds = ["key", *["follower"] * (len(clip.frames) - 1)]
        return [Coded(100 * int(setting), f, kind) for f, kind in zip(clip.frames, kinds, strict=True)]


@pytest.fixture(scope="module")
def clip(film):
    return read_clip(film, noise=2, fps=4, frames=5)


def test_a_point_has_the_bytes_of_all_frames_and_what_the_judge_sees(clip):
    point = Bench(clip, BoxAgreement(RedJudge())).point(Counted(), 3)
    assert point.sizes == [300] * 5
    assert (point.boxes, point.shared) == ([2] * 5, [2] * 5)
    assert (point.f1, point.key_share) == (1.0, 0.2)
    assert point.bpp(clip.pixels) == pytest.approx(8 * 1500 / clip.pixels)


def test_f1_is_that_of_all_boxes_together():
    assert f1_of([2, 0, 1], [2, 4, 3]) == pytest.approx(3 / 9)
    assert f1_of([0], [0]) == 1.0


def test_a_point_that_is_kept_is_not_measured_again(clip, tmp_path):
    codec = Counted()
    first = Bench(clip, BoxAgreement(RedJudge()), tmp_path).point(codec, 2)
    assert Bench(clip, BoxAgreement(RedJudge()), tmp_path).point(codec, 2) == first
    assert codec.runs == 1
    codec.version = "2"
    Bench(clip, BoxAgreement(RedJudge()), tmp_path).point(codec, 2)
    assert codec.runs == 2


def test_a_line_that_a_killed_run_left_unfinished_is_measured_again(clip, tmp_path):
    codec = Counted()
    Bench(clip, BoxAgreement(RedJudge()), tmp_path).curve(codec, (1, 2))
    (path,) = tmp_path.iterdir()
    path.write_text(path.read_text("utf-8")[:-20], "utf-8")
    assert [point.setting for point in Bench(clip, BoxAgreement(RedJudge()), tmp_path).curve(codec, (1, 2))] == [1, 2]
    assert codec.runs == 3
    assert [point.setting for point in Bench(clip, BoxAgreement(RedJudge()), tmp_path).curve(codec, (1, 2))] == [1, 2]
    assert codec.runs == 3


def test_another_noise_or_judge_has_points_of_its_own(film, clip, tmp_path):
    other = BoxAgreement(RedJudge())
    other.identity = "red 2"
    Bench(clip, BoxAgreement(RedJudge()), tmp_path).point(Counted(), 1)
    Bench(clip, other, tmp_path).point(Counted(), 1)
    Bench(read_clip(film, noise=3, fps=4, frames=5), BoxAgreement(RedJudge()), tmp_path).point(Counted(), 1)
    assert len(list(tmp_path.iterdir())) == 3


def tried(f1_by_setting, f1):
    found = {}
    while (setting := bracketing(list(f1_by_setting), found, f1)) is not None:
        found[setting] = f1_by_setting[setting]
    return sorted(found)


RISING = {10 * n: n / 10 for n in range(1, 10)}


@pytest.mark.parametrize(
    ("f1", "settings"),
    [(0.5, [40, 50, 60]), (0.85, [80, 90]), (0.12, [10, 20]), (0.99, [70, 80, 90]), (0.0, [10, 20, 30])],
)
def test_a_curve_encloses_the_f1_or_goes_to_the_end_of_its_settings(f1, settings):
    found = tried(RISING, f1)
    assert set(settings) <= set(found)
    assert len(found) >= 4


def test_a_curve_rises_where_neighbors_that_fall_are_their_mean():
    assert rising([(0, 0.5), (1, 0.75), (2, 0.25), (3, 1.0)]) == [(1, 0.5), (3, 1.0)]
    assert rising([(0, 3), (1, 2), (2, 1)]) == [(1, 2)]
    assert rising([(0, 1), (1, 2)]) == [(0, 1), (1, 2)]


def test_a_lucky_bad_setting_does_not_end_the_search():
    # 50 is better than 60 by chance: alone it would be a bound
    assert tried({30: 0.5, 40: 0.6, 50: 0.75, 60: 0.65, 70: 0.8, 80: 0.9}, 0.74)[0] < 50


def test_without_an_f1_four_settings_are_tried():
    assert tried(RISING, None) == [50, 60, 70, 80]


def test_a_codec_with_few_settings_gives_them_all():
    assert tried({1: 0.5, 2: 0.6}, 0.55) == [1, 2]


def test_a_curve_has_its_points_in_order(clip):
    points = Bench(clip, BoxAgreement(RedJudge())).curve(Pictures("libjpeg-turbo"), f1=0.9)
    assert [point.setting for point in points] == sorted(point.setting for point in points)
    assert all(isinstance(point, Point) for point in points)
