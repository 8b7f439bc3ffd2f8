"""Losses: hand-worked masks, independent NumPy versions, gradients, float16, Keras objects, both backends."""

import json
import os
import subprocess
import sys

import keras
import numpy as np
import pytest
from keras import ops

from kseg import losses

FUNCTIONS = ["cross_entropy", "focal", "hard_pixels", "soft_dice", "soft_jaccard", "tversky", "lovasz_softmax"]
VOID = 255

# Keras on TensorFlow saves its variables in a way that NumPy 2 warns of.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")


def example(seed=0, shape=(2, 5, 7), classes=4, void=0.2):
    """Labels with ignored pixels, and logits; the last class is absent."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes - 1, shape)
    labels[rng.random(shape) < void] = VOID
    return labels.astype("int32"), rng.normal(size=(*shape, classes), scale=2).astype("float32")


def value_and_gradient(function, logits):
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        logits = tf.constant(logits)
        with tf.GradientTape() as tape:
            tape.watch(logits)
            value = function(logits)
        return float(value), tape.gradient(value, logits).numpy()
    import jax

    value, gradient = jax.value_and_grad(function)(logits)
    return float(value), np.asarray(gradient)


# --- the same, written plainly in NumPy, pixel by pixel or class by class ------------------------------------------


def valid_pixels(labels, logits):
    labels, logits = labels.reshape(-1), logits.reshape(-1, logits.shape[-1]).astype("float64")
    kept = labels != VOID
    exponents = np.exp(logits[kept] - logits[kept].max(-1, keepdims=True))
    return labels[kept], exponents / exponents.sum(-1, keepdims=True)


def plain_cross_entropy(labels, logits, class_weights=None, label_smoothing=0.0, gamma=0.0, sample_weight=None):
    if sample_weight is not None:
        sample_weight = np.broadcast_to(sample_weight, labels.shape)[labels != VOID]
    total = weight = 0.0
    labels, probabilities = valid_pixels(labels, logits)
    for index, (label, p) in enumerate(zip(labels, probabilities, strict=True)):
        target = np.full(len(p), label_smoothing / len(p))
        target[label] += 1 - label_smoothing
        w = 1.0 if class_weights is None else class_weights[label]
        w *= 1.0 if sample_weight is None else sample_weight[index]
        total += w * (1 - p[label]) ** gamma * -(target * np.log(p)).sum()
        weight += w
    return total / weight


def plain_hard_pixels(labels, logits, share=0.25, class_weights=None, sample_weight=None):
    """Sorted, the hardest taken one by one; for examples without ties."""
    weights = np.ones(labels.shape) if sample_weight is None else np.broadcast_to(sample_weight, labels.shape)
    weights = weights[labels != VOID]
    labels, probabilities = valid_pixels(labels, logits)
    costs = -np.log(probabilities[np.arange(len(labels)), labels])
    weights = weights * (1.0 if class_weights is None else np.asarray(class_weights)[labels])
    costs, weights = costs[weights > 0], weights[weights > 0]
    hardest = np.argsort(-costs)[: max(round(share * len(costs)), 1)]
    return (costs * weights)[hardest].sum() / weights[hardest].sum()


def plain_regions(labels, logits, score):
    labels, probabilities = valid_pixels(labels, logits)
    values = [score(probabilities[:, c], (labels == c).astype(float)) for c in np.unique(labels)]
    return 1 - np.mean(values)


def plain_dice(p, g):
    return 2 * (p * g).sum() / ((p * p).sum() + (g * g).sum())


def plain_jaccard(p, g):
    return (p * g).sum() / ((p * p).sum() + (g * g).sum() - (p * g).sum())


def plain_tversky(p, g, alpha=0.3, beta=0.7):
    return (p * g).sum() / ((p * g).sum() + alpha * (p * (1 - g)).sum() + beta * ((1 - p) * g).sum())


def plain_lovasz(p, g):
    """1 - the Lovász extension, from its definition: error gaps times the Jaccard loss of the top-k set."""
    errors = np.abs(g - p)
    order = np.argsort(-errors, kind="stable")
    levels = np.append(errors[order], 0.0)
    total = 0.0
    for k in range(1, len(order) + 1):
        wrong = np.zeros(len(order), bool)
        wrong[order[:k]] = True  # the pixels that the hard set calls wrong
        predicted = np.where(wrong, 1 - g, g)
        jaccard_loss = 1 - (predicted * g).sum() / max((np.maximum(predicted, g)).sum(), 1)
        total += (levels[k - 1] - levels[k]) * jaccard_loss
    return 1 - total


def sorted_lovasz(labels, logits):
    """Algorithm 1 of Berman et al. 2018 in float64, and its gradient for the logits."""
    valid = labels != VOID
    scores = logits[valid].astype("float64")
    p = np.exp(scores - scores.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    true = labels[valid][:, None] == np.arange(p.shape[-1])
    present = np.flatnonzero(true.any(0))
    value, slopes = 0.0, np.zeros_like(p)
    for c in present:
        errors = np.abs(true[:, c] - p[:, c])
        order = np.argsort(-errors)
        wrong = np.cumsum(true[order, c])
        jaccard = 1 - (wrong[-1] - wrong) / (wrong[-1] + np.cumsum(~true[order, c]))
        steps = np.diff(jaccard, prepend=0.0)
        value += (errors[order] * steps).sum() / len(present)
        slopes[order, c] = np.where(true[order, c], -steps, steps) / len(present)
    gradient = np.zeros(logits.shape)
    gradient[valid] = p * (slopes - (p * slopes).sum(-1, keepdims=True))
    return value, gradient


PLAIN = {
    "cross_entropy": plain_cross_entropy,
    "focal": lambda labels, logits: plain_cross_entropy(labels, logits, gamma=2.0),
    "hard_pixels": plain_hard_pixels,
    "soft_dice": lambda labels, logits: plain_regions(labels, logits, plain_dice),
    "soft_jaccard": lambda labels, logits: plain_regions(labels, logits, plain_jaccard),
    "tversky": lambda labels, logits: plain_regions(labels, logits, plain_tversky),
    "lovasz_softmax": lambda labels, logits: plain_regions(labels, logits, plain_lovasz),
}

# --- values --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FUNCTIONS)
def test_equals_plain_numpy(name):
    for seed in range(3):
        labels, logits = example(seed)
        value = getattr(losses, name)(labels, logits, ignore=VOID)
        assert keras.backend.standardize_dtype(value.dtype) == "float32"
        assert value.shape == ()
        np.testing.assert_allclose(float(value), PLAIN[name](labels, logits), rtol=2e-6)


def test_hand_worked():
    # One row: true classes 0, 0, 1 and one ignored pixel; probabilities of class 1: 0, 1/2, 1, 1/2.
    labels = np.array([[[0, 0, 1, VOID]]])
    ones = np.array([1e-9, 0.5, 1 - 1e-9, 0.5])
    logits = np.log(np.stack([1 - ones, ones], -1))[None, None].astype("float32")
    expected = {
        "cross_entropy": np.log(2) / 3,
        "focal": np.log(2) / 12,
        "hard_pixels": np.log(2),  # a quarter of three pixels: one
        # class 0: p 1, .5, 0; both 1.5, p^2 1.25, g 2. class 1: p 0, .5, 1; both 1, p^2 1.25, g 1.
        "soft_dice": 1 - (3 / 3.25 + 2 / 2.25) / 2,
        "soft_jaccard": 1 - (1.5 / 1.75 + 1 / 1.25) / 2,
        # class 0: no false positives, .5 missed; class 1: .5 false positives, none missed.
        "tversky": 1 - (1.5 / (1.5 + 0.35) + 1 / (1 + 0.15)) / 2,
        # class 0: one error of .5, wrong it costs 1/2 of the set; class 1: one error of .5, 1/2 of the union.
        "lovasz_softmax": (0.5 * 0.5 + 0.5 * 0.5) / 2,
    }
    for name, value in expected.items():
        np.testing.assert_allclose(float(getattr(losses, name)(labels, logits, ignore=VOID)), value, rtol=1e-5)


def test_class_weights_smoothing_and_sample_weight():
    labels, logits = example()
    weights, smoothing = [0.5, 3.0, 1.0, 2.0], 0.1
    pixels = np.random.default_rng(1).random(labels.shape).astype("float32")
    value = losses.cross_entropy(labels, logits, VOID, weights, smoothing, pixels)
    np.testing.assert_allclose(float(value), plain_cross_entropy(labels, logits, weights, smoothing, 0, pixels), 1e-6)
    value = losses.focal(labels, logits, VOID, 1.5, weights, pixels[..., None])
    np.testing.assert_allclose(float(value), plain_cross_entropy(labels, logits, weights, 0, 1.5, pixels), 1e-6)
    image = np.array([0.25, 2.0], "float32")
    value = losses.cross_entropy(labels, logits, VOID, sample_weight=image)
    np.testing.assert_allclose(
        float(value), plain_cross_entropy(labels, logits, sample_weight=image[:, None, None]), 1e-6
    )


def test_hard_pixels_with_weights_and_shares():
    labels, logits = example(shape=(3, 9, 8))
    pixels = np.random.default_rng(1).random(labels.shape).astype("float32")
    pixels[0, :4] = 0.0  # these do not count among the pixels
    for share in (0.001, 0.1, 0.3, 0.77):
        value = losses.hard_pixels(labels, logits, VOID, share, [0.5, 0.0, 1.0, 2.0], pixels)
        expected = plain_hard_pixels(labels, logits, share, [0.5, 0.0, 1.0, 2.0], pixels)
        np.testing.assert_allclose(float(value), expected, rtol=1e-6)
    value = losses.hard_pixels(labels, logits, VOID, 1.0, [0.5, 3.0, 1.0, 2.0], pixels)
    np.testing.assert_allclose(
        float(value), plain_cross_entropy(labels, logits, [0.5, 3.0, 1.0, 2.0], 0, 0, pixels), rtol=1e-6
    )


def test_a_share_of_one_takes_every_pixel_of_very_many():
    """16,777,219 is one less in float32's nearest number above."""
    labels = np.zeros((1, 1, 2**24 + 3), np.uint8)
    logits = np.stack([np.linspace(0, 1, labels.size, dtype=np.float32)[None, None], np.zeros_like(labels)], axis=-1)
    value, expected = losses.hard_pixels(labels, logits, share=1.0), losses.cross_entropy(labels, logits)
    np.testing.assert_allclose(value, expected, rtol=1e-4)


