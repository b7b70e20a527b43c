import pytest

from evaluate.classifiers import KerasClassifier, identity, open_classifier
from rjpeg.errors import InputError, RjpegError

from .conftest import SIZE, color_model


@pytest.mark.parametrize("kind", ["keras", "float32", "uint8", "int8"])
@pytest.mark.parametrize("color", [0, 1, 2])
def test_every_kind_of_file_sees_the_leading_color(kind, color, classifiers, colored):
    classifier = open_classifier(str(classifiers[kind]))
    assert (classifier.size, classifier.classes) == ((SIZE, SIZE), 3)
    assert classifier.classify(colored(color)) == color


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
