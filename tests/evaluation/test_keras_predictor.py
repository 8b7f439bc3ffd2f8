import keras
import numpy as np
import pytest

from kseg.errors import CheckError, InputError
from kseg.evaluation import KerasPredictor, evaluate, load_predictor
from kseg.labels import LabelSet
from kseg.runtime import windows
from kseg.training import deeply_supervised, save_model


@pytest.fixture
def predictor():
    """A network that sees one pixel around each, and so says the same in a window with four times that much overlap."""
    inputs = keras.Input((None, None, 3))
    scores = keras.layers.Conv2D(3, 3, padding="same")(inputs)
    return KerasPredictor(keras.Model(inputs, scores), LabelSet.numbered(3))


def test_a_large_image_in_windows_is_labelled_like_a_whole_one(predictor, monkeypatch):
    images = np.random.default_rng(0).integers(0, 255, (2, 41, 1067, 3)).astype(np.uint8)
    whole = predictor(images).argmax(-1)
    np.testing.assert_array_equal(predictor.indices(images), whole)
    monkeypatch.setattr(windows, "LARGEST_PX", 500)
    widths = _watched(predictor, monkeypatch)
    np.testing.assert_array_equal(predictor.indices(images), whole)
    assert len(widths) == 2 * 2
    assert max(widths) <= 1024


def _watched(predictor, monkeypatch):
    """The widths of the images that the model has seen since."""
    widths, run = [], predictor.model.predict_on_batch

    def predict_on_batch(images):
        widths.append(images.shape[2])
        return run(images)

    monkeypatch.setattr(predictor.model, "predict_on_batch", predict_on_batch)
    return widths


def test_one_compiled_call_for_equal_sizes_and_one_for_all_others(predictor):
    def traces():
        return predictor._labeller.predict_function.experimental_get_tracing_count()

    for _ in range(3):
        predictor.indices(np.zeros((1, 20, 30, 3), np.uint8))
    assert traces() == 1
    for width in (31, 20, 47, 30):
        predictor.indices(np.zeros((1, 20, width, 3), np.uint8))
    assert traces() == 2


def test_scores_that_are_no_numbers_have_no_classes(predictor):
    bias = predictor.model.layers[-1].bias
    for value in (np.nan, np.inf, -np.inf):
        bias.assign([0, value, 0])
        with pytest.raises(CheckError, match="hold NaN or infinity"):
            predictor.indices(np.zeros((2, 8, 9, 3), np.uint8))
        with pytest.raises(CheckError, match="hold NaN or infinity"):
            evaluate(predictor, [(np.zeros((1, 8, 9, 3), np.uint8), np.zeros((1, 8, 9), int))], predictor.labels)


def test_the_kind_of_scores():
    inputs = keras.Input((None, None, 3))
    scores = keras.layers.Conv2D(3, 1)(inputs)
    assert KerasPredictor(keras.Model(inputs, scores), LabelSet.numbered(3)).kind == "logits"
    for last in (keras.layers.Activation("softmax"), keras.layers.Softmax()):
        assert KerasPredictor(keras.Model(inputs, last(scores)), LabelSet.numbered(3)).kind == "probabilities"


def _declared(form):
    """The same network, its ends declared in different ways."""
    keras.utils.set_random_seed(0)
    if form == "sequential":
        return keras.Sequential([keras.Input((None, None, 3)), keras.layers.Conv2D(4, 3, padding="same")])
    image = keras.Input((None, None, 3), name="image")
    scores = keras.layers.Conv2D(4, 3, padding="same")(image)
    forms = {"alone": (image, scores), "list": ([image], [scores]), "dict": ({"image": image}, {"scores": scores})}
    return keras.Model(*forms[form])


@pytest.mark.parametrize("form", ["alone", "list", "dict", "sequential"])
def test_however_a_model_declares_its_ends(form, tmp_path):
    network, image = _declared(form), np.full((1, 6, 7, 3), 9, np.uint8)
    expected = KerasPredictor(_declared("alone"), LabelSet.numbered(4))(image)
    np.testing.assert_array_equal(KerasPredictor(network, LabelSet.numbered(4))(image), expected)
    for save in (network.save, lambda path: save_model(network, path, LabelSet.numbered(4))):
        save(tmp_path / "net.keras")
        loaded = load_predictor(tmp_path / "net.keras")
        np.testing.assert_array_equal(loaded(image), expected)
        np.testing.assert_array_equal(loaded.indices(image), expected.argmax(-1))
    deeper = deeply_supervised(network, [network.layers[-1].name])
    np.testing.assert_allclose(deeper.predict_on_batch(image.astype(np.float32))[0], expected, rtol=1e-6)


def test_the_users_model_stays_as_it_is():
    inputs = keras.Input((None, None, 3))
    network = keras.Model(inputs, keras.layers.Conv2D(3, 1)(inputs))
    for jit_compile in (True, False):
        network.compile("sgd", "mse", jit_compile=jit_compile)
        KerasPredictor(network, LabelSet.numbered(3))(np.zeros((1, 6, 8, 3), np.uint8))
        assert network.jit_compile is jit_compile


def test_a_model_with_a_call_of_its_own_is_refused():
    class Own(keras.Model):
        def call(self, images):
            return images

    with pytest.raises(ValueError, match="`model` must be a functional or sequential Keras model. Received: Own"):
        KerasPredictor(Own(), LabelSet.numbered(3))


def test_a_size_that_the_network_cannot_take_is_named():
    inputs = keras.Input((None, None, 3))
    halved = keras.layers.UpSampling2D()(keras.layers.MaxPooling2D()(inputs))
    predictor = KerasPredictor(keras.Model(inputs, inputs + halved), LabelSet.numbered(3))
    assert predictor(np.zeros((1, 6, 8, 3), np.uint8)).shape == (1, 6, 8, 3)
    for predict in (predictor, predictor.indices):
        with pytest.raises(InputError, match="cannot compute an image of 7 x 8 .*; choose a size"):
            predict(np.zeros((1, 7, 8, 3), np.uint8))


def test_lack_of_memory_and_faults_of_ours_are_told_apart(predictor, monkeypatch):
    image = np.zeros((1, 6, 8, 3), np.uint8)
    for error, told, message in (
        (RuntimeError("RESOURCE_EXHAUSTED: Out of memory"), InputError, "the memory is too small .*--window"),
        (RuntimeError("what is this"), RuntimeError, "what is this"),
        (CheckError("not finite"), CheckError, "not finite"),
    ):
        monkeypatch.setattr(predictor.model, "predict_on_batch", _raising(error))
        with pytest.raises(told, match=message):
            predictor(image)


def _raising(error):
    def predict_on_batch(images):
        raise error

    return predict_on_batch


def test_scores_of_another_size_are_refused():
    inputs = keras.Input((None, None, 3))
    predictor = KerasPredictor(keras.Model(inputs, keras.layers.Conv2D(3, 3)(inputs)), LabelSet.numbered(3))
    for predict in (predictor, predictor.indices):
        with pytest.raises(InputError, match="gives scores of 5 x 6 for an image of 7 x 8; scores of the size"):
            predict(np.zeros((1, 7, 8, 3), np.uint8))