def test_hard_pixels_leave_the_easy_ones_alone_and_treat_equals_alike():
    labels = np.zeros((1, 2, 4), "int32")
    logits = np.zeros((1, 2, 4, 2), "float32")
    logits[..., 0] = [[-2, 1, 1, 1], [5, 5, 5, 5]]  # one hard, three alike, four easy
    value, gradient = value_and_gradient(lambda x: losses.hard_pixels(labels, x, share=0.25), logits)
    costs = np.log1p(np.exp([2.0, -1.0]))
    np.testing.assert_allclose(value, costs.mean(), rtol=1e-6)  # two of eight: the hard one, and one of those alike
    assert (gradient[0, 1] == 0).all()
    np.testing.assert_allclose(gradient[0, 0, 1:], gradient[0, 0, 1:2].repeat(3, 0), rtol=1e-6)
    np.testing.assert_allclose(gradient[0, 0, 1, 1], 1 / (1 + np.e) / 6, rtol=1e-5)


def test_a_diverged_network_is_not_hidden_by_the_choice_of_pixels():
    labels, logits = example()
    logits[tuple(np.argwhere(labels != VOID)[0])] = np.nan
    assert np.isnan(float(losses.hard_pixels(labels, logits, VOID)))


def test_relations_between_losses():
    labels, logits = example()
    same = [losses.focal(labels, logits, VOID, gamma=0.0), losses.cross_entropy(labels, logits, VOID)]
    np.testing.assert_allclose(float(same[0]), float(same[1]), rtol=1e-6)
    plain = plain_regions(labels, logits, lambda p, g: 2 * (p * g).sum() / (p.sum() + g.sum()))
    np.testing.assert_allclose(float(losses.tversky(labels, logits, VOID, 0.5, 0.5)), plain, rtol=1e-6)
    smooth = plain_regions(labels, logits, lambda p, g: (2 * (p * g).sum() + 3) / ((p * p).sum() + (g * g).sum() + 3))
    np.testing.assert_allclose(float(losses.soft_dice(labels, logits, VOID, smooth=3.0)), smooth, rtol=1e-6)


