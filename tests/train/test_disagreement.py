"""Disagreement: zero for equal answers, positive else, and blind to what it says it is blind to."""

import keras
import numpy as np
import pytest
from keras import ops

from rjpeg.errors import ModelError
from train.disagreement import divergence, kind_of, parameters, standardize
from train.teachers import load_teacher

RNG = np.random.default_rng(0)
ANSWERS = {
    "classes": RNG.normal(0, 2, (3, 6)),
    "scores": RNG.uniform(0, 1, (3, 6)),
    "values": RNG.normal(0, 2, (3, 6)),
}


def nats(kind: str, clean: np.ndarray, coded: np.ndarray) -> np.ndarray:
    p, q = (parameters([kind], answer.astype(np.float32)) for answer in (clean, coded))
    return ops.convert_to_numpy(divergence([kind], p, q))


@pytest.mark.parametrize("kind", ANSWERS)
def test_it_is_zero_for_equal_answers_and_positive_for_others(kind):
    clean = ANSWERS[kind]
    other = np.roll(clean, 1, axis=1)
    np.testing.assert_allclose(nats(kind, clean, clean), 0, atol=1e-6)
    assert nats(kind, clean, other).shape == (3,)
    assert (nats(kind, clean, other) > 0.01).all()


@pytest.mark.parametrize("kind", ANSWERS)
def test_it_grows_with_the_difference(kind):
    clean, other = ANSWERS[kind], np.roll(ANSWERS[kind], 1, axis=1)
    assert (nats(kind, clean, 0.5 * clean + 0.5 * other) < nats(kind, clean, other)).all()


@pytest.mark.parametrize("kind", ANSWERS)
def test_the_number_of_positions_does_not_matter(kind):
    clean, other = ANSWERS[kind], np.roll(ANSWERS[kind], 1, axis=1)
    many, others = (np.repeat(answer[:, None], 5, axis=1) for answer in (clean, other))
    np.testing.assert_allclose(nats(kind, many, others), nats(kind, clean, other), rtol=1e-5)


def test_for_a_classifier_it_is_kl_between_softmaxes():
    clean, other = ANSWERS["classes"], np.roll(ANSWERS["classes"], 1, axis=1)
    p, q = (np.exp(logits) / np.exp(logits).sum(1, keepdims=True) for logits in (clean, other))
    np.testing.assert_allclose(nats("classes", clean, other), (p * np.log(p / q)).sum(1), rtol=1e-4)
    np.testing.assert_allclose(nats("classes", clean + 7, other - 3), nats("classes", clean, other), rtol=1e-4)


@pytest.mark.slow
def test_scores_that_are_certain_and_wrong_cost_much_but_not_without_end():
    cost = nats("scores", np.array([[1.0]]), np.array([[0.0]]))
    assert 10 < cost[0] < 20


def test_the_unit_of_values_does_not_matter():
    photos = RNG.normal(0, 1, (40, 4)) * (1, 10, 100, 1e-3) + 5
    coded = photos + RNG.normal(0, 0.1, photos.shape) * (1, 10, 100, 1e-3)

    def disagreement(unit):
        sides = (standardize("values", answer * unit, photos * unit, "boxes") for answer in (photos, coded))
        return nats("values", *sides)

    np.testing.assert_allclose(disagreement(1.0), disagreement(640.0), rtol=1e-2)
    assert disagreement(1.0).mean() == pytest.approx(0.5 * 0.1**2, rel=0.2)


