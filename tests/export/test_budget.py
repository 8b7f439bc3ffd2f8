import json
import os
import tempfile

import keras
import numpy as np
import pytest
from delicate import LABELS, SIZE, delicate_network, pairs

import kseg.export.budget as budget
from kseg import runtime
from kseg.errors import CheckError, InputError
from kseg.export import BudgetError, Calibration, ParityError, export_best, search
from kseg.export.budget import Candidate, Search
from kseg.export.sensitivity import Cost
from kseg.labels import LabelSet
from kseg.lowering import Lowered


@pytest.fixture(scope="module")
def calibration():
    return Calibration(tuple(image for image, _ in pairs(4, seed=8)), "smooth pictures")


@pytest.fixture(scope="module")
def network():
    return delicate_network()


@pytest.fixture(scope="module")
def found(network, calibration):
    return search(network, LABELS, SIZE, calibration, pairs())


def _candidate(name, size_mb=1.0, latency_ms=1.0, drop=0.0, precision="int8", mean_iou=None):
    mean_iou = 0.8 - drop if mean_iou is None else mean_iou
    return Candidate(name, precision, (), size_mb, latency_ms, mean_iou, drop, 1.0)


def _search(*candidates):
    return Search(0.8, candidates, ())


# ---- the choice


SMALL = _candidate("small", size_mb=1, latency_ms=9, drop=0.1)
FAST = _candidate("fast", size_mb=3, latency_ms=2, drop=0.01)
MIDDLE = _candidate("middle", size_mb=2, latency_ms=5, drop=0.01)
GOOD = _candidate("good", size_mb=4, latency_ms=8, drop=-0.02)


@pytest.mark.parametrize(
    ("max_drop", "target", "expected"),
    [
        (1, "size", "small"),
        (0.1, "size", "small"),
        (0.0999, "size", "middle"),
        (0.1, "latency", "fast"),
        (0.005, "size", "good"),
        (0.005, "latency", "good"),
        (0, "size", "good"),
    ],
)
def test_the_smallest_or_fastest_within_the_budget(max_drop, target, expected):
    for candidates in ([SMALL, FAST, MIDDLE, GOOD], [GOOD, MIDDLE, FAST, SMALL]):
        assert _search(*candidates).best(max_drop, target).name == expected


def test_nothing_within_the_budget():
    assert _search(SMALL, FAST).best(0.005, "size") is None
    assert _search().best(1, "latency") is None


def test_what_is_not_a_number_is_never_within_the_budget():
    broken = _candidate("broken", size_mb=0.1, drop=np.nan, mean_iou=np.nan)
    for candidates in ([broken, SMALL], [SMALL, broken]):
        assert _search(*candidates).best(1, "size").name == "small"
    assert _search(broken).best(1, "size") is None


def test_the_yardstick_is_not_chosen():
    yardstick = _candidate("float32", size_mb=0.1, latency_ms=0.1, precision="float32")
    assert _search(yardstick).best(1, "size") is None
    assert _search(yardstick, SMALL).best(1, "latency").name == "small"


def test_of_two_equally_small_the_better_is_chosen():
    worse, better = _candidate("worse", drop=0.02), _candidate("better", drop=0.01)
    for candidates in ([worse, better], [better, worse]):
        assert _search(*candidates).best(0.05, "size").name == "better"


@pytest.mark.parametrize("max_drop", [-0.001, 1.5, float("nan"), float("inf")])
def test_a_budget_that_is_none(max_drop):
    with pytest.raises(InputError, match="a number from 0 to 1. Received: "):
        _search(SMALL).best(max_drop, "size")


def test_an_unknown_target(network, calibration):
    with pytest.raises(InputError, match="`target` must be one of size, latency. Received: speed"):
        _search(SMALL).best(0.5, "speed")
    with pytest.raises(InputError, match="`target` must be one of size, latency. Received: speed"):
        search(network, LABELS, SIZE, calibration, pairs(), target="speed")


