"""What the recipes use, in a `model.fit` of somebody's own, by the names that kseg.training gives."""

import keras
import numpy as np
import pytest

from kseg import data, losses, metrics, training
from kseg.applications import UNet


def test_all_of_it_together(tiny_data, tmp_path):
    keras.utils.set_random_seed(0)
    train, val = data.folder(tiny_data, "train"), data.folder(tiny_data, "val")
    model = UNet(filters=4, depth=2, classes=2, batch_normalization=True)
    supervised = training.deeply_supervised(model, ["decode_2_relu2"])
    rates = training.WarmupPolynomial(0.01, decay_steps=20, warmup_steps=4)
    optimizer = training.AdamW(rates, layer_rates={"encode": 0.0}, use_ema=True, ema_momentum=0.8, global_clipnorm=1.0)
    weights = data.class_weights(data.class_frequencies(train), "inverse_log")
    supervised.compile(
        optimizer,
        losses.WeightedSum([losses.CrossEntropy(class_weights=weights), losses.SoftDice()]),
        metrics=[metrics.ConfusionMatrix(2)],
    )
    before = {weight.path: np.array(weight) for weight in supervised.trainable_weights}
    batches = data.training_batches(train, crop_px=(32, 32), batch=2, epochs=8, elastic_px=2.0)
    history = supervised.fit(
        batches,
        epochs=8,
        steps_per_epoch=3,
        shuffle=False,
        validation_data=data.evaluation_batches(val),
        callbacks=[training.AveragedWeights()],
        verbose=0,
    ).history
    assert history["loss"][-1] < history["loss"][0]
    for weight in supervised.trainable_weights:
        moved = np.abs(np.array(weight) - before[weight.path]).max()
        # Decoupled weight decay keeps its whole rate, and takes a share of 0.01 * 0.004 of a kernel in a step.
        assert (moved < 0.002) == weight.path.startswith("encode"), weight.path
    plain = supervised.evaluate(data.evaluation_batches(val), return_dict=True, verbose=0)
    with training.averaged(supervised):
        average = supervised.evaluate(data.evaluation_batches(val), return_dict=True, verbose=0)
        training.save_model(supervised.prediction, tmp_path / "net.keras", train.labels)
    assert np.isclose(average["loss"], history["val_loss"][-1], rtol=1e-5)
    assert not np.isclose(plain["loss"], history["val_loss"][-1], rtol=1e-5)
    loaded, _ = training.load_model(tmp_path / "net.keras")
    image = train.load(0)[0][None]
    with training.averaged(supervised):
        np.testing.assert_allclose(loaded.predict(image, verbose=0), supervised.predict(image, verbose=0)[0], atol=1e-5)


def test_an_interrupted_validation_does_not_keep_the_averaged_weights():
    keras.utils.set_random_seed(0)
    image = keras.Input((4, 4, 3))
    model = keras.Model(image, keras.layers.Conv2D(2, 1)(image))
    model.compile(training.AdamW(0.1, use_ema=True, ema_momentum=0.9), losses.CrossEntropy())
    batch = np.ones((6, 4, 4, 3), np.float32), np.ones((6, 4, 4), np.int32)
    average, seen = training.AveragedWeights(), []

    def interrupt(logs=None):
        raise KeyboardInterrupt

    look = keras.callbacks.LambdaCallback(
        on_epoch_begin=lambda *_, **__: seen.append(np.array(model.weights[0])),
        on_train_batch_end=lambda *_, **__: seen.append(np.array(model.weights[0])),
    )
    stop = keras.callbacks.Callback()
    stop.on_test_begin = interrupt
    with pytest.raises(KeyboardInterrupt):
        model.fit(*batch, validation_data=batch, callbacks=[look, average, stop], batch_size=2, verbose=0)
    _, _, _, own = seen
    assert not np.allclose(np.array(model.weights[0]), own, rtol=1e-3)
    model.fit(*batch, callbacks=[look, average], verbose=0)
    np.testing.assert_array_equal(seen[4], own)
