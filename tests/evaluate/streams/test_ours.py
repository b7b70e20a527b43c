import numpy as np
import pytest

import rjpeg
from evaluate.streams.clips import read_clip
from evaluate.streams.ours import STREAMS, Options, StreamJpeg
from rjpeg._policy import Policy
from rjpeg.errors import StorageError


@pytest.fixture(scope="module")
def clip(film):
    return read_clip(film, noise=1, fps=4, frames=6)


def test_a_stream_is_decoded_from_its_files_alone(clip):
    codec = StreamJpeg(STREAMS["stream"])
    coded, decoder = codec.files(clip, 50), rjpeg.StreamDecoder()
    for one, frame in coded:
        assert np.array_equal(decoder.decode(one.jpeg), frame)
    seen = codec.run(clip, 50)
    assert [one.size for one in seen] == [len(one.jpeg) for one, _ in coded]
    assert seen[0].kind == "key"
    assert {one.frame.shape for one in seen} == {clip.frames[0].shape}


def test_better_settings_cost_more_bytes(clip):
    codec = StreamJpeg(STREAMS["stream"])
    sizes = [sum(one.size for one in codec.run(clip, setting)) for setting in (codec.settings[0], 30, 92)]
    assert sizes == sorted(sizes)


def test_the_coding_size_may_be_set(clip):
    codec = StreamJpeg(STREAMS["stream"], fraction=0.5)
    assert codec.name == "stream@0.5"
    assert [one.frame.shape for one in codec.run(clip, 60)] == [frame.shape for frame in clip.frames]
    assert rjpeg.inspect(codec.files(clip, 60)[0][0].jpeg)["coding_size"] == [26, 32]


def test_a_clip_gets_the_map_that_has_its_name(clip, tmp_path, monkeypatch):
    octaves = np.array([[-2.0, 0.0, 1.0]], np.float32)
    (tmp_path / "yard.importance").write_bytes(rjpeg.pack_importance(octaves, 1))
    (tmp_path / "gate.importance").write_bytes(rjpeg.pack_importance(-octaves, 1))
    given = []

    class Encoder(rjpeg.StreamEncoder):
        def __init__(self, *arguments, importance, **options):
            given.append(importance)
            super().__init__(*arguments, importance=importance, **options)

    monkeypatch.setattr(rjpeg, "StreamEncoder", Encoder)
    for options, path in (
        (STREAMS["stream"], tmp_path),
        (STREAMS["stream"], tmp_path / "yard.importance"),
        (STREAMS["stream-no-importance"], tmp_path),
        (STREAMS["stream"], None),
    ):
        StreamJpeg(options, importance=path).run(clip, 20)
    assert [None if one is None else one.tolist() for one in given] == [[[-2, 0, 1]]] * 2 + [None, None]


def test_results_depend_on_options_and_maps(tmp_path):
    (tmp_path / "yard.importance").write_bytes(rjpeg.pack_importance(np.zeros((1, 1), np.float32), 1))
    made = [
        StreamJpeg(Options("a")),
        StreamJpeg(Options("b")),
        StreamJpeg(Options("a", stream={"policy": Policy(lagrange=0.2)})),
        StreamJpeg(Options("a"), importance=tmp_path),
    ]
    assert len({codec.version for codec in made}) == len(made)
    with pytest.raises(StorageError, match="none"):
        StreamJpeg(Options("a"), importance=tmp_path / "none")


def test_a_deflated_bitmap_changes_followers_alone(clip):
    coded, deflated = (StreamJpeg(STREAMS[name]).run(clip, 50) for name in ("stream", "stream-deflated"))
    larger = [b.size - a.size for a, b in zip(coded, deflated, strict=True)]
    assert larger[0] == 0
    assert all(1 <= more <= 40 for more in larger[1:])