@pytest.mark.parametrize(
    ("target", "best"),
    [("size", ["small", "middle", "good"]), ("latency", ["fast", "good"])],
)
def test_best_in_kind_by_hand(target, best):
    marked = list(budget._mark_best([SMALL, FAST, MIDDLE, GOOD], target))
    assert [one.name for one in marked] == ["small", "fast", "middle", "good"]
    assert [one.name for one in marked if one.best_in_kind] == best


@pytest.mark.parametrize(
    ("candidates", "best"),
    [
        # as good and as small: neither beats the other
        ([_candidate("one"), _candidate("other")], ["one", "other"]),
        # as good, but larger; as small, but worse
        ([_candidate("one"), _candidate("larger", size_mb=2), _candidate("worse", drop=0.1)], ["one"]),
        ([_candidate("nan", size_mb=0.1, drop=np.nan, mean_iou=np.nan), _candidate("one")], ["one"]),
        ([_candidate("alone")], ["alone"]),
        ([], []),
    ],
)
def test_best_in_kind_in_special_cases(candidates, best):
    assert [one.name for one in budget._mark_best(candidates, "size") if one.best_in_kind] == best


def test_table_and_json():
    whole = Search(0.8, tuple(budget._mark_best([SMALL, FAST], "latency")), (Cost("score", 0.1, 0.2),), {"a": "why"})
    headings, rows = whole.table()
    assert rows[0] == ("small", "1.000", "9.0", "0.7000", "+0.1000", "1.0000", "")
    assert rows[1][-1] == "*"
    assert all(len(row) == len(headings) for row in rows)
    plain = json.loads(json.dumps(whole.to_dict(), allow_nan=False))
    assert plain["candidates"][0]["mean_iou_drop"] == 0.1
    assert plain["costs"] == [{"layer": "score", "mean_iou_drop": 0.1, "relative_rms_error": 0.2}]
    assert plain["skipped"] == {"a": "why"}


# ---- the search


def test_every_precision_is_tried(found):
    by_name = {one.name: one for one in found.candidates}
    assert list(by_name) == ["float32", "float16", "dynamic", "int8", "int8_1_in_float", "int8_2_in_float", "int16x8"]
    assert found.mean_iou == 1
    assert by_name["float32"].mean_iou_drop == 0
    for one in found.candidates:
        assert one.mean_iou_drop == pytest.approx(found.mean_iou - one.mean_iou)
        assert 0 < one.size_mb < 0.1
        assert 0 < one.latency_ms < 1000
        assert 0 <= one.argmax_agreement <= 1
    assert not found.skipped


def test_a_delicate_layer_in_float_wins_back_what_8_bits_lose(found):
    by_name = {one.name: one for one in found.candidates}
    assert found.costs[0].layer == "delicate"
    assert by_name["int8"].mean_iou_drop > 0.3
    assert by_name["int8"].argmax_agreement < 0.7
    assert by_name["int8_1_in_float"].float_layers == ("delicate",)
    assert by_name["int8_1_in_float"].mean_iou_drop < 0.02
    assert by_name["int8_2_in_float"].float_layers == tuple(cost.layer for cost in found.costs[:2])
    assert found.best(0.02, "size").name not in ("int8", "dynamic", "int16x8")


def test_progress_tells_what_is_gone_through(network, calibration, monkeypatch):
    monkeypatch.setattr(budget, "_ROUNDS", 1)
    told = []
    search(network, LABELS, SIZE, calibration, pairs(1), progress=lambda items, title: told.append(title) or items)
    assert told == ["sensitivity", "candidates"]


