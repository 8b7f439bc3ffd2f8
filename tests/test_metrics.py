"""Metrics: hand-worked masks, an independent NumPy version, exact large counts, compile and fit, both backends."""

import json
import math

import keras
import numpy as np
import pytest
from test_losses import example, one_layer, run_python

from kseg import losses
from kseg.metrics import ConfusionMatrix, MeanIoU, PixelAccuracy, confusion_matrix, first_largest, scores

VOID = 255
KEYS = ["pixel_accuracy", "mean_accuracy", "mean_iou", "frequency_weighted_iou", "mean_dice"]

# Keras on TensorFlow saves its variables in a way that NumPy 2 warns of.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")

# Truth and prediction, worked by hand below. Class 2 is predicted but never true, class 3 is neither.
TRUTH = np.array([[[0, 0, 0, VOID], [1, 1, 0, VOID]]])
FOUND = np.array([[[0, 0, 1, 3], [1, 2, 0, 0]]])
COUNTS = [[3, 1, 0, 0], [0, 1, 1, 0], [0, 0, 0, 0], [0, 0, 0, 0]]


def plain_scores(labels, predictions, classes):
    """With sets of pixels, class by class."""
    kept = labels != VOID
    labels, predictions = labels[kept], predictions[kept]
    iou, dice, accuracy, weighted = [], [], [], 0.0
    for c in range(classes):
        true, found = set(np.flatnonzero(labels == c)), set(np.flatnonzero(predictions == c))
        if true | found:
            iou.append(len(true & found) / len(true | found))
            dice.append(2 * len(true & found) / (len(true) + len(found)))
        if true:
            accuracy.append(len(true & found) / len(true))
            weighted += len(true) / len(labels) * iou[-1]
    values = [np.mean(labels == predictions), np.mean(accuracy), np.mean(iou), weighted, np.mean(dice)]
    return dict(zip(KEYS, values, strict=True))


def floats(result):
    return {key: float(value) for key, value in result.items()}


# --- NumPy -----------------------------------------------------------------------------------------------------------


def test_hand_worked():
    confusion = confusion_matrix(TRUTH, FOUND, 4, ignore=VOID)
    assert confusion.dtype == np.int64
    assert confusion.tolist() == COUNTS
    found = scores(confusion)
    np.testing.assert_allclose(found["iou"], [3 / 4, 1 / 3, 0, np.nan])
    np.testing.assert_allclose(found["dice"], [6 / 7, 1 / 2, 0, np.nan])
    np.testing.assert_allclose(found["accuracy"], [3 / 4, 1 / 2, np.nan, np.nan])
    expected = [4 / 6, (3 / 4 + 1 / 2) / 2, (3 / 4 + 1 / 3) / 3, (4 * 3 / 4 + 2 / 3) / 6, (6 / 7 + 1 / 2) / 3]
    for key, value in zip(KEYS, expected, strict=True):
        assert isinstance(found[key], float)
        assert found[key] == pytest.approx(value)


def test_perfect_and_empty():
    found = scores(confusion_matrix(TRUTH, np.where(TRUTH == VOID, 9, TRUTH), 4, VOID))
    assert all(found[key] == 1.0 for key in KEYS)
    found = scores(confusion_matrix(np.full((2, 3), VOID), np.zeros((2, 3), int), 4, VOID))
    assert all(math.isnan(found[key]) for key in KEYS)
    assert np.isnan(found["iou"]).all()


def test_equals_plain_numpy():
    for seed in range(3):
        labels, logits = example(seed, (2, 9, 8), classes=6)
        predictions = logits.argmax(-1)
        found = scores(confusion_matrix(labels, predictions, 6, VOID))
        for key, value in plain_scores(labels, predictions, 6).items():
            assert found[key] == pytest.approx(value), key


def test_small_integer_types_do_not_wrap():
    labels = np.full((4, 4), 20, np.uint8)
    assert confusion_matrix(labels, labels, 21, VOID)[20, 20] == 16
    assert confusion_matrix(labels.astype(np.int8), labels.astype(np.uint16), 21, VOID)[20, 20] == 16


def test_numpy_errors():
    ok = np.zeros((2, 2), int)
    for labels, predictions, message in [
        (ok + 4, ok, r"`labels` must be 0\.\.3, or ignore=255 in the labels\. Received: \[4\]"),
        (ok - 1, ok, "`labels` must be"),
        (ok, ok + 255, "`predictions` must be"),
        (ok, ok[:1], "must have the same shape"),
        (ok + 0.5, ok, "`labels` must be integers"),
        (ok, ok == 0, "`predictions` must be integers"),
    ]:
        with pytest.raises(ValueError, match=message):
            confusion_matrix(labels, predictions, 4, VOID)
    with pytest.raises(ValueError, match="`ignore` must lie outside"):
        confusion_matrix(ok, ok, 4, ignore=3)
    with pytest.raises(ValueError, match="`confusion` must be a square matrix"):
        scores(np.zeros((3, 4)))


# --- the Keras metrics -----------------------------------------------------------------------------------------------


