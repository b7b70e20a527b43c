"""Gradients with respect to a picture, on whichever backend Keras runs."""

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np

__all__ = ["outside", "value_and_gradient"]


def value_and_gradient(function: Callable) -> Callable:
    """Compile (x, *constants) -> (function(x, *constants), its gradient with respect to x).

    `function` gives a scalar and is written in keras.ops.
    """
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        @tf.function(reduce_retracing=False)
        def compute(x, *constants):
            with tf.GradientTape() as tape:
                tape.watch(x)
                value = function(x, *constants)
            # zeros where nothing depends on x, as JAX has it
            return value, tape.gradient(value, x, unconnected_gradients="zero")

        return lambda x, *constants: compute(tf.convert_to_tensor(x), *map(tf.convert_to_tensor, constants))
    if backend == "jax":
        import jax

        return jax.jit(jax.value_and_grad(function))
    raise NotImplementedError(f"Keras backend is {backend}; tensorflow and jax are supported")


def outside(
    answer: Callable[[np.ndarray], list[np.ndarray]],
    adjoint: Callable[..., np.ndarray],
    shapes: Sequence[tuple[int, ...]],
) -> Callable[[Any], list[Any]]:
    """Make a function that another library computes one that Keras' backend passes gradients through.

    answer: (N, ...) float32 -> one float32 array (N, ...) an output. adjoint: the same x, and an array like each output
    -> gradient with respect to x of their products' sum. shapes: of the outputs, without N.
    """
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        @tf.custom_gradient
        def compute(x):
            # of a single output it makes no list when it runs eagerly
            found = tf.nest.flatten(tf.numpy_function(answer, [x], [tf.float32] * len(shapes), stateful=False))
            for output, shape in zip(found, shapes, strict=True):
                output.set_shape((x.shape[0], *shape))

            def gradient(*seeds):
                slope = tf.numpy_function(adjoint, [x, *seeds], tf.float32, stateful=False)
                slope.set_shape(x.shape)
                return slope

            return found, gradient

        return compute
    if backend == "jax":
        import jax

        def called(x):
            outputs = [jax.ShapeDtypeStruct((x.shape[0], *shape), "float32") for shape in shapes]
            return jax.pure_callback(lambda value: answer(np.asarray(value)), outputs, x)

        compute_on_jax = jax.custom_vjp(called)

        def backward(x, seeds):
            slope = jax.ShapeDtypeStruct(x.shape, "float32")
            return (jax.pure_callback(lambda *values: adjoint(*map(np.asarray, values)), slope, x, *seeds),)

        compute_on_jax.defvjp(lambda x: (called(x), x), backward)
        return compute_on_jax
    raise NotImplementedError(f"Keras backend is {backend}; tensorflow and jax are supported")
