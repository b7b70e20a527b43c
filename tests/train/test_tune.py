"""Settings are compared on scenes of held-back photos, at equal bytes."""

import json

import cv2
import numpy as np
import pytest

import rjpeg
from train import settings, tune, tune_frames
from train.detectors import Answer
from train.known_tables import ANNEX_K_CHROMA, ANNEX_K_LUMA
from train.photos import center_crop, list_photos, read_photo


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(2)
    for number in range(14):
        small = rng.integers(0, 256, (7, 9, 3)).astype(np.uint8)
        cv2.imwrite(str(folder / f"{number}.png"), cv2.resize(small, (260, 230), interpolation=cv2.INTER_CUBIC))
    return folder


def test_a_mosaic_has_six_photos_which_are_its_tiles(photos):
    names = list_photos(photos)
    scenes = tune.scenes_of("mosaic", photos, names)
    assert [scene.shape for scene in scenes] == [(448, 672, 3)] * 2  # two photos are left over
    for number, tile in enumerate(tune.tiles(scenes[1], (224, 224))):
        np.testing.assert_array_equal(tile, center_crop(read_photo(photos / names[6 + number]), 224))


def test_an_enlarged_photo_keeps_its_proportions(photos):
    (scene,) = tune.scenes_of("enlarged", photos, list_photos(photos)[:1])
    assert scene.shape == (448, 672, 3)
    whole = cv2.resize(read_photo(photos / list_photos(photos)[0]), (672, 594), interpolation=cv2.INTER_CUBIC)
    np.testing.assert_array_equal(scene, whole[73 : 73 + 448])


def test_a_sharp_scene_has_more_of_the_highest_frequencies(photos):
    names = list_photos(photos)
    energy = {
        kind: np.mean(
            [np.square(np.diff(scene.astype(float), 2, axis=1)).mean() for scene in tune.scenes_of(kind, photos, names)]
        )
        for kind in ("single", "sharp")
    }
    assert energy["sharp"] > 1.5 * energy["single"]


def test_changes_are_those_of_the_model_and_of_nothing_else():
    model = rjpeg.load_model()
    setting = settings.changed(model, "window=9,gain=0,size=0.5,restore=1,refine=0")
    assert setting.model.map_quantizer == model.map_quantizer._replace(window=9, gain=0.0)
    assert (setting.size, setting.restore, setting.refine) == (0.5, True, False)
    with pytest.raises(rjpeg.InputError, match="no setting has the name 'colour'"):
        settings.changed(model, "colour=1")
    with pytest.raises(rjpeg.InputError, match="edges is 'far', expected a number"):
        settings.changed(model, "restore=1,edges=far")
    with pytest.raises(rjpeg.InputError, match="--try restore=1 edges=0: restore is '1 edges=0', expected 0 or 1"):
        settings.changed(model, "restore=1 edges=0")


def test_a_window_of_0_is_none():
    assert settings.changed(rjpeg.load_model(), "window=0").model.map_quantizer.window is None


def test_tables_are_blended_with_those_of_annex_k_component_by_component():
    model = rjpeg.load_model()
    luma, chroma = settings.changed(model, "table=blend:0.5").model.base_tables
    np.testing.assert_allclose(luma, np.sqrt(model.base_tables[0] * ANNEX_K_LUMA))
    np.testing.assert_allclose(chroma, np.sqrt(model.base_tables[1] * ANNEX_K_CHROMA))
    luma, chroma = settings.changed(model, "chroma_table=annex_k_chroma").model.base_tables
    np.testing.assert_array_equal(luma, model.base_tables[0])
    np.testing.assert_array_equal(chroma, ANNEX_K_CHROMA)


@pytest.mark.slow
@pytest.mark.parametrize(("scenes", "count"), [("single", 14), ("sharp", 14), ("mosaic", 2), ("enlarged", 14)])
def test_every_setting_is_held_against_the_first_at_equal_bytes(
    photos, teacher_file, tmp_path, capsys, monkeypatch, scenes, count
):
    monkeypatch.setattr("train.photos.is_held_back", lambda name, fraction: True)
    arguments = ["--data", str(photos), "--teachers", str(teacher_file), "--bpp", "0.1", "--scenes", scenes, "--json"]
    assert tune.main([*arguments, "--try", "gain=0", "window=1"]) == 0
    as_it_is, flat, alone = map(json.loads, capsys.readouterr().out.splitlines())
    assert as_it_is["scenes"] == flat["scenes"] == count
    assert as_it_is["gain"] == as_it_is["standard_error"] == 0
    # with a window of one region everything is average
    assert {**flat, "setting": ""} == {**alone, "setting": ""}
    assert flat["kl"] != as_it_is["kl"]
    assert 0.09 < flat["mean_bpp"] <= 0.1


def test_too_few_photos_for_a_mosaic_are_an_error(photos, capsys, monkeypatch):
    monkeypatch.setattr("train.photos.is_held_back", lambda name, fraction: name == "0.png")
    assert tune.main(["--data", str(photos), "--scenes", "mosaic"]) == 1
    assert "too few for a mosaic" in capsys.readouterr().err


class Brightness:
    """A detector of bright things: a cell of 16x16 pixels has a score of its brightness, and a box of four cells.

    Boxes are held against each other, so that smaller cells would take minutes.
    """

    def __init__(self, path):
        self.name = path.stem

    def ask(self, frame):
        rows, cols = (side // 16 for side in frame.shape[:2])
        bright = frame[: rows * 16, : cols * 16].reshape(rows, 16, cols, 16, 3).mean((1, 3, 4)).reshape(-1, 1) / 255
        y, x = np.divmod(np.arange(rows * cols), cols)
        return Answer(bright.astype(np.float32), 16 * np.stack([x - 0.5, y - 0.5, x + 1.5, y + 1.5], 1))


@pytest.mark.slow
def test_whole_frames_are_compared_at_the_rates_that_were_asked_for(photos, capsys, monkeypatch):
    monkeypatch.setattr(tune_frames, "Detector", Brightness)
    monkeypatch.setattr(tune, "load_config", lambda path: type("Config", (), {"held_back": 1.0}))
    arguments = ["--data", str(photos), "--detectors", "bright.onnx", "--rates", "0.2", "0.3", "0.5", "--json"]
    assert tune.main([*arguments, "--try", "dc=4", "gain=0"]) == 0
    as_it_is, coarse, flat = map(json.loads, capsys.readouterr().out.splitlines())
    assert as_it_is["frames"] == 14
    assert as_it_is["f1"] == as_it_is["kl"] == pytest.approx(1)
    assert [point["bpp"] for point in as_it_is["points"]] == pytest.approx([0.2, 0.3, 0.5], rel=0.2)
    # Brightness is what DC terms tell.
    assert coarse["kl"] > flat["kl"]
    assert all(0 < point["f1"][0] <= 1 for point in flat["points"])