def test_metric_streams_over_batches():
    metric = ConfusionMatrix(6, ignore=VOID)
    batches = [example(seed, (2, 9, 8), classes=6) for seed in range(3)]
    for labels, logits in batches:
        metric.update_state(labels, logits)
    labels = np.concatenate([labels for labels, _ in batches])
    predictions = np.concatenate([logits for _, logits in batches]).argmax(-1)
    assert metric.matrix().tolist() == confusion_matrix(labels, predictions, 6, VOID).tolist()
    result = metric.result()
    assert list(result) == KEYS
    assert floats(result) == pytest.approx(plain_scores(labels, predictions, 6), rel=1e-6)
    metric.reset_state()
    assert not metric.matrix().any()
    assert all(math.isnan(value) for value in floats(metric.result()).values())


def test_metric_input_formats():
    for labels in (TRUTH, TRUTH[..., None], TRUTH.astype("uint8"), TRUTH.astype("float32")):
        for found in (FOUND, FOUND[..., None], FOUND.astype("uint8"), np.eye(4, dtype="float16")[FOUND]):
            metric = ConfusionMatrix(4, VOID)
            metric.update_state(labels, found)
            assert metric.matrix().tolist() == COUNTS


def test_argmax_of_any_logits():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(2, 40, 50, 7)).astype("float32") * 10.0 ** rng.integers(-40, 38, (2, 40, 50, 1))
    logits[0, 0, 0] = [-np.inf, -1, -1, -2, -1e-45, -np.inf, -3]
    logits[0, 0, 1] = [-5, -3, -3, -4, -np.inf, -9, -3]  # a tie: the first
    logits[0, 0, 2] = [0, 0, 1e-45, 0, -1, np.inf, 3e38]
    logits[0, 0, 3] = 0
    logits[0, 0, 4] = [-0.0, -1, 0.0, -0.0, -1e-45, -2, -3]  # one number, too
    logits[0, 0, 5] = [-1e-45, 0.0, -0.0, 0, -1, -2, -3]
    logits = logits.astype("float32")
    np.testing.assert_array_equal(np.asarray(first_largest(logits)), logits.argmax(-1))


def test_rules_in_the_graph_equal_numpy():
    metric = ConfusionMatrix(4, VOID, names=["sky", "road", "car", "tree"])
    metric.update_state(TRUTH, FOUND)
    found, expected = floats(metric.result()), scores(np.array(COUNTS))
    assert {key: found[key] for key in KEYS} == pytest.approx({key: expected[key] for key in KEYS}, rel=1e-6)
    per_class = [found[f"iou_{name}"] for name in ("sky", "road", "car", "tree")]
    np.testing.assert_allclose(per_class, expected["iou"], rtol=1e-6)


def test_counts_beyond_int32_are_exact():
    metric = ConfusionMatrix(2, VOID)
    # 2**33 + 2**24 - 3 right pixels of class 0 and 2**31 + 5 wrong ones, put in as words of 24 bits
    counts = np.zeros((2, 5), "int32")
    counts[:, 0] = [2**24 - 3, 2**9]
    counts[:, 1] = [5, 2**7]
    metric.counts.assign(counts)
    metric.update_state(np.zeros((1, 4, 4), int), np.zeros((1, 4, 4), int))  # carries from the low to the high word
    metric.update_state(np.zeros((1, 2, 2), int), np.ones((1, 2, 2), int))
    assert metric.matrix().tolist() == [[2**33 + 2**24 + 13, 2**31 + 9], [0, 0]]
    exact = scores(metric.matrix())
    assert floats(metric.result()) == pytest.approx({key: exact[key] for key in KEYS}, rel=1e-6)


@pytest.mark.parametrize(
    ("labels", "predictions"),
    [(4, 0), (-1, 0), (0, 4), (0, VOID), (0.5, 0), (float("nan"), 0), (2**32, 0)],
)
def test_wrong_values_do_not_pass_in_silence(labels, predictions):
    metric = ConfusionMatrix(4, VOID)
    metric.update_state(TRUTH, FOUND)
    metric.update_state(np.full((1, 1, 1), labels), np.full((1, 1, 1), predictions))
    assert all(math.isnan(value) for value in floats(metric.result()).values())
    with pytest.raises(ValueError, match="1 pixels that are neither"):
        metric.matrix()


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_scores_that_are_not_finite_are_no_class(wrong):
    logits = np.eye(3, dtype="float32")[np.zeros((1, 4, 4), int)]
    logits[0, 1, 2, 1] = wrong
    metric = ConfusionMatrix(3, VOID)
    metric.update_state(np.zeros((1, 4, 4), int), logits)
    assert all(math.isnan(value) for value in floats(metric.result()).values())
    ignored = np.zeros((1, 4, 4), int)
    ignored[0, 1, 2] = VOID
    metric.reset_state()
    metric.update_state(ignored, logits)
    assert metric.matrix()[0].tolist() == [15, 0, 0]


