"""Importance: where it comes from, what is kept, and how it becomes features and targets."""

import re

import cv2
import msgspec
import numpy as np
import pytest

from rjpeg import _features as features
from rjpeg.errors import InputError
from train import dataset, importance
from train.importance import Photos, compute_importance, gradient_statistics
from train.photos import (
    center_crop,
    check_count,
    data_hash,
    gather,
    is_held_back,
    list_photos,
    random_crop,
    sharpened,
)
from train.teachers import load_teacher
from train.workers import WorkerError, Workers


def test_importance_is_high_where_the_gradient_is():
    gradient = np.full((1, 32, 48, 3), 1e-3, np.float32)
    gradient[0, 16:, 32:] = 1.0
    levels, spectrum = gradient_statistics(gradient)
    assert levels.shape == (1, 2, 3, 2)
    assert spectrum.shape == (1, 2, 64)
    assert np.unravel_index(levels[0, ..., 0].argmax(), (2, 3)) == (1, 2)
    # A gradient that is equal in R, G and B is one of luma: three times as large, and next to none in chroma's.
    assert levels[0, 1, 2, 0] == pytest.approx(np.log2(9), abs=1e-3)
    assert levels[0, 1, 2, 0] - levels[0, 0, 0, 0] == pytest.approx(2 * np.log2(1000), abs=1e-2)


def test_spectrum_keeps_the_gradients_energy():
    rng = np.random.default_rng(0)
    plane = rng.normal(size=(2, 16, 24)).astype(np.float32)
    energy = importance.block_energy(plane)
    np.testing.assert_allclose(energy.mean(axis=1), np.square(plane).mean(axis=(1, 2)), rtol=1e-5)
    # Frequencies are where OpenCV's transform has them.
    block = plane[:1, :8, :8]
    expected = np.square(cv2.dct(block[0])).ravel()
    np.testing.assert_allclose(importance.block_energy(block)[0], expected, rtol=1e-3, atol=1e-6)


