"""Optimizers against their sums worked out by hand."""

import keras
import numpy as np
import pytest

from kseg.training.averaging import averaged_pairs
from kseg.training.optimizers import SGD, Adam, AdamW, build_optimizer, carry_over
from kseg.training.recipe import Recipe


def _line(trainable=("first", "second")):
    """y = second * first * x, both 1: with x = y = 1 and the loss (y - 3)^2 each gradient is -4 at the start."""
    inputs = keras.Input((1,))
    x = keras.layers.Dense(1, use_bias=False, kernel_initializer="ones", name="first")(inputs)
    x = keras.layers.Dense(1, use_bias=False, kernel_initializer="ones", name="second")(x)
    model = keras.Model(inputs, x)
    for layer in model.layers:
        layer.trainable = layer.name in trainable
    return model


def _fit(model, optimizer, steps=1, batch=1):
    model.compile(optimizer, "mse")
    ones = np.ones((steps * batch, 1), np.float32)
    model.fit(ones, 3 * ones, batch_size=batch, epochs=1, shuffle=False, verbose=0)
    return [float(np.asarray(weight).squeeze()) for weight in model.weights]


def test_a_layer_may_have_a_rate_of_its_own():
    assert _fit(_line(), SGD(0.01, layer_rates={"first": 0.1})) == pytest.approx([1.004, 1.04])
    assert _fit(_line(), SGD(0.01, layer_rates={"first": 0.0, "f": 5.0})) == pytest.approx([1.0, 1.04])
    # AdamW's first step is the learning rate whatever the gradient; without decay.
    assert _fit(_line(), AdamW(0.01, weight_decay=0.0, layer_rates={"sec": 0.5})) == pytest.approx([1.01, 1.005])


@pytest.mark.parametrize(
    ("ours", "keras_own", "options"),
    [
        (Adam, keras.optimizers.Adam, {"beta_1": 0.8, "beta_2": 0.99, "epsilon": 1e-3}),
        (Adam, keras.optimizers.Adam, {"amsgrad": True}),
        (AdamW, keras.optimizers.AdamW, {"weight_decay": 0.1, "global_clipnorm": 0.5}),
        (AdamW, keras.optimizers.AdamW, {"gradient_accumulation_steps": 2}),
    ],
)
def test_the_steps_of_keras(ours, keras_own, options):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(60, 3)), rng.normal(size=(60, 2))
    found = []
    for kind in (ours, keras_own):
        inputs = keras.Input((3,))
        model = keras.Model(inputs, keras.layers.Dense(2, kernel_initializer="ones")(inputs))
        rate = keras.optimizers.schedules.CosineDecay(0.1, 30)
        model.compile(kind(rate, **options), "mse")
        model.fit(x, y, batch_size=4, epochs=2, shuffle=False, verbose=0)
        found.append([np.asarray(weight) for weight in (*model.weights, *model.optimizer.variables[2:])])
    for one, other in zip(*found, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)  # the same sums in another order


def test_the_rates_are_part_of_the_configuration():
    optimizer = SGD(0.01, layer_rates={"first": 0.1})
    assert SGD.from_config(optimizer.get_config()).get_config() == optimizer.get_config()


def test_a_long_gradient_is_cut_to_its_norm():
    optimizer = build_optimizer(_recipe(clip_norm=1.0), steps=10)
    # (-4, -4) has the length 4 * sqrt(2); cut to length 1 it is (-1, -1) / sqrt(2). Nesterov's first step is 1.9 times.
    assert _fit(_line(), optimizer) == pytest.approx([1 + 0.019 / 2**0.5] * 2)


def test_accumulated_batches_are_one_large_batch():
    assert _fit(_line(), SGD(0.01, gradient_accumulation_steps=1 + 1), steps=1) == pytest.approx([1.0, 1.0])
    assert _fit(_line(), SGD(0.01, gradient_accumulation_steps=2), steps=2) == pytest.approx([1.04, 1.04])


def test_the_average_follows_the_weights_and_never_replaces_them():
    model = _line(trainable=("second",))
    weights = [1.0]
    for _ in range(3):
        weights.append(weights[-1] + 0.01 * 2 * (3 - weights[-1]))
    assert _fit(model, SGD(0.01, use_ema=True, ema_momentum=0.9), steps=3)[1] == pytest.approx(weights[-1])
    average = weights[1]  # the first step takes the weight as it is
    for weight in weights[2:]:
        average = 0.9 * average + 0.1 * weight
    ((weight, found),) = averaged_pairs(model.optimizer)
    assert float(np.asarray(found).squeeze()) == pytest.approx(average)
    assert weight.path == "second/kernel"


def _recipe(**settings):
    return Recipe(
        **{"model": "UNet", "optimizer": "sgd", "learning_rate": 0.01, "schedule": "constant", "weight_decay": 0.0}
        | settings
    )


def test_thawed_layers_start_fresh_and_the_others_go_on():
    model = _line(trainable=("second",))
    _fit(model, build_optimizer(_recipe(average=0.9), steps=10), steps=2)
    before = model.optimizer
    model.get_layer("first").trainable = True
    model.compile(build_optimizer(_recipe(average=0.9), steps=10), "mse")
    model.optimizer.build(model.trainable_variables)
    carry_over(before, model.optimizer)
    assert int(model.optimizer.iterations) == 2
    found = {
        variable.path.partition("/")[2]: float(np.asarray(variable).squeeze()) for variable in model.optimizer.variables
    }
    expected = {variable.path.partition("/")[2]: float(np.asarray(variable).squeeze()) for variable in before.variables}
    assert {name: found[name] for name in expected} == expected
    assert expected["second_kernel_momentum"] > 0
    assert found["first_kernel_momentum"] == 0
    assert found["first_kernel_average"] == 1.0