def test_metric_errors():
    metric = ConfusionMatrix(4, VOID)
    with pytest.raises(ValueError, match="`sample_weight` must be None"):
        metric.update_state(TRUTH, FOUND, np.ones((1, 2, 4)))
    for predictions in (np.zeros((1, 2, 4, 5), "float32"), np.zeros((1, 2, 4), "float32"), FOUND[:, :1]):
        with pytest.raises(ValueError, match="`labels` must be"):
            metric.update_state(TRUTH, predictions)
    with pytest.raises(ValueError, match="`names` must hold"):
        ConfusionMatrix(4, names=["a"])
    with pytest.raises(ValueError, match="`ignore` must lie outside"):
        MeanIoU(4, ignore=0)
    with pytest.raises(ValueError, match="`classes` must be"):
        PixelAccuracy(0)


def test_single_numbers_and_round_trip():
    for metric, key in [
        (MeanIoU(4, VOID), "mean_iou"),
        (PixelAccuracy(4, np.int64(VOID), name="right"), "pixel_accuracy"),
        (ConfusionMatrix(4, VOID, names=("a", "b", "c", "d"), name="all"), None),
    ]:
        config = json.loads(json.dumps(keras.saving.serialize_keras_object(metric)))
        again = keras.saving.deserialize_keras_object(config)
        assert type(again) is type(metric)
        assert again.get_config() == metric.get_config()
        for copy in (metric, again):
            copy.update_state(TRUTH, FOUND)
            if key:
                assert float(copy.result()) == pytest.approx(scores(np.array(COUNTS))[key])


def test_unknown_sizes_in_a_graph():
    import tensorflow as tf

    metric = ConfusionMatrix(4, VOID)
    update = tf.function(
        metric.update_state,
        input_signature=[tf.TensorSpec((None, None, None), tf.int32), tf.TensorSpec((None, None, None, 4))],
    )
    for height in (2, 3):
        labels, logits = example(height, (1, height, 7))
        update(labels, logits)
    assert metric.matrix().sum() == sum((example(h, (1, h, 7))[0] != VOID).sum() for h in (2, 3))


@pytest.mark.parametrize("jit", [False, True])
def test_fit_logs_scores_over_the_whole_set(jit, tmp_path):
    labels, _ = example(shape=(5, 8, 8))
    images = np.random.default_rng(0).random((5, 8, 8, 3)).astype("float32")
    model = one_layer()
    metrics = [ConfusionMatrix(4, VOID), PixelAccuracy(4, VOID, name="right")]
    model.compile("sgd", loss=losses.CrossEntropy(VOID), metrics=metrics, jit_compile=jit)
    stop = keras.callbacks.EarlyStopping("val_mean_iou", mode="max", patience=9, restore_best_weights=True)
    history = model.fit(
        images, labels, batch_size=2, epochs=2, verbose=0, validation_data=(images, labels), callbacks=[stop]
    ).history
    assert {"mean_iou", "right", *(f"val_{key}" for key in KEYS)} <= set(history)
    found = model.evaluate(images, labels, batch_size=2, verbose=0, return_dict=True)  # the last batch is smaller
    expected = plain_scores(labels, np.asarray(model(images)).argmax(-1), 4)
    assert {key: found[key] for key in KEYS} == pytest.approx(expected, rel=1e-6)
    assert found["right"] == found["pixel_accuracy"]
    if not jit:
        model.save(tmp_path / "model.keras")
        again = keras.models.load_model(tmp_path / "model.keras")
        assert again.evaluate(images, labels, batch_size=2, verbose=0, return_dict=True) == pytest.approx(found)


@pytest.mark.slow
def test_jax_gives_the_same_numbers():
    pytest.importorskip("jax")
    script = """
import jax, json, numpy as np
import test_metrics as t
from test_losses import example, one_layer
from kseg import losses
from kseg.metrics import ConfusionMatrix
t.test_metric_streams_over_batches()
t.test_argmax_of_any_logits()
t.test_rules_in_the_graph_equal_numpy()
t.test_counts_beyond_int32_are_exact()
t.test_wrong_values_do_not_pass_in_silence(float("nan"), 0)
metric = ConfusionMatrix(4, 255)
step = jax.jit(metric.stateless_update_state)
state = [v.value for v in metric.variables]
for seed in range(2):
    state = step(state, *example(seed))
metric.counts.assign(state[0])
labels, _ = example(shape=(5, 8, 8))
images = np.random.default_rng(0).random((5, 8, 8, 3)).astype("float32")
model = one_layer()
model.compile("sgd", loss=losses.CrossEntropy(255), metrics=[ConfusionMatrix(4, 255)], jit_compile=True)
history = model.fit(images, labels, batch_size=2, verbose=0, validation_data=(images, labels)).history
expected = t.plain_scores(labels, np.asarray(model(images)).argmax(-1), 4)
for key in t.KEYS:
    assert abs(history["val_" + key][0] - expected[key]) < 1e-6, key
print(json.dumps([metric.matrix().tolist(), t.floats(metric.result())]))
"""
    counts, values = json.loads(run_python(script, "jax").splitlines()[-1])
    metric = ConfusionMatrix(4, VOID)
    for seed in range(2):
        metric.update_state(*example(seed))
    assert metric.matrix().tolist() == counts
    assert floats(metric.result()) == pytest.approx(values, rel=1e-6)
