from types import SimpleNamespace

import keras
import numpy as np
import pytest
from delicate import LABELS, SIZE, delicate_network, pairs

import kseg.export.sensitivity as module
from kseg.export import Calibration
from kseg.export.scoring import Maker, Score, score_keras
from kseg.export.sensitivity import Cost, sensitivity, table
from kseg.lowering import lower_with_ranges


def _maker(network, folder):
    calibration = Calibration(tuple(image for image, _ in pairs(4, seed=8)))
    return Maker(lower_with_ranges(network, SIZE), LABELS, calibration, folder)


@pytest.fixture(scope="module")
def maker(tmp_path_factory):
    return _maker(delicate_network(), tmp_path_factory.mktemp("files"))


@pytest.fixture(scope="module")
def reference():
    return score_keras(lower_with_ranges(delicate_network(), SIZE).model, LABELS, pairs())


def test_the_delicate_layer_comes_first_and_costs_mean_iou(maker, reference):
    assert reference.mean_iou == 1
    costs = sensitivity(maker, pairs(), reference)
    assert costs[0].layer == "delicate"
    assert sorted(cost.layer for cost in costs) == ["copy", "delicate", "score"]
    assert costs[0].mean_iou_drop > 0.3
    assert costs[0].relative_rms_error > 0.25
    for cost in costs[1:]:
        assert -0.001 < cost.mean_iou_drop < 0.02
        assert 0 < cost.relative_rms_error < 0.02


def test_the_network_is_left_as_it_is(maker, reference):
    before = maker.make("before", "float32")[0], maker.make("before8", "int8")[0]
    sensitivity(maker, pairs(1), reference)
    after = maker.make("after", "float32")[0], maker.make("after8", "int8")[0]
    image = pairs(1)[0][0].astype(np.float32)
    for one, other in zip(before, after, strict=True):
        np.testing.assert_array_equal(one.at_size(image), other.at_size(image))


def test_a_layer_that_is_used_twice_counts_once(tmp_path):
    image = keras.Input((*SIZE, 3))
    keras.utils.set_random_seed(1)
    twice = keras.layers.Conv2D(3, 3, padding="same", name="twice")
    network = keras.Model(image, keras.layers.Conv2D(2, 1, name="score")(twice(twice(image))))
    maker, seen = _maker(network, tmp_path), []
    reference = score_keras(lower_with_ranges(network, SIZE).model, LABELS, pairs(1))
    costs = sensitivity(maker, pairs(1), reference, lambda layers: seen.extend(layers) or layers)
    assert sorted(seen) == sorted(cost.layer for cost in costs) == ["score", "twice"]


def test_a_layer_without_filter_is_not_measured(tmp_path):
    image = keras.Input((*SIZE, 3))
    x = keras.layers.Conv2D(2, 1, name="score")(keras.layers.UpSampling2D()(keras.layers.MaxPooling2D()(image)))
    network = keras.Model(image, x)
    reference = score_keras(lower_with_ranges(network, SIZE).model, LABELS, pairs(1))
    assert [cost.layer for cost in sensitivity(_maker(network, tmp_path), pairs(1), reference)] == ["score"]


def test_differences_within_the_noise_are_ordered_by_the_scores(monkeypatch):
    measured = {  # layer: (mean IoU, change of the scores)
        "better": (0.82, 0.9),
        "noise_large": (0.7998, 0.3),
        "noise_small": (0.7997, 0.2),
        "dear": (0.6, 0.1),
        "dearer": (0.5, 0.05),
        "nothing": (0.8, 0.0),
    }
    monkeypatch.setattr(module, "tflite", SimpleNamespace(layer_names=list, layers_with_filters=list))
    queue = iter(measured.values())

    def next_score(*_):
        mean_iou, change = next(queue)
        return Score(mean_iou, [], change)

    kept = []

    def make(name, precision, float_layers, input_dtype):
        kept.append(float_layers)
        return None, 0

    monkeypatch.setattr(module, "score", next_score)
    fake = SimpleNamespace(int8_source=list(measured), make=make)
    costs = sensitivity(fake, [], Score(0.8, []))
    # A gain is no cost: "better" counts as 0 and stands by its change of the scores.
    assert [cost.layer for cost in costs] == ["dearer", "dear", "better", "noise_large", "noise_small", "nothing"]
    assert costs[0].mean_iou_drop == pytest.approx(0.3)
    assert costs[2].mean_iou_drop == pytest.approx(-0.02)
    for layer, others in zip(measured, kept, strict=True):
        assert set(others) == set(measured) - {layer}, "all layers but one stay in float"


def test_table():
    headings, rows = table([Cost("a", 0.25, 1.5), Cost("b", -0.00126, 0.00004)])
    assert len(headings) == 3
    assert rows == [("a", "+0.2500", "1.5000"), ("b", "-0.0013", "0.0000")]