def test_tversky_without_a_price_for_what_is_missed():
    """Of the class that is there, nothing is found: 0 / 0 but for the definition."""
    labels, logits = np.zeros((1, 1, 1), "int32"), np.array([[[[-200.0, 0.0]]]], "float32")
    value, gradient = value_and_gradient(lambda x: losses.tversky(labels, x, alpha=1.0, beta=0.0), logits)
    assert value == 1.0
    assert np.isfinite(gradient).all()


def test_lovasz_of_hard_predictions_is_the_jaccard_loss():
    labels, _ = example(void=0.1)
    predictions = np.random.default_rng(5).integers(0, 3, labels.shape)
    logits = 200.0 * np.eye(4, dtype="float32")[predictions]
    expected = []
    for c in range(3):
        true, found = (labels == c), (predictions == c) & (labels != VOID)
        expected.append(1 - (true & found).sum() / (true | found).sum())
    np.testing.assert_allclose(float(losses.lovasz_softmax(labels, logits, VOID)), np.mean(expected), rtol=1e-5)


def test_lovasz_per_image():
    labels, logits = example(shape=(3, 6, 5))
    labels[2] = VOID  # does not count among the images
    each = [plain_regions(labels[i], logits[i], plain_lovasz) for i in range(2)]
    value = losses.lovasz_softmax(labels, logits, VOID, per_image=True)
    np.testing.assert_allclose(float(value), np.mean(each), rtol=1e-5)


