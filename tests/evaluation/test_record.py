import json

import numpy as np
import pytest
from PIL import Image

from kseg import data
from kseg.errors import CheckError, InputError
from kseg.evaluation.record import record
from kseg.labels import LabelSet
from kseg.metrics import confusion_matrix, scores

LABELS = LabelSet(("a", "b"), ((0, 0, 0), (255, 200, 0)), ignore=9)


def _threshold(images):
    """Predicts b where an image is bright."""
    bright = np.asarray(images)[..., 0] > 100
    return np.stack([1.0 - bright, bright], axis=-1).astype(np.float32)


def _source(wrong, void=()):
    """One image of 8x10 pixels for each number of wrongly lit pixels; those in `void` have no labelled pixel."""
    images, masks = [], []
    for index, count in enumerate(wrong):
        mask = np.zeros((8, 10), np.int32)
        mask[4:] = 1
        image = np.repeat(200 * mask[..., None], 3, axis=2).astype(np.uint8)
        image[0].reshape(-1)[: 3 * count] = 200
        images.append(image)
        masks.append(np.full_like(mask, 9) if index in void else mask)
    return data.arrays(images, masks, LABELS, names=[f"clip/pic {i}.png" for i in range(len(wrong))])


@pytest.fixture
def run(tmp_path):
    (tmp_path / "history.csv").write_text("epoch,loss,mean_iou\n1,0.5,0.3\n")
    return tmp_path


def test_scores_of_the_set_and_of_each_image(run):
    found = record(run, _threshold, _source([0, 4, 2]))
    written = json.loads((run / "scores.json").read_text())
    matrix = np.array([[3 * 40 - 6, 6], [0, 120]])
    assert written["confusion_matrix"] == matrix.tolist()
    assert written["mean_iou"] == found.mean_iou == pytest.approx(scores(matrix)["mean_iou"])
    assert [entry["name"] for entry in written["per_image"]] == ["clip/pic 0.png", "clip/pic 1.png", "clip/pic 2.png"]
    # 4 of 80 pixels are said b and are a: IoU of a 36/40, of b 40/44.
    assert written["per_image"][1]["mean_iou"] == pytest.approx((36 / 40 + 40 / 44) / 2)
    assert written["per_image"][1]["pixel_accuracy"] == pytest.approx(76 / 80)
    for name in ("curve.png", "iou.png", "confusion.png"):
        assert (run / name).stat().st_size > 1000


def test_scores_of_regions(run):
    pytest.importorskip("skimage")
    record(run, _threshold, _source([0, 0]), boundary="b")
    written = json.loads((run / "scores.json").read_text())
    assert [written[name] for name in ("pixel_error", "f_error", "v_rand", "v_info")] == [0.0, 0.0, 1.0, 1.0]
    with pytest.raises(InputError, match="no class 'c'"):
        record(run, _threshold, _source([0]), boundary="c")


def test_scores_come_last(run, monkeypatch):
    """A run that has its scores counts as finished."""

    def fails(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("kseg.evaluation.pictures.save_confusion_chart", fails)
    with pytest.raises(KeyboardInterrupt):
        record(run, _threshold, _source([0]))
    assert not (run / "scores.json").exists()


def test_pictures_of_both_ends(run):
    (run / "pictures").mkdir()
    (run / "pictures" / "best_1_old.png").write_bytes(b"of an earlier recording")
    record(run, _threshold, _source([5, 0, 3, 1, 4, 0, 2]))
    names = sorted(path.name for path in (run / "pictures").iterdir())
    # Two images without a fault: the first of them is first.
    assert names == [
        *("best_1_pic_1.png", "best_2_pic_5.png", "best_3_pic_3.png"),
        *("worst_1_pic_0.png", "worst_2_pic_4.png", "worst_3_pic_2.png"),
    ]
    with Image.open(run / "pictures" / "worst_1_pic_0.png") as panel:
        assert panel.size == (4 * 10 + 12, 8 + 18)
        errors = np.array(panel)[18:, -10:]
    assert (errors[0, :5] == (220, 30, 30)).all()


@pytest.mark.parametrize(("images", "best", "worst"), [(1, 1, 0), (2, 1, 1), (3, 2, 1), (5, 3, 2), (6, 3, 3)])
def test_no_image_is_both_best_and_worst(run, images, best, worst):
    record(run, _threshold, _source(range(images)))
    names = [path.name for path in (run / "pictures").iterdir()]
    assert sum(name.startswith("best_") for name in names) == best
    assert sum(name.startswith("worst_") for name in names) == worst
    assert len({name.split("_", 2)[2] for name in names}) == best + worst


def test_an_image_without_labelled_pixels_has_no_score_and_no_rank(run):
    record(run, _threshold, _source([0, 1, 2], void={1}))
    written = json.loads((run / "scores.json").read_text(), parse_constant=pytest.fail)
    assert written["per_image"][1] == {"name": "clip/pic 1.png", "mean_iou": None, "pixel_accuracy": None}
    assert {path.name for path in (run / "pictures").iterdir()} == {"best_1_pic_0.png", "worst_1_pic_2.png"}


def test_each_image_is_scored_like_a_set_of_its_own(run):
    generator = np.random.default_rng(3)
    images = generator.integers(0, 255, (9, 6, 7, 3)).astype(np.uint8)
    masks = generator.choice([0, 1, 9], (9, 6, 7))
    source = data.arrays(images, masks, LABELS)
    seen = []
    record(run, _threshold, source, progress=lambda batches: (seen.append(1) or batch for batch in batches))
    written = json.loads((run / "scores.json").read_text())["per_image"]
    for image, mask, entry in zip(images, masks, written, strict=True):
        numbers = scores(confusion_matrix(mask, (image[..., 0] > 100).astype(int), 2, 9))
        assert entry["mean_iou"] == pytest.approx(numbers["mean_iou"])
    assert len(seen) == 9


def test_scores_that_are_not_finite_write_nothing(run):
    with pytest.raises(CheckError, match="NaN"):
        record(run, lambda images: np.full((*images.shape[:3], 2), np.nan), _source([0, 1]))
    assert not (run / "scores.json").exists()