def test_nothing_is_left_behind(network, calibration, monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(budget, "_ROUNDS", 1)
    search(network, LABELS, SIZE, calibration, pairs(1))
    assert not os.listdir(tmp_path)

    def interrupted(*_):
        assert os.listdir(tmp_path)
        raise KeyboardInterrupt

    monkeypatch.setattr(budget, "_latencies", interrupted)
    with pytest.raises(KeyboardInterrupt):
        search(network, LABELS, SIZE, calibration, pairs(1))
    assert not os.listdir(tmp_path)


def test_a_file_that_cannot_be_scored_is_left_out(calibration):
    # In half precision the weight becomes infinite, and infinity times 0 is not a number.
    found = search(delicate_network(largest=1e5, gain=10.0), LABELS, SIZE, calibration, pairs())
    assert found.skipped == {"float16": "float16.tflite: computes scores that are not numbers"}
    names = [one.name for one in found.candidates]
    assert "float16" not in names
    assert {"float32", "dynamic", "int8", "int8_1_in_float", "int16x8"} <= set(names)
    assert all(np.isfinite([one.mean_iou, one.latency_ms]).all() for one in found.candidates)


def test_a_file_that_is_far_too_slow_is_left_out(network, calibration, monkeypatch):
    monkeypatch.setattr(budget, "_ROUNDS", 1)
    seconds = {"float32": 0.01}
    monkeypatch.setattr(
        budget, "_seconds", lambda predictor, size_px: seconds.get(predictor.card.precision, seconds["other"])
    )
    for seconds["other"], left_out in ((1.1, True), (0.9, False)):
        found = search(network, LABELS, SIZE, calibration, pairs(1))
        assert ("int16x8" in found.skipped) is left_out
    seconds |= {"float32": 0.0001, "other": 0.1}  # a thousand times slower, and fast all the same
    assert not search(network, LABELS, SIZE, calibration, pairs(1)).skipped


def test_latencies_tell_slow_from_fast():
    class Waiting:
        def __init__(self, seconds):
            self._seconds = seconds

        def at_size(self, image):
            assert image.shape == (4, 6, 3)
            budget.time.sleep(self._seconds)

    fast, slow = budget._latencies([Waiting(0.001), Waiting(0.004)], (4, 6))
    assert 1 <= fast < slow
    assert 4 <= slow < 1000  # milliseconds


def test_mistakes(network, calibration):
    given = pairs(2)
    with pytest.raises(InputError, match="no labelled images to score the files with"):
        search(network, LABELS, SIZE, calibration, [])
    shared = Calibration((*calibration.images, given[1][0]))
    with pytest.raises(InputError, match="among those for calibration"):
        search(network, LABELS, SIZE, shared, given)
    with pytest.raises(InputError, match="red: has 2 classes, the label set 3"):
        search(network, LabelSet.numbered(3, ignore=255), SIZE, calibration, given)
    with pytest.raises(InputError, match="no pixel of the images"):
        search(network, LABELS, SIZE, calibration, [(image, np.full_like(label, 255)) for image, label in given])


def test_a_network_that_computes_what_is_no_number(calibration):
    image = keras.Input((None, None, 3))
    network = keras.Model(image, keras.ops.log(keras.layers.Conv2D(2, 1)(image) * 0 - 1), name="lost")
    with pytest.raises(CheckError, match="lost: computes scores that are not numbers"):
        search(network, LABELS, SIZE, calibration, pairs(1))


# ---- the file that is kept


def _export(network, found, path, calibration, **changes):
    given = {"max_drop": 0.02, "target": "size", "size_px": SIZE, "calibration": calibration, "pairs": pairs()}
    return export_best(network, LABELS, found, path, **{**given, "data": "smooth pictures", **changes})


@pytest.mark.parametrize("name", ["int8_1_in_float", "float16"])
def test_the_file_kept_is_the_one_that_was_measured(network, found, calibration, tmp_path, name):
    only = Search(found.mean_iou, tuple(one for one in found.candidates if one.name == name), found.costs)
    best, card = _export(network, only, tmp_path / "kept.tflite", calibration)
    assert best.name == name
    assert sorted(os.listdir(tmp_path)) == ["kept.tflite", "kept.tflite.json"]
    assert runtime.load(tmp_path / "kept.tflite").card == card
    assert card.precision == best.precision
    assert card.parity["mean_iou_file"] == pytest.approx(best.mean_iou, abs=1e-9)
    assert card.parity["argmax_agreement"] == pytest.approx(best.argmax_agreement, abs=1e-9)
    assert card.parity["data"] == "smooth pictures"


def test_a_network_that_was_trained_for_8_bits(network, calibration, monkeypatch):
    """The scores' trained range ends at 0.4, so that Keras never says "bright"; calibration would mend that."""

    def with_ranges(*given, real=budget.lower_with_ranges):
        lowered = real(*given)
        return Lowered(lowered.model, [(lowered.model.outputs[0], (0.0, 0.4))])

    def rounded(model, size_px, keep_rounding=False, real=budget.lower):
        plain = real(model, size_px)
        if not keep_rounding:
            return plain
        return keras.Model(plain.inputs[0], keras.ops.clip(plain.outputs[0], 0.0, 0.4), name="rounded")

    monkeypatch.setattr(budget, "lower_with_ranges", with_ranges)
    monkeypatch.setattr(budget, "lower", rounded)
    found = search(delicate_network(largest=2.0), LABELS, SIZE, calibration, pairs())
    by_name = {one.name: one for one in found.candidates}
    assert found.mean_iou < 0.5
    assert by_name["int8"].argmax_agreement > 0.95
    assert by_name["int8"].mean_iou == pytest.approx(found.mean_iou, abs=0.02)
    assert by_name["float16"].mean_iou > 0.95  # no rounding, no ranges
    assert by_name["float16"].mean_iou_drop < -0.4
    # What a layer costs is measured against the float network, whose mean IoU is 1.
    assert next(cost for cost in found.costs if cost.layer == "score").mean_iou_drop > 0.4


def test_nothing_fits_and_nothing_is_written(network, found, calibration, tmp_path):
    lossy = [one for one in found.candidates if one.name in ("float32", "dynamic", "int8")]
    least = min(lossy[1:], key=lambda one: one.mean_iou_drop)
    nan = _candidate("broken", drop=np.nan, mean_iou=np.nan)
    few = Search(found.mean_iou, (nan, *lossy), found.costs)
    with pytest.raises(BudgetError) as error:
        _export(network, few, tmp_path / "deeper" / "kept.tflite", calibration, max_drop=0.005)
    assert "no quantised file loses at most 0.005 of mean IoU 1.0000" in str(error.value)
    assert f"the best, {least.name}, loses {least.mean_iou_drop:.4g}" in str(error.value)
    assert not os.listdir(tmp_path)
    with pytest.raises(BudgetError, match="none of the quantised files could be scored"):
        _export(network, _search(nan), tmp_path / "kept.tflite", calibration)


def test_an_older_file_stays(network, calibration, tmp_path):
    (tmp_path / "kept.tflite").write_text("old")
    with pytest.raises(BudgetError):
        _export(network, _search(SMALL), tmp_path / "kept.tflite", calibration)
    assert (tmp_path / "kept.tflite").read_text() == "old"


def test_a_file_that_fails_the_check_is_passed_over(network, found, calibration, tmp_path, monkeypatch):
    """Its mean IoU is within the budget, its scores are not within the tolerance."""
    exported, told = [], []

    def refuses_int8(*given, precision, **more):
        exported.append(precision)
        if precision == "int8":
            raise ParityError("differs from the Keras model")
        return "card"

    monkeypatch.setattr(budget, "export", refuses_int8)
    some = _search(_candidate("int8"), _candidate("float16", size_mb=2, precision="float16"))
    best, card = _export(network, some, tmp_path / "kept.tflite", calibration, tell=told.append)
    assert (best.name, card) == ("float16", "card")
    assert exported == ["int8", "float16"]
    assert told == ["int8: within the budget, but refused: differs from the Keras model"]
    with pytest.raises(BudgetError, match="none of the 1 files within the budget of 0.02 passed the check; int8: "):
        _export(network, _search(_candidate("int8")), tmp_path / "kept.tflite", calibration)


def test_the_budget_is_looked_at_before_anything_is_written(network, found, calibration, tmp_path):
    for max_drop in (float("nan"), -1):
        with pytest.raises(InputError, match="a number from 0 to 1"):
            _export(network, found, tmp_path / "kept.tflite", calibration, max_drop=max_drop)
    assert not os.listdir(tmp_path)
