import numpy as np
import pytest

from evaluate.classifiers import KerasClassifier, identity, log_probabilities, open_classifier
from rjpeg.errors import InputError, RjpegError

from .conftest import SIZE, color_model


@pytest.mark.parametrize("kind", ["keras", "float32", "uint8", "int8"])
@pytest.mark.parametrize("color", [0, 1, 2])
def test_every_kind_of_file_sees_the_leading_color(kind, color, classifiers, colored):
    classifier = open_classifier(str(classifiers[kind]))
    assert (classifier.size, classifier.classes) == ((SIZE, SIZE), 3)
    assert classifier.classify(colored(color)) == color


@pytest.mark.parametrize("kind", ["keras", "float32", "uint8", "int8"])
def test_the_scores_are_those_that_the_class_is_chosen_by(kind, classifiers, colored):
    classifier = open_classifier(str(classifiers[kind]))
    scores = classifier.scores(colored(1))
    assert (scores.shape, scores.dtype) == ((3,), np.float64)
    assert scores.argmax() == classifier.classify(colored(1)) == 1


def test_scores_are_real_values_of_any_output(classifiers, colored):
    real = open_classifier(str(classifiers["float32"])).scores(colored(1))
    means = colored(1)[..., ::-1].reshape(-1, 3).mean(axis=0)
    assert real == pytest.approx((means - 127.5) / 127.5, abs=1e-3)
    for kind in ("uint8", "int8"):
        # calibrated on noise, whose means hardly vary: what is larger is cut off
        integer = open_classifier(str(classifiers[kind])).scores(colored(1))
        assert np.abs(integer).max() < 1
        assert np.sign(integer).tolist() == np.sign(real).tolist()


def test_probabilities_are_read_from_probabilities_and_from_logits():
    probabilities = np.array([0.5, 0.25, 0.25])
    logits = np.log(probabilities) + 7
    for scores in (probabilities, logits, np.log(probabilities)):
        assert np.exp(log_probabilities(scores)) == pytest.approx(probabilities)


def test_what_8_bits_round_to_zero_shares_what_is_missing_to_1():
    found = np.exp(log_probabilities(np.array([0.5, 0.25, 0.0, 0.0])))
    assert found == pytest.approx([0.5, 0.25, 0.125, 0.125])
    certain = np.exp(log_probabilities(np.array([1.0, 0.0, 0.0])))
    assert certain[1:] == pytest.approx([0.005 / 1.01] * 2)


def test_floating_point_input_is_scaled_by_mean_and_std(classifiers, colored):
    frame = colored(2)
    assert open_classifier(str(classifiers["float32"]), 100.0, 50.0).classify(frame) == 2
    # a negative std turns the scores around: the least color wins
    assert open_classifier(str(classifiers["float32"]), 0.0, -1.0).classify(frame) != 2
    with pytest.raises(InputError, match="must not be 0"):
        open_classifier(str(classifiers["float32"]), 0.0, 0.0)


def test_a_background_class_is_left_out(colored):
    classifier = KerasClassifier("model", color_model(1001), 0.0, 1.0)
    assert classifier.classes == 1000
    assert [classifier.classify(colored(color)) for color in range(3)] == [0, 1, 2]


def test_a_missing_file_is_told(tmp_path):
    with pytest.raises(InputError, match="neither a file nor one of efficientnet-lite0"):
        open_classifier(str(tmp_path / "none.tflite"))


@pytest.mark.parametrize("name", ["broken.tflite", "broken.keras", "model.onnx"])
def test_a_file_that_is_no_classifier_is_told(tmp_path, name):
    (tmp_path / name).write_bytes(b"no network at all")
    with pytest.raises(RjpegError, match=name):
        open_classifier(str(tmp_path / name))


def test_a_network_that_does_not_take_pictures_is_told(tmp_path):
    keras = pytest.importorskip("keras")
    path = tmp_path / "dense.keras"
    keras.Sequential([keras.Input((7,)), keras.layers.Dense(3)]).save(path)
    with pytest.raises(InputError, match="expected one RGB picture"):
        open_classifier(str(path))


def test_a_network_that_gives_no_scores_is_told(tmp_path):
    keras = pytest.importorskip("keras")
    path = tmp_path / "filter.keras"
    keras.Sequential([keras.Input((SIZE, SIZE, 3)), keras.layers.AveragePooling2D(2)]).save(path)
    with pytest.raises(InputError, match="expected one row of scores"):
        open_classifier(str(path))


def test_a_classifier_is_told_from_another_by_its_content(classifiers, tmp_path):
    copy = tmp_path / "copy.tflite"
    copy.write_bytes(classifiers["uint8"].read_bytes())
    assert identity(str(copy)) == identity(str(classifiers["uint8"]))
    assert identity(str(copy)) != identity(str(classifiers["int8"]))
