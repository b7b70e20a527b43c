import numpy as np
import pytest

import rjpeg
from evaluate.codecs import CodecMissingError
from evaluate.streams import oracle
from evaluate.streams.clips import read_clip
from evaluate.streams.ours import STREAMS, StreamJpeg


@pytest.fixture(scope="module")
def clip(film):
    return read_clip(film, noise=1, fps=4, frames=6)


@pytest.fixture
def asked(monkeypatch):
    """A teacher that finds the upper half of each change important; the pairs of pictures that it was asked about."""
    pairs = []

    def measure(frame, shown):
        pairs.append((frame, shown))
        found = np.zeros((4, 4, 2), np.float32)
        found[:2] = 40.0
        return found

    monkeypatch.setattr(oracle.Oracle, "_measure", lambda *_: measure)
    return pairs


def test_an_oracle_needs_a_teacher():
    with pytest.raises(CodecMissingError, match="--teacher names no network"):
        StreamJpeg(STREAMS["stream-oracle"])


def test_an_oracle_weighs_each_change_from_the_key(clip, asked, tmp_path, monkeypatch):
    given = []
    real = rjpeg.StreamEncoder.importance
    monkeypatch.setattr(
        rjpeg.StreamEncoder,
        "importance",
        property(real.fget, lambda stream, octaves: (given.append(octaves), real.fset(stream, octaves))[0]),
    )
    (tmp_path / "teacher.onnx").write_bytes(b"a network")
    codec = StreamJpeg(STREAMS["stream-oracle"], teacher=tmp_path / "teacher.onnx")
    kinds = [coded.kind for coded, _ in codec.files(clip, 50)]
    assert kinds == ["key", *kinds[1:]]
    assert kinds.count("key") == 1
    weights = [octaves for octaves in given if octaves is not None]
    assert len(weights) == 5
    assert all((octaves[:2] == oracle.CEILING).all() and (octaves[2:] == oracle.FLOOR).all() for octaves in weights)
    first = clip.frames[0][..., ::-1]
    assert all(np.array_equal(shown, first) for _, shown in asked)
    assert {frame.tobytes() for frame, _ in asked} == {frame[..., ::-1].tobytes() for frame in clip.frames[1:]}


def test_the_same_video_with_other_noise_is_asked_about_anew(film, asked, tmp_path):
    (tmp_path / "teacher.onnx").write_bytes(b"a network")
    seen = oracle.Oracle(tmp_path / "teacher.onnx")
    for noise in (0, 2):
        seen.octaves(read_clip(film, noise=noise, fps=4, frames=3), 1, 0)
    assert len(asked) == 4
