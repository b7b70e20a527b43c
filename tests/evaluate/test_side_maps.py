import dataclasses
import json
import shutil

import cv2
import numpy as np
import pytest

import rjpeg
from evaluate import side_maps
from evaluate.codecs import CodecMissingError, make_codec
from evaluate.variants import VARIANTS


@pytest.fixture
def side_model():
    model = rjpeg.load_model()
    return model, side_maps.attach("generator", model)


def test_the_map_on_the_side_is_the_generators_and_costs_nothing(side_model, photographs):
    model, side_map = side_model
    encoder, decoder = rjpeg.Encoder(model, refine=False), rjpeg.Decoder(model)
    for frame in photographs:
        for quality in (10, 40, 80):
            side_map.frame = frame
            encoded = encoder.encode_with_details(frame, quality=quality)
            asked = rjpeg.Encoder().encode_with_details(frame, quality=quality)
            np.testing.assert_array_equal(encoded.quality_map, asked.generator_map)
            assert encoded.refinement_bytes == 0
            decoded = decoder.decode_with_details(encoded.jpeg)
            np.testing.assert_array_equal(decoded.quality_map, encoded.quality_map)


def test_files_within_a_budget_are_coded_with_the_map_on_the_side_too(photographs):
    codec = make_codec("region-jpeg-generator")
    coded = codec.encode_within(photographs[0], 2000, {})
    assert coded.fits
    assert 0.9 * 2000 < len(coded.data) <= 2000
    assert codec.decode(coded.data).shape == photographs[0].shape


def test_a_stand_in_forgets_the_frame_before(side_model, photographs):
    _, side_map = side_model
    features = np.zeros((1, 14, 14, 7), np.int8)
    answers = []
    for frame in (photographs[0], photographs[0][::-1].copy()):
        side_map.frame = frame
        answers.append(side_map.run(features))
    assert not np.array_equal(answers[0], answers[1])


def test_every_variant_differs_from_the_full_system_in_its_version_and_from_every_other():
    settings = [variant.settings() for variant in VARIANTS.values()]
    assert settings[0] == ""
    assert len(set(settings)) == len(settings)
    assert len({make_codec(name).version for name in VARIANTS}) == len(VARIANTS)


def test_a_variant_changes_what_it_names_and_nothing_else():
    model = rjpeg.load_model()
    changed = VARIANTS["region-jpeg-annex-k"].changed(model)
    assert changed.base_tables[0][:3].tolist() == [16, 11, 10]
    assert changed.base_tables[1].reshape(8, 8)[:4, :4].tolist() == [
        [17, 18, 24, 47],
        [18, 21, 26, 66],
        [24, 26, 56, 99],
        [47, 66, 99, 99],
    ]
    assert [table.shape for table in changed.base_tables] == [(64,), (64,)]
    same = [f.name for f in dataclasses.fields(model) if f.name not in ("base_tables", "map_quantizer")]
    assert all(getattr(changed, name) == getattr(model, name) for name in same)
    assert VARIANTS["region-jpeg-flat"].changed(model).map_quantizer.gain == 0


def test_at_full_size_no_frame_is_reduced(photographs):
    codec = make_codec("region-jpeg-full-size")
    coded = codec.encode_within(photographs[0], 1500, {})
    height, width = cv2.imdecode(np.frombuffer(coded.data, np.uint8), cv2.IMREAD_COLOR).shape[:2]
    assert (height, width) == (224, 224)


def test_a_model_without_a_restorer_is_told(tmp_path):
    folder = shutil.copytree(rjpeg.load_model().folder, tmp_path / "model")
    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest["restorer"]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(CodecMissingError, match="no restorer"):
        make_codec("region-jpeg-restored", str(folder))


def test_a_variant_that_lacks_a_package_names_it(monkeypatch):
    monkeypatch.setattr(side_maps, "TEACHERS", ("levitating-net",))
    with pytest.raises(CodecMissingError, match="levitating_net_pytorch_model"):
        make_codec("region-jpeg-oracle")


@pytest.fixture
def oracle(monkeypatch, tmp_path):
    """An oracle whose one teacher looks at the top left quarter of a picture and nowhere else."""
    keras = pytest.importorskip("keras")
    from train.importance import teacher_gradient
    from train.teachers import Teacher

    size = side_maps.TEACHER_SIZE
    image = keras.Input((size, size, 3))
    x = keras.layers.Cropping2D(((0, size // 2), (0, size // 2)))(image)
    x = keras.layers.Rescaling(1 / 64, -2)(x)
    keras.utils.set_random_seed(3)
    x = keras.layers.Conv2D(8, 5, 2, activation="relu")(x)
    scores = keras.layers.Dense(5)(keras.layers.GlobalAveragePooling2D()(x))
    teacher = Teacher(image, scores, ("classes",), "corner")
    made = side_maps._Oracle()
    made.__dict__["_teachers"] = [(teacher, teacher_gradient(teacher, size))]
    return made


@pytest.mark.slow
@pytest.mark.parametrize("size", [(224, 224), (144, 144), (97, 131)])
def test_the_oracle_is_finer_where_its_teacher_looks(oracle, photographs, size):
    frame = photographs[0]
    reduced = cv2.resize(frame, size[::-1], interpolation=cv2.INTER_AREA)
    octaves = oracle.octaves(reduced, frame)
    rows, cols = (-(-side // 16) for side in size)
    assert octaves.shape == (rows, cols, 2)
    assert octaves.dtype == np.int8
    looked_at = octaves[: rows // 2 - 1, : cols // 2 - 1]
    assert looked_at.mean() < octaves[rows // 2 + 1 :].mean() - 20
    assert abs(octaves.astype(float).mean(axis=(0, 1))).max() < 0.5
