"""The event files of a run, read back as TensorBoard reads them."""

import numpy as np
import pytest
from tooling import read_events

from kseg.training import read_history
from kseg.training.tensorboard import confusion_picture

LABELS = ("ground", "disc")


@pytest.fixture(scope="module")
def events(tiny_run):
    return read_events(tiny_run / "logs")


def test_every_number_of_the_history_is_a_curve(events, tiny_run):
    history = read_history(tiny_run)
    for name in ("loss", "val_loss", "learning_rate", "mean_iou", "val_mean_iou", "iou_disc", "val_iou_disc"):
        curve = {entry["epoch"]: entry[name] for entry in history}
        assert {step: float(value) for step, value in events[name].items()} == pytest.approx(curve, rel=1e-5), name


def test_the_same_images_are_shown_at_every_epoch(events):
    overlays = {tag: steps for tag, steps in events.items() if tag.startswith("overlays/")}
    assert sorted(overlays) == ["overlays/0.png", "overlays/1.png", "overlays/2.png"]
    for steps in overlays.values():
        assert sorted(steps) == [1, 2]
        assert all(picture.shape == (40, 2 * 48, 3) for picture in steps.values())
        np.testing.assert_array_equal(steps[1][:, :48], steps[2][:, :48])  # the truth


def test_the_confusion_matrix_of_each_validation(events):
    assert sorted(events["confusion_matrix"]) == [1, 2]
    assert events["confusion_matrix"][1].ndim == 3


def test_overlays_do_not_wait_for_a_validation(tmp_path):
    import keras

    from kseg import data, losses, metrics
    from kseg.labels import LabelSet
    from kseg.training.tensorboard import LearningCurves

    labels = LabelSet(("a", "b", "absent"), ((0, 0, 0), (255, 0, 0), (0, 255, 0)))
    images = np.zeros((2, 8, 8, 3), np.uint8)
    masks = np.zeros((2, 8, 8), np.int32)
    masks[:, 4:] = 1
    model = keras.Sequential([keras.Input((None, None, 3)), keras.layers.Conv2D(3, 1)])
    model.compile("sgd", losses.CrossEntropy(), metrics=[metrics.ConfusionMatrix(3, names=labels.names)])
    source = data.arrays(images, masks, labels)
    model.layers[0].set_weights([np.zeros((1, 1, 3, 3)), np.array([3.0, 2.0, -9.0])])  # all is a, nothing is absent
    model.fit(
        images.astype(np.float32),
        masks,
        epochs=4,
        validation_data=(images.astype(np.float32), masks),
        validation_freq=2,
        callbacks=[LearningCurves(tmp_path, source, pictures=1)],
        verbose=0,
    )
    events = read_events(tmp_path)
    assert sorted(events["overlays/0"]) == [1, 2, 3, 4]
    assert sorted(events["confusion_matrix"]) == [2, 4]
    # Of the validation alone: all 64 pixels of a right, all 64 of b taken for a.
    expected = confusion_picture([[64, 0, 0], [64, 0, 0], [0, 0, 0]], labels.names)
    np.testing.assert_array_equal(events["confusion_matrix"][2], expected)
    assert "iou_b" in events
    assert "iou_absent" not in events


def test_a_confusion_picture_is_darkest_where_the_share_is_greatest():
    picture = confusion_picture([[9, 1], [0, 0]], LABELS).astype(int)
    height, width = picture.shape[:2]

    def cell(row, column):
        return picture[height - 4 - 34 * (2 - row) + 2, width - 4 - 34 * (2 - column) + 2]

    np.testing.assert_allclose(cell(0, 0), 255 - 0.9 * np.array((234, 171, 105)), atol=1)
    assert cell(0, 0).sum() < cell(0, 1).sum() < cell(1, 0).sum() == 3 * 255
