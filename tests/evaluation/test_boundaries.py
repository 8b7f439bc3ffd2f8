"""The challenge's scores, by hand and against counting every pair of pixels."""

import json

import numpy as np
import pytest

from kseg.errors import CheckError, InputError
from kseg.evaluation import boundaries, evaluate_boundaries
from kseg.labels import LabelSet

LABELS = LabelSet(("cell", "membrane"), ((0, 0, 0), (255, 0, 0)), ignore=9)


def count_pairs(truth, found):
    """V_rand by its meaning: of two pixels drawn at random, are they in one region here, there, in both?"""
    pixels = np.argwhere(truth > 0)
    here = there = both = 0
    for a, first in enumerate(map(tuple, pixels)):
        for b, second in enumerate(map(tuple, pixels)):
            same_truth = truth[first] == truth[second]
            same_found = a == b or (found[first] != 0 and found[first] == found[second])
            here, there, both = here + same_found, there + same_truth, both + (same_found and same_truth)
    merge, split = both / here, both / there
    return 2 * merge * split / (merge + split)


def plain_information(truth, found):
    """V_info from the definition of mutual information, with a table of all pairs of regions."""
    alone = iter(range(1000, 2000))
    pairs = [(t, f or next(alone)) for t, f in zip(truth.ravel().tolist(), found.ravel().tolist(), strict=True) if t]
    table = {}
    for pair in pairs:
        table[pair] = table.get(pair, 0) + 1 / len(pairs)
    t, f = (
        {key: sum(p for pair, p in table.items() if pair[axis] == key) for key in {k[axis] for k in table}}
        for axis in (0, 1)
    )
    mutual = sum(p * np.log(p / t[i] / f[j]) for (i, j), p in table.items())
    return 2 * mutual / sum(-p * np.log(p) for p in [*t.values(), *f.values()])


@pytest.mark.parametrize("seed", range(6))
def test_region_scores_are_those_of_counting_pairs(seed):
    generator = np.random.default_rng(seed)
    truth, found = generator.integers(0, 4, (7, 9)), generator.integers(0, 5, (7, 9))
    if seed % 2:  # much alike
        found = np.where(generator.random((7, 9)) < 0.2, found, truth)
    rand, info = boundaries.region_scores(truth, found)
    assert rand == pytest.approx(count_pairs(truth, found))
    assert info == pytest.approx(plain_information(truth, found))


def test_region_scores_by_hand():
    truth = np.array([[1, 1, 0, 2, 2]])
    assert boundaries.region_scores(truth, truth) == (1, pytest.approx(1))
    assert boundaries.region_scores(truth, np.array([[7, 7, 7, 3, 3]])) == (1, pytest.approx(1)), (
        "0 in the truth counts"
    )
    # All merged: sum p^2 = 1/2, s^2 = 1, t^2 = 1/2; no information.
    assert boundaries.region_scores(truth, np.ones((1, 5), int)) == (pytest.approx(2 / 3), pytest.approx(0))
    # Each pixel alone: sum p^2 = s^2 = 1/4, t^2 = 1/2; I = log 2, H = log 4 and log 2.
    assert boundaries.region_scores(truth, np.zeros((1, 5), int)) == (pytest.approx(2 / 3), pytest.approx(2 / 3))
    assert boundaries.region_scores(np.ones((2, 2), int), np.ones((2, 2), int)) == (1, 1)
    with pytest.raises(ValueError, match="must have a region"):
        boundaries.region_scores(np.zeros((2, 2), int), np.ones((2, 2), int))


def _says(probability):
    """A predictor that always gives this probability of membrane, as logits."""
    p = np.clip(probability, 1e-6, 1 - 1e-6)
    return lambda images: np.stack([np.stack([np.log(1 - p), np.log(p)], -1)] * len(images))


