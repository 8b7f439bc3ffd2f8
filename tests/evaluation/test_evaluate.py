import json

import numpy as np
import pytest

from kseg.errors import InputError
from kseg.evaluation import evaluate
from kseg.labels import LabelSet

LABELS = LabelSet(("a", "b", "c"), ((0, 0, 0), (255, 0, 0), (0, 255, 0)), ignore=9)


def _says(mask):
    """A predictor that always predicts `mask`."""
    return lambda images: np.stack([np.eye(3, dtype=np.float32)[mask]] * len(images))


def test_scores_of_a_hand_worked_set():
    truth = np.array([[0, 0, 1], [1, 1, 9]])
    said = np.array([[0, 1, 1], [1, 0, 0]])
    scores = evaluate(_says(said), [(np.zeros((1, 2, 3, 3)), truth[None])] * 2, LABELS)
    # One image: a has 1 right, 1 lost to b, 1 taken from b; b has 2 right.
    assert scores.confusion_matrix == [[2, 2, 0], [2, 4, 0], [0, 0, 0]]
    assert scores.iou == {"a": pytest.approx(1 / 3), "b": pytest.approx(0.5), "c": None}
    assert scores.mean_iou == pytest.approx((1 / 3 + 0.5) / 2)
    assert scores.pixel_accuracy == pytest.approx(0.6)
    assert scores.mean_accuracy == pytest.approx((1 / 2 + 2 / 3) / 2)
    assert scores.frequency_weighted_iou == pytest.approx(0.4 / 3 + 0.6 / 2)
    assert scores.images == 2
    assert json.loads(json.dumps(scores.to_dict()))["iou"]["c"] is None


def test_every_image_is_shown_as_it_is_scored():
    shown = []
    images = np.arange(2 * 2 * 3 * 3).reshape(2, 2, 3, 3)
    truth = np.zeros((2, 2, 3), int)
    evaluate(_says(truth[0]), [(images, truth)], LABELS, on_image=lambda *args: shown.append(args))
    assert len(shown) == 2
    np.testing.assert_array_equal(shown[1][0], images[1])


def test_nan_scores_are_a_failure_not_a_class():
    def broken(images):
        return np.full((1, 2, 3, 3), np.nan)

    with pytest.raises(ValueError, match="not finite"):
        evaluate(broken, [(np.zeros((1, 2, 3, 3)), np.zeros((1, 2, 3), int))], LABELS)


def test_no_image_and_wrong_classes_are_told():
    with pytest.raises(InputError, match="no image"):
        evaluate(_says(np.zeros((2, 3), int)), [], LABELS)
    two = LabelSet.numbered(2)
    with pytest.raises(InputError, match="2 classes"):
        evaluate(_says(np.zeros((2, 3), int)), [(np.zeros((1, 2, 3, 3)), np.zeros((1, 2, 3), int))], two)