@pytest.mark.parametrize("spread", [0.001, 1.0, 30.0], ids=["untrained", "trained a little", "sure"])
def test_lovasz_counts_what_sorting_gives(spread):
    """Many pixels a step, also where all errors are nearly equal: value and gradient are those of sorted pixels."""
    labels, logits = example(shape=(2, 96, 96), seed=3)
    logits = (spread * logits).astype("float32")
    value, gradient = value_and_gradient(lambda x: losses.lovasz_softmax(labels, x, VOID), logits)
    expected, slopes = sorted_lovasz(labels, logits)
    np.testing.assert_allclose(value, expected, atol=1 / 16384)
    assert (gradient * slopes).sum() / np.linalg.norm(gradient) / np.linalg.norm(slopes) > 0.999


# --- ignored, wrong and extreme --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FUNCTIONS)
def test_ignored_pixels_contribute_nothing(name):
    labels, logits = example()
    other = logits.copy()
    other[labels == VOID] = np.random.default_rng(3).normal(size=other[labels == VOID].shape) * 50
    other[tuple(np.argwhere(labels == VOID)[0])] = np.inf  # overflowed under float16
    other[tuple(np.argwhere(labels == VOID)[1])] = np.nan
    function = getattr(losses, name)
    first = value_and_gradient(lambda x: function(labels, x, ignore=VOID), logits)
    second = value_and_gradient(lambda x: function(labels, x, ignore=VOID), other)
    np.testing.assert_allclose(first[0], second[0], rtol=1e-6)
    np.testing.assert_allclose(first[1], second[1], atol=1e-7)
    assert (first[1][labels == VOID] == 0).all()
    assert np.abs(first[1][labels != VOID]).max() > 0


