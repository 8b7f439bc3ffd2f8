"""Validation that many devices share."""

from itertools import islice

import keras
import numpy as np

from kseg import data
from kseg.training.averaging import averaged, averaged_pairs
from kseg.training.distribution import gathered
from kseg.training.tensorboard import confusion_counts


class SharedValidation(keras.callbacks.Callback):
    """The numbers that `fit(validation_data=...)` gives, from whole images that the devices take in turn.

    Keras would share one batch among all devices (on JAX, of all processes): that needs images of one size, and as
    many as the devices can divide evenly. Here each device takes images of its own, one at a time, and each
    process its own part of them. Then the totals of the metrics (sums and counts) are added up over all, once, and all
    processes have the same numbers, to the last bit: so they agree on what is best and when to stop. It does not
    matter how many images each one took, none included.

    Args:
        source: source of kseg.data, the validation images of all processes.
        epochs: after which to validate, counted from 1.
        shard: (index, count): the part of this process.

    Attributes:
        matrix: confusion matrix (see `ConfusionMatrix.matrix`) of the epoch that ended, or None without a validation.
    """

    def __init__(self, source, epochs, shard=(0, 1)):
        super().__init__()
        self.epochs = frozenset(epochs)
        self.shard = shard
        index, count = shard
        self.source = data.Subset(source, range(index, len(source.names), count))
        self.matrix = None
        self._step = None
        self._predict = None

    def on_epoch_end(self, epoch, logs=None):
        """Add `val_...` to the logs, which the callbacks after this one get. The average of the weights counts."""
        self.matrix = None
        if epoch + 1 not in self.epochs:
            return
        with averaged(self.model):
            logs.update({f"val_{name}": value for name, value in self._evaluate().items()})
        self.matrix = confusion_counts(self.model)

    def predict_on_batch(self, images):
        """Logits float32 [B, H, W, classes] of images [B, H, W, 3], on one device and without the other processes.

        They are those of the average of the weights, too.
        """
        if keras.backend.backend() == "tensorflow":
            with averaged(self.model):
                return np.asarray(_first(self.model(images, training=False)))
        import jax

        if self._predict is None:
            self._predict = jax.jit(lambda *state: _first(self.model.stateless_call(*state, training=False)[0]))
        averages = {id(weight): average for weight, average in averaged_pairs(self.model.optimizer)}
        weights = [averages.get(id(weight), weight) for weight in self.model.trainable_variables]
        return np.asarray(self._predict(_on(0, weights), _on(0, self.model.non_trainable_variables), images))

    def _evaluate(self):
        self.model.reset_metrics()
        if keras.backend.backend() == "tensorflow":
            self._test_on_tensorflow()
        else:
            self._test_on_jax()
        results = {}
        for name, value in self.model.get_metrics_result().items():
            results |= value if isinstance(value, dict) else {name: value}
        return {name: float(np.asarray(value)) for name, value in results.items()}

    def _test_on_tensorflow(self):
        """The metrics' variables have a part on each device, which TensorFlow adds up."""
        import tensorflow as tf

        strategy = tf.distribute.get_strategy()

        def test(taken, *sample):
            def count():
                self.model.test_step(sample)
                return taken

            # A device with no image left does nothing: the mean of a loss over no image is no number.
            tf.cond(taken, count, lambda: taken)

        if self._step is None:
            step = tf.autograph.experimental.do_not_convert(lambda *values: strategy.run(test, values))
            self._step = tf.function(step, reduce_retracing=True)
        samples, devices = iter(data.evaluation_batches(self.source)), strategy.num_replicas_in_sync
        while group := [(True, *sample) for sample in islice(samples, devices)]:
            group += [(False, *group[0][1:])] * (devices - len(group))
            self._step(*(_one_each(strategy, values) for values in zip(*group, strict=True)))

    def _test_on_jax(self):
        import jax

        self._step = self._step or jax.jit(self.model.test_step)
        states = [self._state(device) for device in range(jax.local_device_count())]
        for number, sample in enumerate(data.evaluation_batches(self.source).as_numpy_iterator()):
            trainable, frozen, metrics = states[number % len(states)]
            jax.block_until_ready(metrics)  # at most one image waits for each device
            _, (_, _, metrics) = self._step((trainable, frozen, metrics), sample)
            states[number % len(states)] = trainable, frozen, metrics
        for variable, *parts in zip(self.model.metrics_variables, *(state[2] for state in states), strict=True):
            variable.assign(self._total([np.asarray(part) for part in parts]))

    def _state(self, device):
        """The model's variables as they are on one device of this process: three lists of arrays."""
        model = self.model
        parts = (model.trainable_variables, model.non_trainable_variables, model.metrics_variables)
        return tuple(_on(device, part) for part in parts)

    def _total(self, parts):
        """The sum over the devices of this process, then over the processes."""
        total = np.sum(parts, axis=0, dtype=parts[0].dtype)
        if self.shard[1] > 1:
            total = gathered(total).sum(axis=0, dtype=total.dtype)
        return total


def _on(device, variables):
    """The arrays of variables as they are on one device of this process, on JAX."""
    return [variable.value.addressable_data(device) for variable in variables]


def _first(outputs):
    """Of a network under deep supervision the first output is the one that counts."""
    return outputs[0] if isinstance(outputs, list) else outputs


def _one_each(strategy, values):
    """One of the values for each device, as a tensor."""
    import tensorflow as tf

    return strategy.experimental_distribute_values_from_function(
        lambda context: tf.convert_to_tensor(values[context.replica_id_in_sync_group])
    )