@pytest.mark.slow
def test_shards_hold_every_photo_once_a_round_and_are_computed_once(photos, config, teacher_file, tmp_path):
    names = list_photos(photos)
    teacher = load_teacher(str(teacher_file), 48)
    paths = compute_importance(Photos(photos, names, 0.3), [teacher], config.importance, tmp_path, 5)
    assert len(paths) == 4
    counts, held_back = 0, 0
    for path in paths:
        with np.load(path) as shard:
            n, size = shard["pictures"].shape[:2]
            assert size in (32, 48)
            assert shard["importance"].shape == (n, 1, size // 16, size // 16, 2)
            assert np.isfinite(shard["importance"]).all()
            counts += n
            held_back += shard["held_back"].sum()
    assert counts == 24
    assert held_back == 2 * sum(is_held_back(name, 0.3) for name in names)
    before = paths[2].read_bytes()
    paths[2].unlink()
    times = [path.stat().st_mtime_ns for path in (paths[0], paths[1], paths[3])]
    compute_importance(Photos(photos, names, 0.3), [teacher], config.importance, tmp_path, 5)
    assert paths[2].read_bytes() == before
    assert [path.stat().st_mtime_ns for path in (paths[0], paths[1], paths[3])] == times


@pytest.mark.slow
def test_rounds_of_details_follow_the_others_and_see_small_parts_of_the_photos(photos, config, teacher_file, tmp_path):
    """An edge is less steep the smaller the part of the photo that is enlarged."""
    names, teacher = list_photos(photos), load_teacher(str(teacher_file), 48)
    few = msgspec.structs.replace(config.importance, coding_sizes=(48,))
    more = msgspec.structs.replace(few, detail_rounds=1, detail_area=(0.001, 0.002))
    plain = compute_importance(Photos(photos, names, 0.3), [teacher], few, tmp_path / "few", 5)
    paths = compute_importance(Photos(photos, names, 0.3), [teacher], more, tmp_path / "more", 5)
    assert [path.name for path in paths[: len(plain)]] == [path.name for path in plain]
    assert all((tmp_path / "few" / path.name).read_bytes() == path.read_bytes() for path in paths[: len(plain)])
    steepness = []
    for path in paths:
        with np.load(path) as shard:
            steepness.append(np.abs(np.diff(shard["pictures"].astype(int), axis=2)).mean())
    assert len(paths) == 6
    assert max(steepness[4:]) < 0.5 * min(steepness[:4])


def test_targets_are_centered_and_coarser_where_importance_is_low():
    values = np.random.default_rng(0).normal(0, 3, (4, 2, 5, 6, 2)).astype(np.float32)
    target = dataset.target_of(values)
    np.testing.assert_allclose(target.mean(axis=(-3, -2)), 0, atol=1e-6)
    assert np.corrcoef(values.ravel(), target.ravel())[0, 1] < -0.9


def test_absolute_targets_keep_what_a_whole_crop_is_worth():
    values = np.random.default_rng(0).normal(0, 3, (4, 2, 5, 6, 2)).astype(np.float32)
    values[0] += 6
    targets = dataset.Targets(means=np.array([[0.0, 1.0], [2.0, 3.0]], np.float32))
    found = targets(values)
    assert found[0].mean() == pytest.approx(found[1:].mean() - 3, abs=0.3)
    assert found[2, 1, 3, 4, 0] == pytest.approx(-(values[2, 1, 3, 4, 0] - 2) / 2)
    np.testing.assert_allclose(targets.mean(found), found.mean(1))


@pytest.mark.slow
def test_crops_of_whole_frames_serve_for_all_coding_sizes(photos, config, teacher_file, tmp_path):
    native = msgspec.structs.replace(config.importance, crop_sides=(48, 32), points=(0.25, 0.75), blur=1.0)
    names, teacher = list_photos(photos), load_teacher(str(teacher_file), 48)
    paths = compute_importance(Photos(photos, names, 0.3), [teacher], native, tmp_path, 5)
    for path in paths:
        with np.load(path) as shard:
            assert shard["pictures"].shape[1:] == (48, 48, 3)
            assert shard["importance"].shape[2:] == (3, 3, 2)
    small, large = dataset.load_crops(paths, False, dataset.Targets.of(paths, native, window=None))
    assert (small.target.shape[1:], large.target.shape[1:]) == ((2, 2, 2), (3, 3, 2))
    assert len(small.quality) == len(large.quality) == 2 * sum(not is_held_back(name, 0.3) for name in names)
    # The average crop is at the center, not every crop.
    assert large.target.mean(axis=(0, 1, 2)) == pytest.approx([0, 0], abs=0.1)
    assert np.abs(large.target.mean(axis=(1, 2))).max() > 0.2
    np.testing.assert_allclose(small.target.mean(axis=(1, 2)), large.target.mean(axis=(1, 2)), atol=0.3)


@pytest.mark.slow
def test_importance_at_several_points_is_their_mean(photos, config, teacher_file, tmp_path):
    names, teacher = list_photos(photos), load_teacher(str(teacher_file), 48)
    found = []
    for points in ((0.5,), (1.0,), (0.5, 1.0)):
        settings = msgspec.structs.replace(config.importance, points=points)
        paths = compute_importance(Photos(photos, names, 0.3), [teacher], settings, tmp_path / str(points), 5)
        with np.load(paths[0]) as shard:
            found.append(shard["importance"])
    np.testing.assert_allclose(2.0 ** found[2], (2.0 ** found[0] + 2.0 ** found[1]) / 2, rtol=1e-4)


@pytest.mark.slow
def test_batches_have_the_librarys_features(photos, config, teacher_file, tmp_path):
    names = list_photos(photos)
    teacher = load_teacher(str(teacher_file), 48)
    paths = compute_importance(Photos(photos, names, 0.3), [teacher], config.importance, tmp_path, 5)
    (group,) = dataset.load_crops(paths[:1], held_back=False)
    octaves = np.full(1, 4.2)
    with np.load(paths[0]) as shard:
        picture = shard["pictures"][np.flatnonzero(~shard["held_back"])[0]]
    expected = features.generator_features(*dataset.coefficients(picture), 67)
    np.testing.assert_allclose(dataset.generator_batch(group, np.zeros(1, int), octaves)[0], expected, atol=0.501)
    rng = np.random.default_rng(0)
    predicted = dataset.predictor_batch(group, np.zeros(1, int), octaves, dataset.Rates(4.0, (1.0, 0.5)), rng)
    assert predicted.shape == expected[None, ..., :7].shape
    np.testing.assert_array_equal(predicted[0, ..., -1], expected[..., -1])
    # DC terms of the picture, as coarse as the drawn steps.
    np.testing.assert_allclose(predicted[0, ..., 0], expected[..., 0], atol=2.0**4.9 / 16 + 0.1)


@pytest.mark.slow
def test_a_batch_depends_on_its_epoch_and_number_only_and_workers_share_it(photos, config, teacher_file, tmp_path):
    teacher = load_teacher(str(teacher_file), 48)
    paths = compute_importance(Photos(photos, list_photos(photos), 0.3), [teacher], config.importance, tmp_path, 5)
    crops = dataset.load_crops(paths, held_back=False)
    rates, targets = dataset.Rates(4.0, (1.0, 0.5)), [group.target for group in crops]
    one, other = (dataset.Batches(crops, targets, "predictor", rates, 4, 1) for _ in range(2))
    one.start_epoch(2)
    _ = other[0], other[1]
    other.start_epoch(2)
    for found, expected in zip(other[1], one[1], strict=True):
        np.testing.assert_array_equal(found, expected)
    one.start_epoch(3)
    assert any(
        one[number][0].shape != other[number][0].shape or (one[number][0] != other[number][0]).any()
        for number in range(len(one))
    )
    parts = [dataset.Batches(crops, targets, "predictor", rates, 4, 1, Workers(index, 2)) for index in (0, 1)]
    whole = dataset.Batches(crops, targets, "predictor", rates, 4, 1)
    for number in range(len(whole)):
        shares = [part[number][1] for part in parts]
        assert shares[0].shape == shares[1].shape
        joined = {target.tobytes() for target in np.concatenate(shares)}
        assert joined == {target.tobytes() for target in whole[number][1]}


@pytest.mark.slow
def test_several_workers_compute_each_shard_once(photos, config, teacher_file, tmp_path):
    names, teacher = list_photos(photos), load_teacher(str(teacher_file), 48)
    first, second = (Workers(index, 2, patience=0.2) for index in (0, 1))
    with pytest.raises(WorkerError):
        compute_importance(Photos(photos, names, 0.3), [teacher], config.importance, tmp_path, 5, first)
    assert len(list(tmp_path.iterdir())) == 2
    paths = compute_importance(Photos(photos, names, 0.3), [teacher], config.importance, tmp_path, 5, second)
    assert sorted(tmp_path.iterdir()) == sorted(paths)


def test_correlation_looks_at_differences_between_near_regions_only():
    rng = np.random.default_rng(0)
    truth = [rng.normal(size=(3, 4, 4, 2)), rng.normal(size=(2, 5, 5, 2))]
    shifted = [maps * 2 + rng.normal(size=(len(maps), 1, 1, 2)) * 10 for maps in truth]
    assert dataset.correlation(shifted, truth, window=3) == pytest.approx([1, 1])
    assert dataset.correlation([-maps for maps in truth], truth, window=3) == pytest.approx([-1, -1])


def test_held_back_photos_are_a_fixed_share():
    names = [f"folder/{number}.jpg" for number in range(2000)]
    held = [name for name in names if is_held_back(name, 0.1)]
    assert 150 < len(held) < 250
    assert held == [name for name in names if is_held_back(name, 0.1)]


@pytest.mark.parametrize(
    ("photos", "held", "fraction", "told"),
    [
        (20, 0, 0.1, "has 20 photos, of which none is held back to check the training on"),
        (20, 0, 0.1, "for 10% of them: 66 photos are enough to begin. The model that comes with rjpeg learned from"),
        (3, 3, 0.5, "all are held back, and none is left"),
        (5, 0, 0.001, "6905 photos are enough"),
    ],
)
def test_too_few_photos_are_told_with_how_many_are_enough(tmp_path, photos, held, fraction, told):
    with pytest.raises(InputError, match=re.escape(told)):
        check_count(tmp_path, photos, held, fraction)


def test_so_many_photos_as_are_called_enough_are_split(tmp_path):
    missed = sum(not any(is_held_back(f"{run}/{number}.jpg", 0.1) for number in range(66)) for run in range(300))
    assert missed <= 3, "one in a thousand"


def test_few_photos_are_told_and_many_are_not(tmp_path, caplog):
    check_count(tmp_path, 20, 2, 0.1)
    assert "20 photos are enough to try this out, and few to learn from" in caplog.text
    caplog.clear()
    check_count(tmp_path, 3000, 300, 0.1)
    assert caplog.text == ""


def test_photos_of_several_folders_are_named_by_the_folder_that_holds_them_all(photos):
    root, names = gather([photos / "part1", photos / "part0"])
    assert root == photos.resolve()
    assert names == list_photos(photos)
    assert gather([photos / "part1"]) == ((photos / "part1").resolve(), list_photos(photos / "part1"))


@pytest.mark.parametrize("folders", [("", "part1"), ("part0", "part0"), ("part1/../part0", "part0")])
def test_a_folder_that_is_there_twice_is_refused(photos, folders):
    with pytest.raises(InputError, match="is there twice"):
        gather([photos / folder for folder in folders])


def test_the_data_hash_changes_with_any_photo(photos):
    names = list_photos(photos)
    assert len(names) == 12
    assert data_hash(photos, names) == data_hash(photos, names)
    assert data_hash(photos, names) != data_hash(photos, names[1:])


@pytest.mark.parametrize("shape", [(1, 1), (3, 500), (97, 31)])
def test_crops_have_the_wanted_size_whatever_the_photo(shape):
    photo = np.random.default_rng(0).integers(0, 256, (*shape, 3)).astype(np.uint8)
    rng = np.random.default_rng(1)
    for _ in range(20):
        assert random_crop(photo, 32, (0.3, 1.0), rng).shape == (32, 32, 3)
    assert center_crop(photo, 32).shape == (32, 32, 3)


def test_sharpening_steepens_edges_and_leaves_surfaces_alone():
    picture = np.full((20, 30, 3), 60, np.uint8)
    picture[:, 15:] = 190
    sharp = sharpened(picture, 0.5)
    np.testing.assert_array_equal(sharp[:, [0, 8, 22, 29]], picture[:, [0, 8, 22, 29]])
    assert (sharp[:, 14] < 50).all()
    assert (sharp[:, 15] > 200).all()
    np.testing.assert_array_equal(sharpened(picture, 0), picture)
