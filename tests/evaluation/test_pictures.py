import numpy as np
from PIL import Image

from kseg.evaluation import pictures, summarise
from kseg.labels import LabelSet
from kseg.training.tensorboard import confusion_picture

LABELS = LabelSet(("a", "b", "c"), ((0, 0, 0), (255, 0, 0), (0, 255, 0)), ignore=9)


def test_an_index_mask_shows_colours_and_keeps_indices(tmp_path):
    mask = np.array([[0, 1, 2], [9, 1, 0]])
    pictures.save_index_mask(mask, LABELS, tmp_path / "m.png")
    picture = Image.open(tmp_path / "m.png")
    np.testing.assert_array_equal(np.array(picture), mask)
    np.testing.assert_array_equal(np.array(picture.convert("RGB")), LABELS.to_colours(mask))


def test_an_index_mask_of_many_classes(tmp_path):
    mask = np.array([[0, 299, 65535]])
    pictures.save_index_mask(mask, LabelSet.numbered(300, ignore=65535), tmp_path / "mask.png")
    np.testing.assert_array_equal(np.array(Image.open(tmp_path / "mask.png")), mask)


def test_panels_of_images_with_one_name():
    assert pictures.panel_names(["a/0.jpg", "1.jpg", "b/0.png"]) == ["0_0", "1", "0_2"]
    assert pictures.panel_names(["x.png", "x_0.png", "x.png"]) == ["x_0_", "x_0", "x_2"]


def test_a_panel_marks_the_errors_and_only_them():
    image = np.full((4, 5, 3), 100, np.uint8)
    label = np.zeros((4, 5), int)
    label[0, 0], label[0, 1] = 9, 1
    panel = pictures.panel(image, label, np.zeros((4, 5), int), LABELS)
    errors = panel[18:, -5:]
    assert panel.shape == (4 + 18, 4 * 5 + 12, 3)
    assert errors[0, 1].tolist() == [220, 30, 30]  # said a, is b
    assert errors[0, 0].tolist() == [40, 40, 40]  # unlabelled
    assert errors[2, 2].tolist() == [40, 40, 40]  # right


def test_charts_are_pictures(tmp_path):
    scores = summarise(np.array([[5, 1, 0], [2, 7, 0], [0, 0, 0]]), LABELS, images=3)
    pictures.save_iou_chart(scores, LABELS, tmp_path / "iou.png")
    pictures.save_confusion_chart(scores, LABELS, tmp_path / "confusion.png")
    history = [{"epoch": 1, "loss": 1.0, "mean_iou": 0.2}, {"epoch": 2, "loss": 0.5, "mean_iou": 0.4, "val_loss": 0.6}]
    pictures.save_training_curve(history, tmp_path / "curve.png")
    for name in ("iou.png", "confusion.png", "curve.png"):
        with Image.open(tmp_path / name) as picture:
            assert min(picture.size) > 300
            assert np.array(picture.convert("L")).std() > 5, "an empty picture"


def test_charts_of_very_many_classes_stay_small(tmp_path):
    labels, counts = LabelSet.numbered(300), np.full((300, 300), 2)
    pictures.save_iou_chart(summarise(counts, labels, images=3), labels, tmp_path / "iou.png")
    pictures.save_confusion_chart(summarise(counts, labels, images=3), labels, tmp_path / "confusion.png")
    assert max(confusion_picture(counts, labels.names).shape) <= 1600
    for name in ("iou.png", "confusion.png"):
        with Image.open(tmp_path / name) as picture:
            assert max(picture.size) <= 4000


def test_names_are_drawn_as_they_are():
    figure, axes = pictures._figure(width=3, height=3)
    for name in ("_old", "a_$x$_{", "plain"):
        axes.plot([0, 1], label=pictures._as_text(name))
    shown = [text.get_text().strip() for text in figure.legend(*axes.get_legend_handles_labels()).get_texts()]
    figure.canvas.draw()
    assert shown == ["_old", r"a_\$x\$_{", "plain"]
