import json

import numpy as np
import pytest

from kseg.errors import CheckError, InputError
from kseg.evaluation import evaluate
from kseg.labels import LabelSet
from kseg.runtime import Card, Predictor

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


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_scores_that_are_no_numbers_are_a_failure_not_a_class(value):
    def broken(images):
        scores = np.zeros((1, 2, 3, 3))
        scores[0, 1, 1, 1] = value
        return scores

    with pytest.raises(CheckError, match="hold NaN or infinity"):
        evaluate(broken, [(np.zeros((1, 2, 3, 3)), np.zeros((1, 2, 3), int))], LABELS)


def test_no_image_and_wrong_classes_are_told():
    with pytest.raises(InputError, match="no image"):
        evaluate(_says(np.zeros((2, 3), int)), [], LABELS)
    two = LabelSet.numbered(2)
    with pytest.raises(InputError, match="2 classes"):
        evaluate(_says(np.zeros((2, 3), int)), [(np.zeros((1, 2, 3, 3)), np.zeros((1, 2, 3), int))], two)


@pytest.mark.parametrize("kind", ["logits", "labels"])
@pytest.mark.parametrize("edge", [8, None])
def test_every_kind_of_file_is_scored_alike(kind, edge):
    """A stand-in for a file: the class of a pixel is its red value; fixed size or any, scores or labels."""

    def run(image):
        classes = np.rint(image[..., 0]).astype(np.int32)
        return classes if kind == "labels" else np.eye(3, dtype=np.float32)[classes]

    card = Card(
        file="net.tflite",
        sha256="",
        network="net",
        labels=LABELS,
        input={"shape": [1, edge, edge, 3], "dtype": "float32", "range": [0, 255]},
        output={"kind": kind, "shape": [1, edge, edge, 3][: 3 if kind == "labels" else 4]},
        precision="float32",
        versions={},
    )
    truth = np.random.default_rng(0).integers(0, 3, (2, 8, 8))
    images = np.stack([truth] * 3, axis=-1).astype(np.uint8)
    scores = evaluate(Predictor(card, run), [(images, truth)], LABELS)
    assert scores.pixel_accuracy == 1
    large = evaluate(
        Predictor(card, run), [(images.repeat(2, 1).repeat(2, 2), truth.repeat(2, 1).repeat(2, 2))], LABELS
    )
    assert large.pixel_accuracy == (1 if kind == "labels" or edge is None else pytest.approx(0.8, abs=0.2))
