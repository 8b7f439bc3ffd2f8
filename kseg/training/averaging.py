"""The moving average of a network's weights (Polyak & Juditsky 1992), which Keras's optimizers keep on request."""

from contextlib import contextmanager

import keras

from kseg.applications.transplant import copy_of


def averaged_pairs(optimizer):
    """[(weight, its moving average)] of a built optimizer; empty where it keeps none."""
    plain = getattr(optimizer, "inner_optimizer", optimizer)  # mixed_float16 wraps it for the loss scale
    if not plain.use_ema:
        return []
    pairs = zip(plain._trainable_variables, plain._model_variables_moving_average, strict=True)
    return [(weight, average) for weight, average in pairs if average is not None]


@contextmanager
def averaged(model):
    """While it lasts, a compiled model has the moving average of its weights, where its optimizer keeps one.

    with averaged(model):
        save_model(model, "best.keras", labels)
    """
    pairs = averaged_pairs(model.optimizer)
    own = [copy_of(weight) for weight, _ in pairs]
    for weight, average in pairs:
        weight.assign(copy_of(average))
    try:
        yield
    finally:
        for (weight, _), value in zip(pairs, own, strict=True):
            weight.assign(value)


class AveragedWeights(keras.callbacks.Callback):
    """Validates the moving average of the weights, where the optimizer keeps one (`use_ema`); for `fit(callbacks=)`.

    After a validation that was interrupted the model is left with the average; the next `fit` with this very callback
    gives it its own weights back first.
    """

    _average = None

    def on_train_begin(self, logs=None):
        self._restore()

    def on_test_begin(self, logs=None):
        self._restore()
        self._average = averaged(self.model)
        self._average.__enter__()

    def on_test_end(self, logs=None):
        self._restore()

    def _restore(self):
        average, self._average = self._average, None
        if average is not None:
            average.__exit__(None, None, None)
