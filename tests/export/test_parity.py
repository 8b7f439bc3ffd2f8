import itertools
import math

import numpy as np
import pytest

from kseg.export import TOLERANCES
from kseg.export.parity import Comparison

EXACT = TOLERANCES["float32"]


def _scores(seed=0):
    return np.random.default_rng(seed).normal(size=(6, 8, 4)).astype(np.float32)


def test_by_hand():
    comparison = Comparison()
    comparison.add([[[3.0, 4.0]]], [[[3.0, 4.5]]])
    comparison.add([[[0.0, 0.0]]], [[[1.0, 0.0]]])
    assert comparison.images == 2
    assert comparison.max_abs_error == 1.0
    assert comparison.relative_rms_error == pytest.approx(math.sqrt(1.25 / 25))
    assert comparison.argmax_agreement == 1.0


@pytest.mark.parametrize(("threshold", "agreement"), [(0.0, 1.0), (0.5, 0.75)])
def test_one_class_is_split_at_the_threshold(threshold, agreement):
    comparison = Comparison(threshold)
    comparison.add([[[0.1], [0.4], [0.6], [0.9]]], [[[0.2], [0.6], [0.7], [0.8]]])
    assert comparison.argmax_agreement == agreement


def test_equal_scores_pass_every_tolerance():
    comparison = Comparison()
    comparison.add(_scores(), _scores())
    comparison.add(np.zeros((2, 2, 4)), np.zeros((2, 2, 4)))  # an untrained network's zeros
    assert not any(comparison.failures(tolerance) for tolerance in TOLERANCES.values())


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("side", [0, 1])
@pytest.mark.parametrize("later", [0, 1])
def test_what_is_no_number_fails_every_tolerance(value, side, later):
    comparison, pair = Comparison(), [_scores(), _scores()]
    pair[side][3, 3, 1] = value
    images = [pair, [_scores(1), _scores(1)]]
    for reference, found in images[::-1] if later else images:
        comparison.add(reference, found)
    assert all(comparison.failures(tolerance) for tolerance in TOLERANCES.values())


@pytest.mark.parametrize(
    ("broken", "named"),
    [
        (lambda s: s + 0.05, "max_abs_error"),
        (lambda s: s * 1.01, "relative_rms_error"),
        (lambda s: s[..., [1, 0, 2, 3]], "argmax_agreement"),
        (np.zeros_like, "argmax_agreement"),
    ],
)
def test_a_difference_is_named(broken, named):
    comparison = Comparison()
    comparison.add(_scores(), broken(_scores()))
    assert any(failure.startswith(named) for failure in comparison.failures(EXACT))


def test_tolerances_loosen_with_the_precision():
    order = [TOLERANCES[name] for name in ("float32", "float16", "dynamic", "int8")]
    for tight, loose in itertools.pairwise(order):
        assert tight.max_abs_error < loose.max_abs_error
        assert tight.relative_rms_error < loose.relative_rms_error
        assert tight.argmax_agreement > loose.argmax_agreement
        assert tight.mean_iou_drop < loose.mean_iou_drop