def test_outputs_add_up_and_ignored_ones_are_left_out():
    kinds = ["classes", "ignore", "values"]
    clean = [ANSWERS["classes"].astype(np.float32), np.zeros((3, 1)), ANSWERS["values"].astype(np.float32)]
    coded = [np.roll(answer, 1, axis=1) for answer in clean[:1]] + [np.ones((3, 1))] + [clean[2] + 1]
    total = divergence(kinds, parameters(kinds, clean), parameters(kinds, coded))
    expected = nats("classes", clean[0], coded[0]) + 0.5
    np.testing.assert_allclose(ops.convert_to_numpy(total), expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("activation", "values", "alone", "kind"),
    [
        ("softmax", np.full((2, 8, 8, 4), 0.25), False, "classes"),
        ("sigmoid", np.full((2, 4), 0.25), True, "scores"),
        ("linear", np.full((2, 4), 0.25), True, "classes"),
        ("linear", np.full((2, 4), 0.2), True, "scores"),
        ("linear", np.array([[-3.0, 2.0]]), True, "classes"),
        ("linear", np.array([[-3.0, 2.0]]), False, "values"),
        ("linear", np.array([[[-3.0, 2.0]]]), True, "values"),
        (None, np.array([0.5, 3.0]), True, "values"),
        ("relu", np.array([[0.0, 1.0, 0.5]]), False, "values"),
    ],
)
def test_the_kind_follows_the_activation_then_the_range(activation, values, alone, kind):
    assert kind_of(activation, values, alone) == kind


@pytest.fixture
def detector(tmp_path):
    """Boxes, scores and a mask, in a dictionary; 40x56 pictures."""
    keras.utils.set_random_seed(3)
    image = keras.Input((40, 56, 3))
    x = keras.layers.Conv2D(6, 5, 4, activation="relu", padding="same")(keras.layers.Rescaling(1 / 64, -2)(image))
    mask = keras.layers.Conv2D(3, 1, activation="softmax")(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    boxes = keras.layers.Dense(4)(x)
    scores = keras.layers.Activation("sigmoid")(keras.layers.Dense(5)(x))
    path = tmp_path / "detector.keras"
    keras.Model(image, {"boxes": boxes, "mask": mask, "scores": scores}).save(path)
    return str(path)


@pytest.mark.slow
def test_a_teacher_with_several_outputs_is_read_whatever_its_size(detector):
    teacher = load_teacher(detector, 48)
    assert teacher.kinds == ("values", "classes", "scores")
    shapes = [tuple(answer.shape) for answer in teacher(np.zeros((2, 48, 48, 3), np.float32))]
    assert shapes == [(2, 4), (2, 10, 14, 3), (2, 5)]


@pytest.mark.slow
def test_the_kinds_can_be_told(detector):
    assert load_teacher(detector, 48, ["ignore", "ignore", "values"]).kinds == ("ignore", "ignore", "values")
    for outputs in (["values"], ["values", "classes", "nonsense"], ["ignore"] * 3, ["scores", "classes", "scores"]):
        with pytest.raises(ModelError, match=r"detector\.keras"):
            load_teacher(detector, 48, outputs)


def _wrong_channels():
    image = keras.Input((32, 32, 1))
    return keras.Model(image, keras.layers.Flatten()(image))


def _wrong_rank():
    image = keras.Input((32, 3))
    return keras.Model(image, image * 2)


def _two_inputs():
    images = [keras.Input((32, 32, 3)), keras.Input((32, 32, 3))]
    return keras.Model(images, images[0] + images[1])


def _whole_numbers():
    image = keras.Input((32, 32, 3))
    return keras.Model(image, ops.argmax(keras.layers.GlobalAveragePooling2D()(image), axis=-1))


def _steps():
    image = keras.Input((32, 32, 3))
    return keras.Model(image, ops.floor(keras.layers.GlobalAveragePooling2D()(image)))


def _constant():
    image = keras.Input((32, 32, 3))
    return keras.Model(image, keras.layers.GlobalAveragePooling2D()(image * 0) + 3)


def _not_a_number():
    image = keras.Input((32, 32, 3))
    return keras.Model(image, ops.log(keras.layers.GlobalAveragePooling2D()(image) - 300))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (_wrong_channels, "input shape"),
        (_wrong_rank, "input shape"),
        (_two_inputs, "input shape"),
        (_whole_numbers, "no gradient"),
        (_steps, "no gradient"),
        (_constant, "the same on all"),
        (_not_a_number, "not finite"),
    ],
)
def test_a_teacher_that_nothing_can_be_learned_from_is_refused(build, message, tmp_path):
    build().save(tmp_path / "own.keras")
    with pytest.raises(ModelError, match=rf"own\.keras.*{message}"):
        load_teacher(str(tmp_path / "own.keras"), 32, "auto" if build is not _constant else ["values"])