@pytest.mark.parametrize("name", FUNCTIONS)
def test_only_ignored_pixels(name):
    _, logits = example()
    labels = np.full(logits.shape[:3], VOID)
    value, gradient = value_and_gradient(lambda x: getattr(losses, name)(labels, x, ignore=VOID), logits)
    assert value == 0.0
    assert (gradient == 0).all()


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("wrong", [4, -1, 254, 0.5, float("nan"), 2**32])
def test_wrong_label_gives_nan_and_keeps_the_gradients(name, wrong):
    labels, logits = example()
    function = getattr(losses, name)
    labels[0, 0, 0] = VOID
    _, expected = value_and_gradient(lambda x: function(labels, x, ignore=VOID), logits)
    labels = labels.astype("float64" if isinstance(wrong, float) else "int64")
    labels[0, 0, 0] = wrong
    value, gradient = value_and_gradient(lambda x: function(labels, x, ignore=VOID), logits)
    assert np.isnan(value)
    np.testing.assert_allclose(gradient, expected, atol=1e-7)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_gradient_is_the_slope_and_stays_finite(name):
    labels, logits = example()
    function = getattr(losses, name)
    _, gradient = value_and_gradient(lambda x: function(labels, x, ignore=VOID), logits)
    step = np.random.default_rng(2).normal(size=logits.shape).astype("float32") * 1e-4
    slope = (PLAIN[name](labels, logits + step) - PLAIN[name](labels, logits - step)) / 2
    np.testing.assert_allclose((gradient * step).sum(), slope, rtol=2e-2, atol=1e-7)
    for scale in (0.0, 1e4):  # all equal; probabilities of exactly 0 and 1
        value, gradient = value_and_gradient(lambda x: function(labels, x, ignore=VOID), logits * scale)
        assert np.isfinite(value)
        assert np.isfinite(gradient).all()


def test_focal_gradient_with_small_gamma_is_finite():
    labels, logits = example()
    for gamma in (0.0, 0.5, 1.0):
        _, gradient = value_and_gradient(lambda x, g=gamma: losses.focal(labels, x, VOID, gamma=g), 1e3 * logits)
        assert np.isfinite(gradient).all()


HALVES_P = 1 / (1 + np.exp(-2.0))
HALVES_DICE = 2 * HALVES_P / (HALVES_P**2 + (1 - HALVES_P) ** 2 + 1)
HALVES_LOSS = {
    "cross_entropy": -np.log(HALVES_P),
    "focal": -np.log(HALVES_P) * (1 - HALVES_P) ** 2,
    "hard_pixels": -np.log(HALVES_P),
    "soft_dice": 1 - HALVES_DICE,
    "soft_jaccard": 1 - HALVES_DICE / (2 - HALVES_DICE),
    "tversky": 1 - HALVES_P,
    "lovasz_softmax": 1 - HALVES_P,
}


def halves(images):
    """Two classes, half a picture each; the true one always has the probability HALVES_P. 512 x 512."""
    labels = np.zeros((images, 512, 512), "int32")
    labels[:, 256:] = 1
    logits = np.zeros((images, 512, 512, 2), "float32")
    logits[..., 1] = np.where(labels == 1, 2.0, -2.0)
    return labels, logits


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_half_precision_logits_are_summed_in_float32(name, dtype):
    # In float16 a sum ends at 65504; here each class has 131072 pixels.
    labels, logits = halves(1)
    value, gradient = value_and_gradient(lambda x: getattr(losses, name)(labels, ops.cast(x, dtype)), logits)
    assert abs(value - HALVES_LOSS[name]) < 2e-6
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize("jit", [False, True])
def test_sums_of_many_pixels_keep_their_digits(jit):
    # Summed in one go, float32 lost 0.3 % here.
    import tensorflow as tf

    labels, logits = halves(4)
    for name in ("cross_entropy", "soft_dice"):
        value = tf.function(getattr(losses, name), jit_compile=jit)(labels, tf.constant(logits))
        assert abs(float(value) - HALVES_LOSS[name]) < 5e-6, name


