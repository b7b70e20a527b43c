"""Networks of whole numbers give, on every kernel, what the same sums in 64-bit integers give."""

import importlib.util

import keras
import numpy as np
import pytest

from export.convert import ExportError
from export.crossing import answers_of, hard_inputs
from export.whole_numbers import TOP, Layer, WholeNetwork, check_sums, file_of, quantized, to_whole_numbers
from rjpeg._runtime import RUNTIMES, Network
from train.config import NetworkConfig
from train.networks import build_generator, build_predictor

INSTALLED = [name for name in RUNTIMES if importlib.util.find_spec(name) is not None]


def random_network(kernel, stem_kernel=1, channels=7, width=24, blocks=2, seed=0):
    """Whole weights drawn at random, with activations that use all of their range."""
    rng = np.random.default_rng(seed)

    def layer(shape, depthwise, **kinds):
        weights = rng.integers(-127, 128, shape).astype(np.int8)
        bias = rng.integers(-(2**16), 2**16, shape[-1])
        return Layer(weights, bias, rng.integers(6, 10, shape[-1]), depthwise, **kinds)

    layers = [layer((stem_kernel, stem_kernel, channels, width), False, relu=True, shortcut=False)]
    for _ in range(blocks):
        layers.append(layer((kernel, kernel, width), True, relu=True, shortcut=False))
        layers.append(layer((1, 1, width, width), False, relu=True, shortcut=True))
    last = layer((1, 1, width, 2), False, relu=False, shortcut=False)
    layers.append(last._replace(shifts=last.shifts + 4))
    return WholeNetwork(layers, 2.0**-5, -40)


def expected_answer(network: WholeNetwork, given: np.ndarray) -> np.ndarray:
    """The network in int64, where nothing is rounded but by floor."""
    x = block = given.astype(np.int64)
    for layer in network.layers:
        height, width = layer.weights.shape[:2]
        if layer.depthwise:
            block = x
        rows, cols = x.shape[1:3]
        padded = np.pad(x, ((0, 0), (height // 2,) * 2, (width // 2,) * 2, (0, 0)))
        sums = np.zeros((*x.shape[:3], len(layer.bias)), np.int64) + layer.bias
        for v in range(height):
            for u in range(width):
                part = padded[:, v : v + rows, u : u + cols]
                weights = layer.weights[v, u].astype(np.int64)
                sums += part * weights if layer.depthwise else part @ weights
        x = sums >> layer.shifts
        if layer.shortcut:
            x = x + block
        if layer.relu:
            x = np.clip(x, 0, TOP)
    return np.clip(x + network.zero_point, -128, 127).astype(np.int8)


@pytest.mark.slow
@pytest.mark.parametrize(("kernel", "stem_kernel"), [(3, 1), (5, 3), (7, 1), (9, 3)])
@pytest.mark.parametrize("runtime", INSTALLED)
def test_every_runtime_and_kernel_gives_the_integers_of_exact_sums(kernel, stem_kernel, runtime):
    network = random_network(kernel, stem_kernel)
    inputs = hard_inputs(7)
    expected = [expected_answer(network, given) for given in inputs]
    assert len(np.unique(np.concatenate([answer.ravel() for answer in expected]))) > 100  # says something
    for found in answers_of(file_of(network), inputs, runtime):
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_array_equal(one, other)


@pytest.mark.skipif(INSTALLED[0] != "ai_edge_litert", reason="tflite-runtime has no reference kernel for the weights")
@pytest.mark.parametrize("build", [build_generator, build_predictor])
def test_reference_kernels_give_the_same_integers_too(build):
    keras.utils.set_random_seed(2)
    network = build(NetworkConfig(width=12, blocks=2, kernel=7, stem_kernel=3))
    channels = network.input_shape[-1]
    whole = quantized(network, [np.random.default_rng(0).normal(0, 40, (9, 8, channels)).astype(np.float32)])
    for delegate, reference in ((True, False), (False, False), (False, True)):
        made = Network(file_of(whole), name="whole", delegate=delegate, reference_kernels=reference)
        for given in hard_inputs(channels):
            if len(given) == 1:
                np.testing.assert_array_equal(made.run(given), expected_answer(whole, given))


@pytest.mark.slow
def test_the_integers_are_near_what_keras_answers():
    keras.utils.set_random_seed(4)
    network = build_predictor(NetworkConfig(width=16, blocks=2, kernel=7, stem_kernel=3))
    for layer in network.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            rng = np.random.default_rng(len(layer.name))
            size = len(layer.get_weights()[0])
            layer.set_weights(
                [
                    rng.uniform(0.5, 2, size),
                    rng.normal(0.5, 1, size),
                    rng.normal(0, 9, size),
                    rng.uniform(50, 900, size),
                ]
            )
    samples = [np.round(np.random.default_rng(n).normal(0, 50, (11, 9, 7)).clip(-128, 127)) for n in range(4)]
    made = Network(to_whole_numbers(network, [sample.astype(np.float32) for sample in samples]), name="predictor")
    scale, zero_point = made.output_quantization
    for sample in samples:
        expected = keras.ops.convert_to_numpy(network(sample[None].astype(np.float32), training=False))
        found = (made.run(sample[None].astype(np.int8)).astype(np.float32) - zero_point) * scale
        assert np.abs(found - expected).max() < 3 * scale


def test_the_runtime_computes_all_of_it_with_xnnpack():
    interpreter = Network(file_of(random_network(7)), name="whole")._make()
    interpreter.allocate_tensors()
    names = [op["op_name"] for op in interpreter._get_ops_details()]
    assert names.count("DELEGATE") == 1


def test_sums_that_float32_does_not_hold_exactly_are_refused():
    weights = np.full((1, 1, 200, 3), 127, np.int8)
    layer = Layer(weights, np.zeros(3, np.int64), np.zeros(3, np.int64), False, True, False)
    with pytest.raises(ExportError, match="predictor, convolution 3: sums reach 19507200"):
        check_sums("predictor, convolution 3", layer, TOP)
    check_sums("fits", layer._replace(weights=weights[:, :, :150]), TOP)


def test_a_network_of_other_layers_is_refused():
    features = keras.Input((None, None, 7))
    x = keras.layers.Activation("tanh")(keras.layers.Conv2D(2, 1)(features))
    with pytest.raises(ExportError, match=r"not among those of train\.networks"):
        to_whole_numbers(keras.Model(features, x), [np.zeros((3, 3, 7), np.float32)])
