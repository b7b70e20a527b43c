import numpy as np
import pytest

from evaluate.streams.clips import find_videos, read_clip, size_of
from rjpeg.errors import InputError

HALVES = ("whole", "first", "second")


@pytest.mark.parametrize(
    ("size", "reduced"),
    [((720, 1280), (360, 640)), ((576, 768), (460, 614)), ((480, 854), (360, 640)), ((352, 640), (282, 512))],
)
def test_frames_are_reduced_by_a_quarter_at_least_and_to_even_sides(size, reduced):
    assert size_of(*size) == reduced


def test_a_clip_has_the_frames_that_were_asked_for_at_their_spacing(film):
    clip = read_clip(film, noise=0, fps=2, frames=5)
    assert (clip.name, len(clip.frames), clip.spacing) == ("yard", 5, pytest.approx(0.5))
    assert clip.frames[0].shape == (52, 64, 3)
    assert clip.pixels == 5 * 52 * 64
    assert np.array_equal(clip.frames, clip.clean)


def test_a_short_video_is_taken_at_the_lowest_rate_that_gives_the_frames(film):
    assert [len(read_clip(film, noise=0, fps=1, frames=count).frames) for count in (3, 6, 12)] == [3, 6, 12]
    assert read_clip(film, noise=0, fps=1, frames=6).spacing == pytest.approx(0.5)


def test_below_a_frame_a_second_a_short_video_gives_fewer_frames(film):
    clip = read_clip(film, noise=0, fps=0.5, frames=6)
    assert (len(clip.frames), clip.spacing) == (2, pytest.approx(2))


def test_noise_has_its_strength_and_is_the_same_every_time(film):
    clip, again = (read_clip(film, noise=3, fps=4, frames=4) for _ in range(2))
    assert np.array_equal(clip.frames, again.frames)
    difference = np.asarray(clip.frames, float) - np.asarray(clip.clean, float)
    assert difference[np.asarray(clip.clean) > 20].std() == pytest.approx(3, rel=0.05)
    assert not np.array_equal(difference[0], difference[1])
    assert clip.identity != read_clip(film, noise=2, fps=4, frames=4).identity


def test_videos_are_found_by_name_with_and_without_suffix(film):
    assert find_videos(film.parent) == find_videos(film.parent, ["yard"]) == find_videos(film.parent, ["yard.avi"])
    with pytest.raises(InputError, match=r"'gate', expected some of yard"):
        find_videos(film.parent, ["gate"])


def test_what_is_no_video_is_named(tmp_path):
    with pytest.raises(InputError, match="is no folder"):
        find_videos(tmp_path / "none")
    with pytest.raises(InputError, match="has no video"):
        find_videos(tmp_path)
    (tmp_path / "a.avi").write_bytes(b"no video")
    with pytest.raises(InputError, match=r"a\.avi is not a video"):
        read_clip(tmp_path / "a.avi", noise=0, fps=1, frames=4)


def test_halves_are_those_of_the_videos_time(film):
    whole, first, second = (read_clip(film, noise=0, fps=4, frames=12, half=half) for half in HALVES)
    assert np.array_equal(first.clean, whole.clean[:6])
    assert np.array_equal(second.clean, whole.clean[6:])
    assert len({whole.identity, first.identity, second.identity}) == 3
