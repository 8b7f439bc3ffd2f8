"""Every kind of file that a card can describe: output kinds, input dtypes, precisions, files for any size."""

import numpy as np
import pytest
import tensorflow as tf
from files import CLASSES, SIZE, photo, scores_of, write

from kseg import runtime
from kseg.errors import CheckError, InputError
from kseg.labels import LabelSet
from kseg.runtime import windows

FORMATS = ("tflite", "onnx")
OPEN_INPUT = {"shape": [1, None, None, 3], "dtype": "float32", "range": [0, 255]}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Function of a name and the options of `write` -> path; each file is made once."""
    folder, paths = tmp_path_factory.mktemp("kinds"), {}

    def make(name, **options):
        if name not in paths:
            paths[name] = write(folder / name, **options)
        return paths[name]

    return make


@pytest.mark.parametrize("form", FORMATS)
def test_probabilities(made, form):
    predictor = runtime.load(made(f"probabilities.{form}", kind="probabilities"))
    scores = predictor(photo()[None])
    np.testing.assert_allclose(scores[0], scores_of(photo(), "probabilities"), atol=1e-5)
    np.testing.assert_allclose(scores.sum(-1), 1, atol=1e-5)


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("dtype", ["float32", "uint8"])
def test_labels_become_scores_of_0_and_1(made, form, dtype):
    predictor = runtime.load(made(f"labels_{dtype}.{form}", kind="labels", dtype=dtype))
    classes = scores_of(photo()).argmax(-1)
    scores = predictor(photo()[None])
    assert scores.dtype == np.float32
    np.testing.assert_array_equal(scores[0], np.eye(CLASSES)[classes])
    np.testing.assert_array_equal(predictor.at_size(photo().astype(np.float32)), scores[0])
    np.testing.assert_array_equal(predictor.indices(photo()[None])[0], classes)


@pytest.mark.parametrize("form", FORMATS)
def test_labels_are_never_interpolated(made, form):
    predictor = runtime.load(made(f"labels_float32.{form}", kind="labels"))
    small = tf.image.resize(photo((67, 99)), SIZE).numpy()
    classes = scores_of(small).argmax(-1)
    expected = tf.image.resize(classes[..., None], (67, 99), method="nearest").numpy()[..., 0]
    found = predictor.indices(photo((67, 99))[None])
    assert found.dtype == np.int32
    assert (found[0] == expected).mean() > 0.999  # where two scores are equal but for rounding
    np.testing.assert_array_equal(predictor(photo((67, 99))[None]).argmax(-1), found)


@pytest.mark.parametrize("form", FORMATS)
def test_uint8_input_takes_pixel_values(made, form):
    predictor = runtime.load(made(f"uint8.{form}", dtype="uint8"))
    np.testing.assert_allclose(predictor(photo()[None])[0], scores_of(photo()), atol=1e-4)
    beyond = photo().astype(np.float32) + 0.3  # rounded, and cut off at 255
    np.testing.assert_allclose(predictor(beyond[None])[0], scores_of(photo()), atol=1e-4)


@pytest.mark.parametrize("precision", ["int8", "int16x8"])
def test_integer_files(made, precision):
    predictor = runtime.load(made(f"{precision}.tflite", precision=precision))
    scores, expected = predictor(photo(seed=1)[None])[0], scores_of(photo(seed=1))
    assert np.abs(scores - expected).max() < (0.05 if precision == "int8" else 0.02) * np.abs(expected).max()


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("kind", ["logits", "labels"])
def test_resizable_runs_each_image_at_its_own_size(made, form, kind):
    predictor = runtime.load(made(f"resizable_{kind}.{form}", kind=kind, resizable=True), threads=1)
    assert predictor.size_px is None
    for size_px in ((30, 44), (30, 44), (7, 9), (1, 1), (30, 44)):
        image = photo(size_px, seed=size_px[0])
        scores = predictor(image[None])[0]
        expected = scores_of(image)
        if kind == "logits":
            np.testing.assert_allclose(scores, expected, atol=1e-4)
        np.testing.assert_array_equal(scores.argmax(-1), expected.argmax(-1))
        np.testing.assert_array_equal(predictor.at_size(image.astype(np.float32)), scores)
        np.testing.assert_array_equal(predictor.indices(image[None])[0], expected.argmax(-1))


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("kind", ["logits", "labels"])
def test_resizable_takes_a_large_image_in_windows(made, form, kind, monkeypatch):
    predictor = runtime.load(made(f"resizable_{kind}.{form}", kind=kind, resizable=True))
    image = photo((1200, 1100))[None]
    sizes, run = [], predictor._run
    monkeypatch.setattr(predictor, "_run", lambda image: sizes.append(image.shape[:2]) or run(image))
    whole = predictor.indices(image)
    assert sizes == [(1200, 1100)]
    monkeypatch.setattr(windows, "LARGEST_PX", 1000)
    found = predictor.indices(image)
    assert (found == whole).mean() > 0.9999  # where two scores are equal but for rounding
    assert len(sizes) == 1 + 4
    assert max(height * width for height, width in sizes[1:]) <= 1024 * 1024


@pytest.mark.parametrize("form", FORMATS)
def test_fixed_size_in_windows_of_its_own_size(made, form):
    """Windows show the image in its own pixels; without them the network sees it resized."""
    predictor = runtime.load(made(f"probabilities.{form}", kind="probabilities"))
    image = photo((70, 99))
    found = windows.Windowed(predictor, SIZE, 8)(image[None])[0]
    expected = scores_of(image, "probabilities")
    # At the bottom and right edge the last windows see the image mirrored, the whole image sees zeros.
    np.testing.assert_allclose(found[:-1, :-1], expected[:-1, :-1], atol=1e-5)
    assert np.abs(predictor(image[None])[0] - found).max() > 0.1


@pytest.mark.parametrize("form", FORMATS)
def test_scores_that_are_no_numbers_have_no_classes(made, form, monkeypatch):
    predictor = runtime.load(made(f"probabilities.{form}", kind="probabilities"))
    monkeypatch.setattr(predictor, "_run", lambda image: np.full((*SIZE, CLASSES), np.nan, np.float32))
    with pytest.raises(CheckError, match="hold NaN or infinity"):
        predictor.indices(photo()[None])


@pytest.mark.parametrize("form", FORMATS)
def test_a_card_that_says_another_kind(made, tmp_path, form):
    scores = {"kind": "logits", "shape": [1, *SIZE, CLASSES]}
    labels = {"kind": "labels", "shape": [1, *SIZE]}
    opened = {"kind": "logits", "shape": [1, None, None, CLASSES]}
    wrong = {
        f"labels as scores.{form}": ({"kind": "labels", "output": scores}, r"output \[1, 24, 32, 4\], the file has"),
        f"scores as labels.{form}": ({"output": labels}, r"output \[1, 24, 32\], the file has"),
        f"fixed as open.{form}": ({"input": OPEN_INPUT, "output": opened}, r"input \[1, any, any, 3\], the file has"),
        f"open as fixed.{form}": (
            {"resizable": True, "input": {**OPEN_INPUT, "shape": [1, *SIZE, 3]}, "output": scores},
            r"input \[1, 24, 32, 3\], the file has \[1, any, any, 3\]",
        ),
        f"bytes as floats.{form}": ({"dtype": "uint8", "input": {**OPEN_INPUT, "shape": [1, *SIZE, 3]}}, "input float"),
    }
    for name, (options, message) in wrong.items():
        with pytest.raises(InputError, match=f"another kind of model: the card says {message}"):
            runtime.load(write(tmp_path / name, **options))


def test_floats_are_no_labels(tmp_path):
    # A network with as many columns as classes would pass by its shape.
    from kseg.runtime.agreement import check_agreement

    card = runtime.Card.load(write(tmp_path / "labels.tflite", kind="labels"))
    with pytest.raises(InputError, match="the card says labels as output, the file has float32"):
        check_agreement("x", card, [((1, *SIZE, 3), "float32")], [((1, *SIZE), "float32")])


@pytest.mark.parametrize("form", FORMATS)
def test_classes_beyond_the_labels(tmp_path, form):
    predictor = runtime.load(write(tmp_path / f"few.{form}", kind="labels", labels=LabelSet.numbered(2)))
    with pytest.raises(CheckError, match=rf"few.{form}: gives class 3; its card has 2 labels"):
        predictor.indices(photo()[None])


def test_open_edges_that_hide_other_classes(tmp_path):
    """What a resizable file gives can only be seen when it runs."""
    predictor = runtime.load(write(tmp_path / "open.onnx", resizable=True))
    predictor._run = lambda image: np.zeros((*image.shape[:2], 7), np.float32)
    with pytest.raises(CheckError, match=r"gives \[24, 32, 7\] for an image of \[24, 32, 3\]"):
        predictor(photo()[None])


class TestSizesThatTheNetworkCannotTake:
    """A valid convolution needs as many pixels as its kernel has; what was halved and doubled must fit its twin."""

    @staticmethod
    def _valid(image):
        kernel = np.ones((5, 5, 3, CLASSES), np.float32)
        return tf.pad(tf.nn.conv2d(image, kernel, 1, "VALID"), [[0, 0], [2, 2], [2, 2], [0, 0]])

    @staticmethod
    def _joined(image):
        halved = tf.nn.max_pool2d(image, 2, 2, "VALID")
        doubled = tf.image.resize(halved, 2 * tf.shape(halved)[1:3])
        return tf.concat([image, doubled], -1)[..., :CLASSES]

    @pytest.fixture(params=[(form, name) for form in FORMATS for name in ("_valid", "_joined")], ids="-".join)
    def predictor(self, request, tmp_path, monkeypatch):
        import files

        form, name = request.param
        monkeypatch.setattr(files, "_network", lambda kind: getattr(self, name))
        return runtime.load(write(tmp_path / f"picky.{form}", resizable=True))

    def test_are_told_and_leave_the_predictor_usable(self, predictor):
        whole = predictor(photo()[None])
        with pytest.raises(InputError, match="picky.*: takes no image of 3 x 3"):
            predictor(photo((3, 3))[None])
        np.testing.assert_array_equal(predictor(photo()[None]), whole)
