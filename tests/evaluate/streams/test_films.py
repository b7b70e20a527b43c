import pytest

from evaluate.codecs import CodecMissingError, LibjpegTurbo, family
from evaluate.streams import films
from evaluate.streams.clips import read_clip
from evaluate.streams.codecs import Pictures

av = pytest.importorskip("av")


@pytest.mark.parametrize("name", films.FILMS)
def test_a_film_has_every_frame_and_one_key_at_its_start(name, film):
    clip = read_clip(film, noise=2, fps=4, frames=6)
    codec = films.Film(name)
    good, bad = (codec.run(clip, setting) for setting in (codec.settings[-1], codec.settings[0]))
    assert [one.kind for one in good] == ["key"] + 5 * ["follower"]
    assert good[0].size > 2 * good[1].size
    assert sum(one.size for one in good) > sum(one.size for one in bad)
    for one, frame in zip(good, clip.frames, strict=True):
        assert one.frame.shape == frame.shape
        assert abs(one.frame.astype(int) - frame).mean() < 12


def test_an_encoder_that_is_missing_is_named(monkeypatch):
    monkeypatch.setitem(films.FILMS, "none", films.Kind("libnone"))
    with pytest.raises(CodecMissingError, match="libnone"):
        films.Film("none")


def test_pictures_are_coded_one_by_one_and_seen_at_the_clip_s_size(film):
    clip = read_clip(film, noise=2, fps=4, frames=3)
    full, reduced = (Pictures(name).run(clip, 40) for name in ("libjpeg-turbo", "libjpeg-turbo@0.5"))
    assert [one.size for one in full] == [len(LibjpegTurbo().encode(frame, 40)) for frame in clip.frames]
    assert {one.frame.shape for one in (*full, *reduced)} == {clip.frames[0].shape}
    assert {one.kind for one in full} == {"picture"}
    assert family(Pictures("libjpeg-turbo@0.5").name) == "libjpeg-turbo"
