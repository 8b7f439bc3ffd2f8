"""Run by test_normalization.py in a process of its own: python normalize_mirrored.py IN.npz OUT.npz."""

import sys

import keras
import numpy as np
import tensorflow as tf

from kseg.layers import BatchNormalization

cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
images = np.load(sys.argv[1])["images"]
results = {}
for maker, kind in (("keras", keras.layers.BatchNormalization), ("kseg", BatchNormalization)):
    with tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]).scope():
        model = keras.Sequential([keras.Input(images.shape[1:]), kind()])
        model.compile(keras.optimizers.SGD(0.1), "mse")
    model.fit(images, np.ones_like(images), batch_size=len(images), verbose=0, shuffle=False)
    results |= {f"{maker}_{weight.name}": np.array(weight.value) for weight in model.weights}
np.savez(sys.argv[2], **results)
