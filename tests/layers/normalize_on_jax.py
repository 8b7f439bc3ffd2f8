"""Run by test_normalization.py in a process of its own: python normalize_on_jax.py IN.npz OUT.npz."""

import sys

import jax
import keras
import numpy as np

from kseg.layers import BatchNormalization

if keras.backend.backend() != "jax":
    sys.exit("KERAS_BACKEND must be jax")
given = np.load(sys.argv[1])
layer = BatchNormalization()
layer.build(given["images"].shape)
layer.set_weights([given[f"before_{number}"] for number in range(len(layer.weights))])
frozen = [variable.value for variable in layer.non_trainable_variables]


def loss(trainable, images):
    outputs, moving = layer.stateless_call(trainable, frozen, images, training=True)
    return (outputs * given["weights"]).sum(), (outputs, moving)


trainable = [variable.value for variable in layer.trainable_variables]
(by_weights, by_images), (outputs, moving) = jax.jit(jax.grad(loss, argnums=(0, 1), has_aux=True))(
    trainable, given["images"]
)
results = {"outputs": outputs, "by images": by_images}
results |= {f"by {v.name}": value for v, value in zip(layer.trainable_variables, by_weights, strict=True)}
results |= {v.name: value for v, value in zip(layer.non_trainable_variables, moving, strict=True)}
np.savez(sys.argv[2], **results)
if "tensorflow" in sys.modules:
    sys.exit("TensorFlow was imported")
