"""Run by test_models.py in a process of its own: python predict_on_jax.py FOLDER IN.npz OUT.npz."""

import sys

import jax
import keras
import numpy as np
from keras.src.initializers import random_initializers

import kseg.layers  # noqa: F401  registers the classes that the files name


def zeros(shape, *_, dtype=None, **__):
    return np.zeros(shape, dtype)


# Initial weights are overwritten by those of the file, and JAX takes half a minute to compile their dice.
random_initializers.random.truncated_normal = random_initializers.random.uniform = zeros

if keras.backend.backend() != "jax":
    sys.exit("KERAS_BACKEND must be jax")
folder, given = sys.argv[1], np.load(sys.argv[2])
results = {}
for name in set(given.files) - {"images"}:
    model = keras.saving.load_model(f"{folder}/{name}.keras")
    trainable, frozen = ([v.value for v in part] for part in (model.trainable_variables, model.non_trainable_variables))
    call = jax.jit(lambda *weights, model=model: model.stateless_call(*weights, given["images"])[0])
    results[name] = np.asarray(call(trainable, frozen))
np.savez(sys.argv[3], **results)