def test_label_formats():
    labels, logits = example()
    expected = float(losses.soft_dice(labels, logits, VOID))
    for given in (labels[..., None], labels.astype("uint8"), labels.astype("int64"), labels.astype("float32")):
        assert float(losses.soft_dice(given, logits, VOID)) == expected
    # 511 is no class and not ignore, though its last byte is 255
    assert np.isnan(float(losses.soft_dice(np.where(labels == VOID, 511, labels), logits, VOID)))
    # uint8 labels cannot hold ignore=65535: nothing is ignored, so 255 is a wrong label
    assert np.isnan(float(losses.soft_dice(labels.astype("uint8"), logits, 65535)))
    assert float(losses.soft_dice(np.where(labels == VOID, -1, labels), logits, -1)) == expected


@pytest.mark.parametrize("name", FUNCTIONS)
def test_shape_errors(name):
    labels, logits = example()
    function = getattr(losses, name)
    with pytest.raises(ValueError, match=r"`labels` and `logits` must .* Received: \(2, 4, 7\) and \(2, 5, 7, 4\)"):
        function(labels[:, :4], logits)
    with pytest.raises(ValueError, match="`logits` must have the shape"):
        function(labels, logits[..., :1])
    with pytest.raises(ValueError, match="`logits` must have the shape"):
        function(labels, logits[0])
    with pytest.raises(ValueError, match="`ignore` must lie outside the 4 classes"):
        function(labels, logits, ignore=3)


def test_argument_errors():
    labels, logits = example()
    for make, message in [
        (lambda: losses.CrossEntropy(label_smoothing=1.0), "`label_smoothing` must"),
        (lambda: losses.CrossEntropy(class_weights=[1, -1]), "`class_weights` must"),
        (lambda: losses.Focal(gamma=-1), "`gamma` must"),
        (lambda: losses.Focal(class_weights=[0, 0]), "`class_weights` must"),
        (lambda: losses.HardPixels(share=0.0), "`share` must"),
        (lambda: losses.HardPixels(share=float("nan")), "`share` must"),
        (lambda: losses.SoftDice(smooth=-1), "`smooth` must"),
        (lambda: losses.Tversky(None, 0.0, 0.0), "`alpha` and `beta` must"),
        (lambda: losses.WeightedSum([]), "`losses` must"),
        (lambda: losses.WeightedSum(["mse"]), "`losses` must"),
        (lambda: losses.WeightedSum([losses.SoftDice()], [1, 2]), "`weights` must"),
        (lambda: losses.cross_entropy(labels, logits, class_weights=[1, 2]), "`class_weights` must"),
        (lambda: losses.cross_entropy(labels, logits, sample_weight=np.ones((2, 5))), "`sample_weight` must"),
        (lambda: losses.SoftDice()(labels, logits, np.ones(2)), "`sample_weight` must be None for SoftDice"),
    ]:
        with pytest.raises(ValueError, match=message):
            make()


# --- Keras objects ---------------------------------------------------------------------------------------------------

OBJECTS = {
    "cross_entropy": lambda: losses.CrossEntropy(ignore=VOID),
    "weighted": lambda: losses.CrossEntropy(np.int64(VOID), class_weights=np.array([1, 2, 3, 4]), label_smoothing=0.1),
    "focal": lambda: losses.Focal(ignore=VOID, gamma=1.0),
    "hard_pixels": lambda: losses.HardPixels(ignore=VOID, share=0.5, class_weights=[1, 2, 3, 4]),
    "soft_dice": lambda: losses.SoftDice(ignore=VOID, smooth=1.0),
    "soft_jaccard": lambda: losses.SoftJaccard(ignore=VOID),
    "tversky": lambda: losses.Tversky(alpha=0.4, beta=0.6, ignore=VOID),
    "lovasz_softmax": lambda: losses.LovaszSoftmax(ignore=VOID, per_image=True),
    "sum": lambda: losses.WeightedSum([losses.CrossEntropy(ignore=VOID), losses.SoftDice(ignore=VOID)], [1.0, 0.5]),
}


