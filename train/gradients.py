"""Gradients with respect to a picture, on whichever backend Keras runs."""

from collections.abc import Callable

import keras

__all__ = ["value_and_gradient"]


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