class TestWithScikitImage:
    @pytest.fixture(autouse=True)
    def _needed(self):
        pytest.importorskip("skimage")

    @pytest.fixture
    def truth(self):
        """Four cells parted by a cross of membranes 3 pixels wide."""
        truth = np.zeros((21, 25), int)
        truth[9:12] = truth[:, 11:14] = 1
        return truth

    def test_regions_do_not_touch_at_corners(self):
        assert boundaries.connected(np.array([[1, 0], [0, 1]], bool)).tolist() == [[1, 0], [0, 2]]

    def test_thinning_leaves_lines_and_keeps_regions_apart(self, truth):
        found = boundaries.thinned(truth == 1)
        assert set(np.unique(found)) == {0, 1, 2, 3, 4}
        assert (found[:, 0] == 0).sum() == 1
        assert (found[0] == 0).sum() == 1
        assert (found == 0).sum() <= 21 + 25
        across = (found[1:] != found[:-1]) & (found[1:] > 0) & (found[:-1] > 0)
        assert not across.any()

    def test_an_end_in_the_open_vanishes(self, truth):
        open_end = np.zeros(truth.shape, bool)
        open_end[10, :12] = True
        assert (boundaries.thinned(open_end) == 1).all()

    def test_width_of_the_membranes_does_not_count(self, truth):
        thin, wide = np.zeros(truth.shape), np.zeros(truth.shape)
        thin[10] = thin[:, 12] = 1
        wide[8:13] = wide[:, 10:15] = 1
        batches = [(np.zeros((1, 21, 25, 3)), truth[None])]
        for membranes in (thin, wide):
            scores = evaluate_boundaries(_says(membranes), batches, LABELS, "membrane", [0.5])
            assert scores.best["v_rand"] > 0.95
            assert scores.pixel_error == (pytest.approx((membranes != truth).mean()),)
            dice = 2 * np.sum((membranes == 0) & (truth == 0)) / (np.sum(membranes == 0) + np.sum(truth == 0))
            assert scores.f_error == (pytest.approx(1 - dice),)
        perfect = evaluate_boundaries(_says(truth), batches, LABELS, "membrane")
        assert perfect.best == {"pixel_error": 0, "f_error": 0, "v_rand": 1, "v_info": pytest.approx(1)}

    def test_a_gap_merges_cells(self, truth):
        gap = truth.astype(float)
        gap[9:12, 3] = 0
        batches = [(np.zeros((1, 21, 25, 3)), truth[None])]
        scores = evaluate_boundaries(_says(gap), batches, LABELS, "membrane", [0.5])
        assert scores.pixel_error == (pytest.approx(3 / truth.size),)
        # Two of four equal cells are one: sum p^2 = t^2 = 4/16, s^2 = 6/16.
        assert scores.v_rand == (pytest.approx(2 * 4 / (4 + 6), abs=0.01),)

    def test_thresholds_and_the_mean_over_images(self, truth):
        faint = 0.4 * truth  # seen at 0.3, not at 0.5
        batches = [(np.zeros((2, 21, 25, 3)), np.stack([truth, truth])), (np.zeros((1, 21, 25, 3)), truth[None])]
        scores = evaluate_boundaries(_says(faint), batches, LABELS, "membrane", [0.3, 0.5])
        assert scores.images == 3
        assert scores.pixel_error == (0, pytest.approx(truth.mean()))
        # All called cell: precision is the cells' share p, recall 1, so F = 2p / (1 + p).
        share = 1 - truth.mean()
        assert scores.f_error == (0, pytest.approx(1 - 2 * share / (1 + share)))
        assert scores.v_rand == (pytest.approx(1), pytest.approx(0.4))  # 2 (4/16) / (1 + 4/16)
        assert json.loads(json.dumps(scores.to_dict()))["best"]["v_rand"] == pytest.approx(1)

    def test_ignored_pixels_do_not_count(self, truth):
        partly = truth.copy()
        partly[:9] = 9
        said = np.where(partly == 9, 0.9, truth)
        batches = [(np.zeros((1, 21, 25, 3)), partly[None])]
        scores = evaluate_boundaries(_says(said), batches, LABELS, "membrane", [0.5])
        assert scores.pixel_error == scores.f_error == (0,)
        assert scores.v_rand == (pytest.approx(1),)

    def test_an_image_without_a_region_counts_by_its_pixels_alone(self, truth):
        batches = [
            (np.zeros((1, 21, 25, 3)), mask[None]) for mask in (np.full_like(truth, 9), np.ones_like(truth), truth)
        ]
        scores = evaluate_boundaries(_says(truth), batches, LABELS, "membrane", [0.5])
        assert scores.images == 3
        assert scores.v_rand == (pytest.approx(1),)
        assert scores.pixel_error == (pytest.approx((1 - truth.mean()) / 2),)

    def test_what_cannot_be_scored_is_told(self, truth):
        def run(predictor, truth, boundary="membrane", thresholds=(0.5,), labels=LABELS):
            batches = [(np.zeros((1, 21, 25, 3)), truth[None])] if truth is not None else []
            evaluate_boundaries(predictor, batches, labels, boundary, thresholds)

        plain = _says(truth)
        with pytest.raises(InputError, match="no class 'wall'; the classes are cell, membrane"):
            run(plain, truth, boundary="wall")
        with pytest.raises(InputError, match="no image .* in which membrane leaves a region"):
            run(plain, None)
        with pytest.raises(InputError, match="thresholds must lie in 0..1"):
            run(plain, truth, thresholds=(float("nan"),))
        with pytest.raises(InputError, match="no image .* in which membrane leaves a region"):
            run(plain, np.ones_like(truth))
        with pytest.raises(InputError, match="gives 2 classes, the data has 3"):
            run(plain, truth, labels=LabelSet(("a", "membrane", "c"), ((0, 0, 0), (1, 1, 1), (2, 2, 2))))
        with pytest.raises(CheckError, match="hold NaN"):
            run(lambda images: plain(images) * np.nan, truth)