def one_layer(policy=None, classes=4):
    inputs = keras.Input((None, None, 3))
    x = keras.layers.Conv2D(classes, 3, padding="same", dtype=policy)(inputs)
    return keras.Model(inputs, keras.layers.Activation("linear", dtype="float32")(x))


@pytest.mark.parametrize("key", OBJECTS)
def test_object_round_trip(key):
    labels, logits = example()
    loss = OBJECTS[key]()
    config = json.loads(json.dumps(keras.saving.serialize_keras_object(loss)))
    again = keras.saving.deserialize_keras_object(config)
    assert type(again) is type(loss)
    assert again.get_config() == loss.get_config()
    assert float(again(labels, logits)) == float(loss(labels, logits))


def test_objects_equal_functions():
    labels, logits = example()
    assert float(losses.Tversky(VOID, 0.4, 0.6)(labels, logits)) == float(
        losses.tversky(labels, logits, VOID, 0.4, 0.6)
    )
    weights = np.random.default_rng(1).random(labels.shape)
    np.testing.assert_allclose(
        float(losses.CrossEntropy(VOID)(labels, logits, weights)),
        plain_cross_entropy(labels, logits, sample_weight=weights),
        rtol=1e-6,
    )
    both = losses.WeightedSum([losses.CrossEntropy(VOID), losses.SoftDice(VOID)], [2.0, 0.5])
    expected = 2 * losses.cross_entropy(labels, logits, VOID) + 0.5 * losses.soft_dice(labels, logits, VOID)
    np.testing.assert_allclose(float(both(labels, logits)), float(expected), rtol=1e-6)
    with pytest.raises(ValueError, match="`sample_weight` must be None for SoftDice"):
        both(labels, logits, weights)


@pytest.mark.parametrize("key", ["weighted", "sum"])
def test_compiled_model_saves_and_loads(key, tmp_path):
    labels, _ = example(shape=(2, 8, 8))
    images = np.random.default_rng(0).random((2, 8, 8, 3)).astype("float32")
    model = one_layer()
    model.compile("sgd", loss=OBJECTS[key](), jit_compile=False)
    history = model.fit(images, labels, verbose=0, epochs=2).history["loss"]
    assert history[1] < history[0]
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    assert again.loss.get_config() == model.loss.get_config()
    assert again.evaluate(images, labels, verbose=0) == pytest.approx(model.evaluate(images, labels, verbose=0))


@pytest.mark.parametrize("jit", [False, True])
def test_fit_with_pixel_weights(jit):
    labels, _ = example(shape=(2, 8, 8))
    images = np.random.default_rng(0).random((2, 8, 8, 3)).astype("float32")
    weights = np.random.default_rng(1).random((2, 8, 8)).astype("float32")
    model = one_layer()
    model.compile("sgd", loss=losses.CrossEntropy(VOID), jit_compile=jit)
    expected = plain_cross_entropy(labels, np.asarray(model(images)), sample_weight=weights)
    history = model.fit(images, labels, sample_weight=weights, verbose=0).history
    np.testing.assert_allclose(history["loss"][0], expected, rtol=1e-5)


def test_mixed_float16_trains():
    labels = np.zeros((1, 512, 512), "int32")
    labels[:, 256:] = 1
    images = np.repeat(labels[..., None], 3, -1).astype("float32")
    model = one_layer("mixed_float16", classes=2)
    both = losses.WeightedSum([losses.CrossEntropy(), losses.SoftDice()])
    model.compile(keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.5)), loss=both, jit_compile=False)
    expected = losses.cross_entropy(labels, model(images)) + losses.soft_dice(labels, model(images))
    model.optimizer.inner_optimizer.learning_rate = 0.0
    history = model.fit(images, labels, verbose=0, epochs=1).history["loss"]
    np.testing.assert_allclose(history[0], float(expected), rtol=1e-4)


def test_unknown_sizes_in_a_graph():
    import tensorflow as tf

    for name in FUNCTIONS:
        function = getattr(losses, name)
        traced = tf.function(
            lambda labels, logits, f=function: f(labels, logits, ignore=VOID),
            input_signature=[tf.TensorSpec((None, None, None), tf.uint8), tf.TensorSpec((None, None, None, 4))],
        )
        for shape in ((2, 5, 7), (1, 3, 2)):
            labels, logits = example(shape=shape)
            np.testing.assert_allclose(
                float(traced(labels.astype("uint8"), logits)), PLAIN[name](labels, logits), rtol=2e-6
            )


@pytest.mark.slow
def test_replicas_divide_the_gradient():
    """Under tf.distribute the replicas' gradients are summed: each loss must be divided by their number."""
    script = """
import numpy as np, tensorflow as tf, keras
from kseg import losses, metrics
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
rng = np.random.default_rng(0)
images = rng.random((4, 8, 8, 3)).astype("float32"); labels = rng.integers(0, 3, (4, 8, 8))
def train():
    keras.utils.set_random_seed(1)
    inputs = keras.Input((8, 8, 3))
    model = keras.Model(inputs, keras.layers.Conv2D(3, 3, padding="same")(inputs))
    loss = losses.WeightedSum([losses.CrossEntropy(), losses.Focal()])
    model.compile(keras.optimizers.SGD(0.1), loss=loss, metrics=[metrics.ConfusionMatrix(3)], jit_compile=False)
    history = model.fit(images, labels, batch_size=4, epochs=2, shuffle=False, verbose=0).history
    return model.get_weights()[0], history
one, first = train()
with tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]).scope():
    two, second = train()
np.testing.assert_allclose(one, two, atol=1e-6)
np.testing.assert_allclose(first["loss"], second["loss"], rtol=1e-5)
np.testing.assert_allclose(first["mean_iou"], second["mean_iou"], rtol=1e-5)
"""
    run_python(script, "tensorflow")


# --- JAX -------------------------------------------------------------------------------------------------------------


def run_python(script, backend):
    """Run a script in a fresh interpreter with another Keras backend; returns what it printed."""
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    path = os.pathsep.join(filter(None, [root, os.path.join(root, "tests"), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "KERAS_BACKEND": backend, "JAX_PLATFORMS": "cpu", "PYTHONPATH": path}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.slow
def test_jax_gives_the_same_numbers():
    pytest.importorskip("jax")
    script = """
import json, jax, numpy as np
from test_losses import FUNCTIONS, OBJECTS, VOID, example, one_layer
from kseg import losses
labels, logits = example()
void = np.full_like(labels, VOID)
out = {}
for name in FUNCTIONS:
    f = getattr(losses, name)
    step = jax.jit(jax.value_and_grad(lambda x, y: f(y, x, ignore=VOID)))
    value, gradient = step(logits, labels)
    nothing, zero = step(logits, void)
    wrong, kept = step(logits, np.where(labels == VOID, 77, labels))
    assert float(nothing) == 0 and not np.asarray(zero).any(), name
    assert np.isnan(wrong) and np.allclose(kept, gradient, atol=1e-7), name
    out[name] = [float(value), np.asarray(gradient).ravel().tolist()]
labels, _ = example(shape=(2, 8, 8))
images = np.random.default_rng(0).random((2, 8, 8, 3)).astype("float32")
model = one_layer()
model.compile("sgd", loss=OBJECTS["sum"](), jit_compile=True)
assert np.isfinite(model.fit(images, labels, verbose=0).history["loss"][0])
model.compile("sgd", loss=losses.CrossEntropy(VOID))
history = model.fit(images, labels, sample_weight=np.ones((2, 8, 8)), verbose=0).history
assert np.isfinite(history["loss"][0])
print(json.dumps(out))
"""
    found = json.loads(run_python(script, "jax").splitlines()[-1])
    labels, logits = example()
    for name, (value, gradient) in found.items():
        function = getattr(losses, name)
        expected = value_and_gradient(lambda x, f=function: f(labels, x, ignore=VOID), logits)
        np.testing.assert_allclose(value, expected[0], rtol=1e-6)
        np.testing.assert_allclose(np.reshape(gradient, logits.shape), expected[1], atol=1e-6)
