import errno
import json
import os
from dataclasses import replace
from functools import partial

import keras
import numpy as np
import onnx
import pytest
import tensorflow as tf
from PIL import Image

import kseg.export.convert as convert
import kseg.export.parity as parity
from kseg import data, layers, runtime
from kseg.errors import InputError
from kseg.evaluation import load_predictor
from kseg.export import ConversionError, ParityError, export, inspect
from kseg.export.tflite.metadata import read_metadata
from kseg.labels import LabelSet
from kseg.lowering import quantization_aware
from kseg.metrics import confusion_matrix, scores
from kseg.runtime.card import sha256_of
from kseg.runtime.chatter import muted
from kseg.training import load_model, save_model

SIZE = (32, 48)
LABELS = LabelSet.numbered(4, ignore=255)
TARGETS = [(kind, precision) for kind, precisions in convert.PRECISIONS.items() for precision in precisions]


def _network(dtype="float32"):
    """Everything that segmentation networks are made of, small; scores that differ from class to class."""
    keras.utils.set_random_seed(0)
    image = keras.Input((None, None, 3))
    x = keras.layers.Rescaling(1 / 127.5, -1)(image)
    x = skip = keras.layers.Conv2D(16, 3, 2, padding="same", activation="relu", dtype=dtype)(x)
    x = keras.layers.BatchNormalization(dtype=dtype)(x)
    x = keras.layers.DepthwiseConv2D(3, padding="same", dilation_rate=2, dtype=dtype)(keras.layers.MaxPooling2D()(x))
    x = keras.layers.SpatialDropout2D(0.5, dtype=dtype)(x)
    x = keras.layers.UpSampling2D(interpolation="bilinear", dtype=dtype)(x)
    x = keras.layers.Conv2D(16, 3, padding="same", activation="relu", dtype=dtype)(
        keras.layers.Concatenate()([x, skip])
    )
    x = keras.layers.Conv2DTranspose(4, 4, 2, padding="same", use_bias=False, dtype="float32")(x)
    network = keras.Model(image, x, name="small")
    norm = next(layer for layer in network.layers if isinstance(layer, keras.layers.BatchNormalization))
    rng = np.random.default_rng(0)
    norm.set_weights([rng.uniform(0.5, 1.5, 16) for _ in range(4)])
    return network


def _pairs(count=3, size_px=(40, 56), seed=7):
    """Smooth pictures with a mask of two classes and unlabelled pixels."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        coarse = Image.fromarray(rng.integers(0, 256, (4, 5, 3), np.uint8))
        image = np.asarray(coarse.resize(size_px[::-1], Image.BILINEAR))
        label = (image[..., 0] > 128).astype(np.int32)
        label[:3] = 255
        yield image, label


def _calibration():
    return [image for image, _ in _pairs(6, seed=8)]


def _export(path, network=None, **changes):
    kind = path.suffix[1:]
    arguments = {"format": kind, "size_px": SIZE, "verification": _pairs(), "verification_data": "smooth pictures"}
    return export(network or _network(), LABELS, path, **{**arguments, **changes})


@pytest.mark.parametrize(("kind", "precision"), TARGETS)
def test_every_precision(tmp_path, kind, precision):
    path = tmp_path / "deeper" / f"net.{kind}"
    card = _export(path, precision=precision, calibration=_calibration())
    assert sorted(os.listdir(path.parent)) == [path.name, path.name + ".json"]
    assert runtime.Card.load(path) == card
    assert card.sha256 == sha256_of(path)
    assert (card.network, card.precision, card.labels) == ("small", precision, LABELS)
    assert card.input["dtype"] == ("uint8" if (kind, precision) == ("tflite", "int8") else "float32")
    assert card.output == {"kind": "logits", "shape": [1, *SIZE, 4]}
    assert {"kseg", "keras", "tensorflow-cpu" if "tensorflow-cpu" in card.versions else "tensorflow"} <= set(
        card.versions
    )
    measured = card.parity
    assert (measured["data"], measured["images"]) == ("smooth pictures", 3)
    assert measured["argmax_agreement"] > 0.95
    assert 0 < measured["mean_iou_keras"] < 1
    assert abs(measured["mean_iou_keras"] - measured["mean_iou_file"]) < 0.02
    assert runtime.load(path)(np.zeros((1, 7, 9, 3), np.uint8)).shape == (1, 7, 9, 4)


@pytest.mark.parametrize(("precision", "pixels"), [("float32", "float32"), ("int8", "uint8")])
def test_tflite_files_describe_themselves(tmp_path, precision, pixels):
    path = tmp_path / "net.tflite"
    card = _export(path, precision=precision, calibration=_calibration())
    told = read_metadata(path)
    assert (told["name"], told["labels"], told["activation"]) == ("small", list(LABELS.names), "SOFTMAX")
    assert told["output"]["name"] == "logits"
    assert ("process_units" in told["input"]) == (pixels == "float32")
    assert card.check == inspect(path, run=True).to_dict()
    assert card.check["fully_accelerated"]
    assert card.check["flex"] == card.check["dynamic"] == []
    assert card.check["operators"]["TRANSPOSE_CONV"] == 1


def test_a_network_trained_in_mixed_precision(tmp_path):
    card = _export(tmp_path / "net.onnx", _network("mixed_bfloat16"))
    assert card.parity["max_abs_error"] < 1e-4  # against the float32 copy, which holds the very same weights


def test_int8_pixels_are_stored_as_they_are(tmp_path):
    from ai_edge_litert.interpreter import Interpreter

    grey = [np.full((*SIZE, 3), value, np.uint8) for value in (127, 128)]  # neither black nor white
    images = [(image, None) for image in grey]
    _export(tmp_path / "net.tflite", precision="int8", calibration=_calibration(), verification=images)
    interpreter = Interpreter(str(tmp_path / "net.tflite"))
    assert interpreter.get_input_details()[0]["quantization"] == (1.0, 0)
    assert interpreter.get_input_details()[0]["dtype"] is np.uint8
    assert interpreter.get_output_details()[0]["dtype"] is np.int8
    assert interpreter.get_signature_list() == {"serving_default": {"inputs": ["image"], "outputs": ["logits"]}}


@pytest.mark.parametrize(
    "options",
    [
        {"output": "labels"},
        {"output": "probabilities"},
        {"input_dtype": "uint8"},
        {"input_dtype": "uint8", "output": "labels"},
        {"resizable": True, "size_px": None},
        {"skip": ("fold_batch_normalization",)},
    ],
    ids=str,
)
@pytest.mark.parametrize("kind", ["tflite", "onnx"])
def test_other_forms(tmp_path, kind, options):
    path = tmp_path / f"net.{kind}"
    network = _network()
    card = _export(path, network, **options)
    assert card.output["kind"] == options.get("output", "logits")
    assert card.input["dtype"] == options.get("input_dtype", "float32")
    assert card.parity["argmax_agreement"] > 0.999
    predictor = runtime.load(path)
    assert predictor.card == card
    assert (predictor.size_px is None) is options.get("resizable", False)
    for size_px in ((40, 56), (32, 48), (36, 44)):
        image = next(iter(_pairs(1, size_px, seed=3)))[0][None]
        scores, indices = predictor(image), predictor.indices(image)
        assert scores.shape == (1, *size_px, 4)
        assert indices.shape == (1, *size_px)
        assert (scores.argmax(-1) == indices).all()
    pixels = next(iter(_pairs(1, SIZE, seed=3)))[0]
    expected = np.asarray(network(pixels[None].astype(np.float32)))[0].argmax(-1)
    assert (predictor.indices(pixels[None])[0] == expected).mean() > 0.999


def test_a_network_that_8_bits_change_much(tmp_path):
    """What was trained for 8 bits is compared with itself as it rounds: without that it may be another network."""
    network = quantization_aware(_network())
    network(np.stack([image for image, _ in _pairs()]).astype(np.float32), training=True)
    wide = next(layer for layer in network.layers if isinstance(layer, layers.QuantizedConv2D))
    wide.high.assign(60 * wide.high.value)  # four numbers are left to it
    card = _export(tmp_path / "net.tflite", network, precision="int8", calibration=_calibration())
    assert card.parity["max_abs_error"] == 0
    float_card = _export(tmp_path / "float.tflite", network)
    assert card.parity["mean_iou_keras"] != float_card.parity["mean_iou_keras"]


@pytest.mark.parametrize("output", ["logits", "labels"])
def test_the_cards_mean_iou_is_what_the_file_scores(tmp_path, output):
    path = tmp_path / "net.tflite"
    card = _export(path, precision="int8", output=output, calibration=_calibration())
    predictor, confusion = runtime.load(path), np.zeros((4, 4), np.int64)
    for image, label in _pairs():
        confusion += confusion_matrix(label, predictor.indices(image[None])[0], 4, 255)
    assert card.parity["mean_iou_file"] == pytest.approx(scores(confusion)["mean_iou"], abs=1e-12)


def test_an_image_may_not_both_calibrate_and_verify(older):
    with pytest.raises(InputError, match="an image to verify with is among those for calibration"):
        _export(older / "net.tflite", precision="int8", calibration=[image for image, _ in _pairs()])


def test_the_card_remembers_the_calibration(tmp_path):
    network = _network()
    cards = [_export(tmp_path / f"{n}.tflite", network, precision="int8", calibration=_calibration()) for n in range(2)]
    assert cards[0].calibration == cards[1].calibration
    assert cards[0].sha256 == cards[1].sha256  # the same file, bit for bit
    other = _export(tmp_path / "c.tflite", precision="int8", calibration=_calibration()[1:])
    assert other.calibration["sha256"] != cards[0].calibration["sha256"]
    assert other.calibration["images"] == 5
    assert _export(tmp_path / "d.tflite").calibration is None


@pytest.mark.parametrize(
    "changed",
    [lambda image: image / 255, lambda image: image / 127.5 - 1, lambda image: 127.5 + 0.01 * (image - 127.5)],
    ids=["0 to 1", "-1 to 1", "all grey"],
)
def test_calibration_on_the_wrong_range(older, changed):
    images = [changed(image) for image in _calibration()]
    with pytest.raises((InputError, ParityError), match=r"pixels are wanted in 0\.\.255|differs from the Keras model"):
        _export(older / "net.tflite", precision="int8", calibration=images)


def test_int8_with_the_preprocessing_of_vgg(tmp_path):
    """The converter's calibration gets a channel reversal wrong, see fold_preprocessing."""
    image = keras.Input((None, None, 3))
    keras.utils.set_random_seed(0)
    x = keras.layers.Conv2D(4, 3, padding="same")(layers.Preprocess("caffe")(image))
    card = _export(tmp_path / "net.tflite", keras.Model(image, x), precision="int8", calibration=_calibration())
    assert card.parity["relative_rms_error"] < 0.02


def test_onnx_graph(tmp_path):
    _export(tmp_path / "net.onnx")
    model = onnx.load(tmp_path / "net.onnx")
    onnx.checker.check_model(model, full_check=True)
    assert [entry.name for entry in model.graph.input] == ["image"]
    assert [entry.name for entry in model.graph.output] == ["logits"]
    assert [entry.version for entry in model.opset_import if entry.domain == ""] == [17]
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    assert LabelSet.from_dict(json.loads(metadata["labels"])) == LABELS
    weights = {tensor.name for tensor in model.graph.initializer}
    used = {name for node in model.graph.node for name in node.input}
    assert weights <= used  # nothing is carried that nothing uses
    assert not any(weights.issuperset(node.input) for node in model.graph.node)  # all that can be computed is
    kernels = [node.input[1] for node in model.graph.node if node.op_type in ("Conv", "ConvTranspose")]
    assert len(kernels) == 5  # that of the batch normalisation among them
    assert weights.issuperset(kernels)


def test_onnx_weights_in_a_second_file(tmp_path, monkeypatch):
    monkeypatch.setattr(convert.onnx, "write_onnx", partial(convert.onnx.write_onnx, external_above_bytes=0))
    card = _export(tmp_path / "net.onnx")
    assert sorted(os.listdir(tmp_path)) == ["net.onnx", "net.onnx.data", "net.onnx.json"]
    assert card.external_data == {"file": "net.onnx.data", "sha256": sha256_of(tmp_path / "net.onnx.data")}
    runtime.load(tmp_path / "net.onnx")
    (tmp_path / "net.onnx.data").write_bytes(b"")
    with pytest.raises(InputError, match=r"net\.onnx\.data: is not the file"):
        runtime.load(tmp_path / "net.onnx")


def test_labels_that_do_not_fit_give_no_mean_iou(tmp_path):
    strange = [(image, np.where(label == 1, 77, label)) for image, label in _pairs()]
    measured = _export(tmp_path / "net.onnx", verification=strange).parity
    assert (measured["mean_iou_keras"], measured["mean_iou_file"]) == (None, None)
    unlabelled = [(image, None) for image, _ in _pairs()]
    assert _export(tmp_path / "net.onnx", verification=unlabelled).parity["mean_iou_file"] is None


def test_verified_with_a_source(tmp_path):
    images, masks = zip(*_pairs(), strict=True)
    card = _export(tmp_path / "net.onnx", verification=data.arrays(images, masks, LABELS))
    assert card.parity["images"] == len(images)
    assert card.parity["mean_iou_file"] is not None
    with pytest.raises(InputError, match="`verification` must be a source of kseg.data, or"):
        _export(tmp_path / "net.onnx", verification=images)


@pytest.mark.parametrize("activation", [None, "sigmoid"])
def test_one_class_is_compared_by_its_scores(tmp_path, activation):
    """Calibrated on dark images, an 8-bit file cannot say what bright ones are; the argmax of one score is no help."""
    keras.utils.set_random_seed(0)
    image = keras.Input((None, None, 3))
    x = keras.layers.Conv2D(8, 3, padding="same", activation="relu")(image / 255.0)
    network = keras.Model(image, keras.layers.Conv2D(1, 1, activation=activation)(x))
    pairs = [(image, np.zeros_like(label)) for image, label in _pairs()]
    one = {"labels": LabelSet.numbered(1), "verification": pairs}
    arguments = {"format": "tflite", "size_px": SIZE, "precision": "int8", **one}
    dark = [image // 16 for image in _calibration()]
    with pytest.raises(ParityError, match="relative_rms_error|argmax_agreement"):
        export(network, path=tmp_path / "net.tflite", calibration=dark, **arguments)
    card = export(network, path=tmp_path / "net.tflite", calibration=_calibration(), **arguments)
    assert card.parity["relative_rms_error"] < 0.1
    assert (card.parity["mean_iou_keras"], card.parity["mean_iou_file"]) == (None, None)
    predictor = runtime.load(tmp_path / "net.tflite")
    assert predictor(pairs[0][0][None]).shape[-1] == 1
    for classify in (lambda: predictor.indices(pairs[0][0][None]), lambda: load_predictor(tmp_path / "net.tflite")):
        with pytest.raises(InputError, match=r"net\.tflite: gives one score a pixel"):
            classify()


def _both(x):
    p = keras.layers.Conv2D(1, 3, padding="same", activation="sigmoid")(x)
    return keras.layers.Concatenate()([keras.ops.square(1.0 - p), p])


def _unseen_sigmoid(x):
    return keras.layers.Lambda(keras.ops.sigmoid)(keras.layers.Conv2D(1, 1)(x))


def _gated(x):
    return keras.layers.Conv2D(1, 1, activation="sigmoid")(x) * keras.layers.Conv2D(1, 1, activation="sigmoid")(x)


@pytest.mark.parametrize("end", [_both, _unseen_sigmoid, _gated])
def test_no_second_softmax_behind_probabilities_that_only_the_scores_betray(tmp_path, end):
    image = keras.Input((None, None, 3))
    network = keras.Model(image, end(image / 255.0), name="net")
    classes = network.output_shape[-1]
    pairs = [(image, label % classes) for image, label in _pairs()]
    arguments = {"format": "tflite", "size_px": SIZE, "labels": LabelSet.numbered(classes), "verification": pairs}
    with pytest.raises(InputError, match="net: gives scores of 0 to 1, which look like probabilities, but ends in no"):
        export(network, output="probabilities", path=tmp_path / "net.tflite", **arguments)
    assert not [*tmp_path.iterdir()]
    export(network, path=tmp_path / "net.tflite", **arguments)


@pytest.mark.parametrize(("format", "precision"), [("tflite", "int8"), ("tflite", "float32"), ("onnx", "float32")])
def test_one_sigmoid_as_two_classes(tmp_path, format, precision):
    """What the message about one score tells to do."""
    keras.utils.set_random_seed(0)
    labels, pairs = LabelSet.numbered(2), [(image, label % 2) for image, label in _pairs()]
    image = keras.Input((None, None, 3))
    x = keras.layers.Conv2D(8, 3, padding="same", activation="relu")(image / 255.0)
    one = keras.Model(image, keras.layers.Conv2D(1, 1, activation="sigmoid")(x))
    with pytest.raises(InputError, match=r"gives 1 scores a pixel, its labels have 2 names; of a sigmoid p"):
        save_model(one, tmp_path / "net.keras", labels)
    two = keras.Model(one.inputs, keras.layers.Concatenate()([1 - one.output, one.output]))
    save_model(two, tmp_path / "net.keras", labels)
    model, labels = load_model(tmp_path / "net.keras")
    picture = pairs[0][0][None, : SIZE[0], : SIZE[1]]
    arguments = {"size_px": SIZE, "verification": pairs}
    if precision == "int8":
        arguments["calibration"] = _calibration()
    for output in ("logits", "probabilities", "labels"):
        path = tmp_path / f"{output}.{format}"
        card = export(model, labels, path, format=format, precision=precision, output=output, **arguments)
        assert card.output["kind"] == ("labels" if output == "labels" else "probabilities")
        predicted = load_predictor(path).indices(picture)
        share = np.mean(predicted == (one.predict(picture, verbose=0)[..., 0] > 0.5))
        assert share >= (0.9 if precision == "int8" else 1)  # of a network that was not trained


def test_probabilities_of_many_classes_in_8_bits(tmp_path):
    """In steps of 1/256, as an integer softmax has them, many of them would be equal."""
    keras.utils.set_random_seed(0)
    image = keras.Input((None, None, 3))
    network = keras.Model(image, keras.layers.Conv2D(100, 3, padding="same")(image / 255.0))
    arguments = {"format": "tflite", "precision": "int8", "size_px": SIZE, "labels": LabelSet.numbered(100)}
    arguments |= {"verification": _pairs(), "calibration": _calibration()}
    card = export(network, path=tmp_path / "a.tflite", output="probabilities", **arguments)
    assert card.parity["argmax_agreement"] > 0.97
    assert card.check["fully_accelerated"]
    image, _ = next(iter(_pairs()))
    scores = load_predictor(tmp_path / "a.tflite")(image[None])
    np.testing.assert_allclose(scores.sum(-1), 1, atol=1e-4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": ["a", "b"]}, r"`labels` must be a kseg\.labels\.LabelSet"),
        ({"verification": None}, "`verification` must be images"),
        ({"size_px": 64}, "must be a height and a width"),
        ({"size_px": "any"}, "must be a height and a width"),
        ({"size_px": (64, 0)}, "must be a height and a width"),
        ({"precision": "int8", "calibration": None}, "there are none"),
    ],
)
def test_arguments_that_mean_nothing_are_told(tmp_path, changes, message):
    arguments = {"format": "tflite", "size_px": SIZE, "verification": _pairs(), "labels": LABELS}
    with pytest.raises(InputError, match=message):
        export(_network(), path=tmp_path / "net.tflite", **{**arguments, **changes})
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("kind", ["array", "source"])
def test_what_calibration_may_be(tmp_path, kind):
    images = np.stack([image for image, _ in _pairs(4)])
    source = data.arrays(images, np.zeros(images.shape[:3], np.uint8), LABELS)
    given = images[:2] if kind == "array" else data.Subset(source, [0, 1])
    card = _export(
        tmp_path / "net.tflite", precision="int8", calibration=given, verification=data.Subset(source, [2, 3])
    )
    assert card.calibration["images"] == 2


class _Gate(keras.layers.Layer):
    def build(self, shape):
        self.gate = self.add_weight(shape=(shape[-1],), initializer="ones")

    def call(self, images):
        return images * self.gate


@pytest.mark.parametrize("format", ["tflite", "onnx"])
def test_layers_whose_names_begin_with_an_underscore(tmp_path, format):
    image = keras.Input((None, None, 3))
    network = keras.Model(image, keras.layers.Conv2D(4, 3, padding="same", name="_own")(_Gate()(image)))
    assert network.layers[1].name.startswith("_")
    path = tmp_path / f"a.{format}"
    card = export(network, LABELS, path, format=format, size_px=SIZE, verification=_pairs())
    assert card.conversion["converter"] == "structure"
    later = keras.layers.Dense(2, name="later")
    later.build((1, 2))
    assert later.kernel.path == "later/kernel"  # no scope was left open


class _Switch(keras.layers.Layer):
    def call(self, images):
        return keras.ops.cond(keras.ops.mean(images) > 100, lambda: images * 2, lambda: images)


def test_conditions_are_refused_in_a_tflite_file(tmp_path):
    image = keras.Input((None, None, 3))
    network = keras.Model(image, keras.layers.Conv2D(4, 1)(_Switch()(image)))
    with pytest.raises(ConversionError, match=r"3 subgraphs, and only one works: conditions and loops"):
        export(network, LABELS, tmp_path / "a.tflite", format="tflite", size_px=SIZE, verification=_pairs())
    assert not [*tmp_path.iterdir()]


def test_what_is_always_zero_in_16_bits(tmp_path):
    """LiteRT's addition of 16 bits would end the process, were the zeros stored in steps of 1."""
    keras.utils.set_random_seed(0)
    image = keras.Input((None, None, 3))
    x = keras.layers.Conv2D(4, 3, padding="same", activation="relu")(image / 255.0)
    dead = keras.layers.Conv2D(4, 1, activation="relu", kernel_initializer="zeros")(x)
    network = keras.Model(image, keras.layers.Conv2D(4, 1)(x + dead))
    card = _export(tmp_path / "net.tflite", network, precision="int16x8", calibration=_calibration())
    assert card.parity["relative_rms_error"] < 0.01


def test_a_network_that_takes_uint8(tmp_path):
    image = keras.Input((None, None, 3), dtype="uint8")
    network = keras.Model(image, keras.layers.Conv2D(4, 3, padding="same")(keras.layers.Rescaling(1 / 255)(image)))
    assert _export(tmp_path / "net.tflite", network).parity["argmax_agreement"] == 1.0


def test_softmax_is_told(tmp_path):
    network = _network()
    network = keras.Model(network.inputs[0], keras.layers.Activation("softmax")(network.outputs[0]))
    assert _export(tmp_path / "net.onnx", network).output["kind"] == "probabilities"


# ---- planted faults: each is caught, leaves nothing behind, and harms no older file


def _weights_lost(network):
    return keras.models.clone_model(network)  # freshly initialised


def _not_a_number(network):
    broken = keras.models.clone_model(network)
    broken.set_weights(network.get_weights())
    broken.weights[0].assign(np.full(broken.weights[0].shape, np.nan))
    return broken


def _channels_swapped(network):
    image = network.inputs[0]
    return keras.Model(image, network(keras.ops.flip(image, axis=-1)), name="swapped")


def _classes_swapped(network):
    return keras.Model(network.inputs[0], keras.ops.flip(network.outputs[0], axis=-1), name="swapped")


FAULTS = [_weights_lost, _channels_swapped, _classes_swapped]


@pytest.fixture
def older(tmp_path):
    """A folder with files of an earlier export, which must be there unchanged at the end of the test."""
    before = {f"net.{suffix}": suffix.encode() for suffix in ("tflite", "tflite.json", "onnx", "onnx.json")}
    for name, content in before.items():
        (tmp_path / name).write_bytes(content)
    yield tmp_path
    assert {entry.name: entry.read_bytes() for entry in tmp_path.iterdir()} == before


@pytest.mark.parametrize(
    ("kind", "precision", "fault"),
    [
        *[(*target, fault) for target in (("tflite", "int8"), ("onnx", "float32")) for fault in FAULTS],
        # An 8-bit file cannot hold NaN, and the converter crashes on it.
        *[(kind, "float32", _not_a_number) for kind in ("tflite", "onnx")],
    ],
)
def test_planted_fault(older, kind, precision, fault, monkeypatch):
    module, name = {"tflite": (convert.tflite, "write_tflite"), "onnx": (convert.onnx, "write_onnx")}[kind]
    honest = getattr(module, name)
    monkeypatch.setattr(module, name, lambda network, *rest, **more: honest(fault(network), *rest, **more))
    calibration = _calibration()
    with pytest.raises(ParityError, match=r"net\.\w+: differs from the Keras model on 3 images: .*No file was written"):
        _export(older / f"net.{kind}", precision=precision, calibration=calibration)


def _open_batch(network, path):
    # Honest in all but the size of the batch, which kills every delegate.
    free = keras.Model(image := keras.Input((*SIZE, 3)), network(image))
    path.write_bytes(_plainly_converted(free))


def _flex(network, path):
    image = keras.Input((*SIZE, 3), batch_size=1)
    scores = network(image)
    inverse = keras.ops.inv(keras.ops.eye(3) + 1e-9 * image[:, :3, :3, 0])
    scores += 1e-30 * keras.ops.sum(inverse)  # changes no score
    path.write_bytes(_plainly_converted(keras.Model(image, scores), flex=True))


def _plainly_converted(network, flex=False):
    converter = tf.lite.TFLiteConverter.from_keras_model(network)
    if flex:
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS, tf.lite.OpsSet.SELECT_TF_OPS]
    with muted():
        return converter.convert()


@pytest.mark.parametrize(
    ("write", "message"),
    [(_open_batch, r"net.tflite: leaves sizes open: .*\?"), (_flex, "not built in: FlexMatrixInverse")],
)
def test_a_converter_that_writes_what_phones_cannot_run(older, monkeypatch, write, message):
    def planted(network, path, *rest, **more):
        write(network, path)
        return {}

    monkeypatch.setattr(convert.tflite, "write_tflite", planted)
    with pytest.raises(ConversionError, match=message):
        _export(older / "net.tflite")


@pytest.mark.parametrize("kind", ["tflite", "onnx"])
def test_names_swapped(older, monkeypatch, kind):
    """The right scores under the wrong names, in what other programs read."""
    swapped = LabelSet(LABELS.names[::-1], LABELS.colours, LABELS.ignore)
    if kind == "tflite":
        honest = convert.tflite.append_labels
        monkeypatch.setattr(convert.tflite, "append_labels", lambda file, _: honest(file, swapped))
    else:
        told, honest = json.dumps(swapped.to_dict()), convert.onnx.write_onnx
        monkeypatch.setattr(
            convert.onnx,
            "write_onnx",
            lambda network, path, precision, properties, **more: honest(
                network, path, precision, {**properties, "labels": told}, **more
            ),
        )
    with pytest.raises((ConversionError, InputError), match=f"net.{kind}: .*3, 2, 1, 0"):
        _export(older / f"net.{kind}")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_of_a_diverged_training(older, value):
    network = _network()
    network.weights[0].assign(np.full(network.weights[0].shape, value))
    with pytest.raises(InputError, match=r"the weights conv2d.*/kernel hold NaN or infinity"):
        _export(older / "net.tflite", network, precision="int8", calibration=_calibration())


def test_a_network_that_computes_nan(older):
    network = _network()
    network = keras.Model(network.inputs[0], keras.ops.log(network.outputs[0] - 1e6))
    with pytest.raises(ParityError, match="computes NaN or infinity for a verification image"):
        _export(older / "net.tflite", network, precision="int8", calibration=_calibration())


def test_labels_of_nan_on_a_later_image(older):
    """An index is a number, whatever it was chosen from."""
    network = keras.Model(given := _network().inputs[0], keras.layers.Conv2D(4, 1)(keras.ops.log(given - 0.5)))
    bright, dark = ((np.maximum(image, 1), label) for image, label in _pairs(2))
    dark[0][:9] = 0
    with pytest.raises(ParityError, match="computes NaN or infinity for a verification image"):
        _export(older / "net.tflite", network, output="labels", verification=[bright, dark])


def test_a_size_that_the_network_cannot_take(older):
    image = keras.Input((None, None, 3))
    x = keras.layers.UpSampling2D(4)(keras.layers.MaxPooling2D(4)(image))
    network = keras.Model(image, keras.layers.Conv2D(4, 1)(keras.layers.Concatenate()([image, x])))
    later = [*_pairs(1, (32, 48)), *_pairs(1, (30, 50))]
    for changes in (
        {"size_px": (30, 50)},
        *({"resizable": True, "verification": pairs} for pairs in (later[1:], later)),
    ):
        with pytest.raises(InputError, match=r"cannot compute an image of 30 x 50 .*; choose a size"):
            _export(older / "net.tflite", network, **changes)


class Stripes(keras.layers.Layer):
    """Adds a channel that says in which row a pixel is."""

    def call(self, images):
        rows = np.broadcast_to(np.linspace(-1, 1, SIZE[0], dtype="float32")[None, :, None, None], (1, *SIZE, 1))
        return keras.ops.concatenate([images, keras.ops.convert_to_tensor(rows)], -1)


@pytest.mark.parametrize(("kind", "precision"), [("tflite", "int8"), ("tflite", "int16x8"), ("onnx", "int8")])
def test_constants_beside_activations(tmp_path, kind, precision):
    keras.utils.set_random_seed(0)
    image = keras.Input((*SIZE, 3))
    x = Stripes()(keras.layers.Conv2D(4, 3, padding="same")(image / 25.0))
    network = keras.Model(image, keras.layers.Conv2D(4, 1)(x))
    card = _export(tmp_path / f"net.{kind}", network, precision=precision, calibration=_calibration())
    assert card.parity["relative_rms_error"] < 0.03


def test_constants_that_a_layer_holds(tmp_path):
    layer = keras.layers.Normalization(mean=[120.0, 115, 100], variance=[3600.0] * 3)
    image = keras.Input((None, None, 3))
    network = keras.Model(image, keras.layers.Conv2D(4, 1)(layer(image)))
    for skip in ((), ("fold_preprocessing",)):
        assert _export(tmp_path / "net.onnx", network, skip=skip).parity["relative_rms_error"] < 1e-6


def test_inner_networks_in_mixed_precision(tmp_path):
    image, features = keras.Input((None, None, 3)), keras.Input((None, None, 8))
    encode = keras.layers.Conv2D(8, 3, padding="same", dtype="mixed_bfloat16")
    decode = keras.layers.Conv2D(4, 1, dtype="float32")
    inner = keras.Model(image, encode(keras.layers.Rescaling(1 / 255)(image))), keras.Model(features, decode(features))
    network = keras.Model(image, inner[1](inner[0](image)))
    assert _export(tmp_path / "net.onnx", network).parity["relative_rms_error"] < 1e-5


@pytest.mark.parametrize("output", ["logits", "probabilities", "labels"])
@pytest.mark.parametrize(("name", "precision"), [("net.tflite", "int8"), ("net.onnx", "float32")])
def test_a_broken_copy(older, monkeypatch, name, precision, output):
    """What is converted is another network than the one that was given: here, its classes the other way round."""

    def broken(network, *arguments, real=convert.lower_with_ranges, **options):
        return real(keras.Model(network.inputs, network.output[..., ::-1]), *arguments, **options)

    monkeypatch.setattr(convert, "lower_with_ranges", broken)
    with pytest.raises(ParityError, match="lowered for the export, it differs from itself"):
        _export(older / name, precision=precision, output=output, calibration=_calibration())


def test_a_lower_mean_iou(older, monkeypatch):
    strict = replace(parity.TOLERANCES["float32"], mean_iou_drop=-0.1)  # the file must be better than Keras: it is not
    monkeypatch.setitem(parity.TOLERANCES, "float32", strict)
    with pytest.raises(ParityError, match=r"mean_iou 0\.\d+ instead of 0\.\d+"):
        _export(older / "net.onnx")


IMAGE = np.full((*SIZE, 3), 99, np.uint8)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"verification": [(IMAGE / 255.0, None)]}, "reach up to 0.388: pixels are wanted in 0..255, not scaled"),
        ({"verification": [("a.png", None)]}, r"image of `verification` must be .*\[H, W, 3\].*Received: str"),
        ({"verification": [(IMAGE[None], None)]}, r"image of `verification` .*Received: uint8 \(1, 32, 48, 3\)"),
        ({"verification": [(IMAGE, IMAGE[..., :1])]}, r"a mask of `verification` must be \[H, W\]"),
        ({"calibration": ["a.png"]}, "image of `calibration` .*Received: str"),
        ({"calibration": [(IMAGE, None)]}, "image of `calibration` .*Received: tuple"),
        ({"calibration": [IMAGE[None]]}, r"image of `calibration` .*\(1, 32, 48, 3\)"),
        ({"float_layers": "conv2d_9"}, "no layer conv2d_9 that could stay in float"),
    ],
)
def test_arguments_of_another_form(older, changes, message):
    with pytest.raises(InputError, match=message):
        _export(older / "net.tflite", **{"precision": "int8", "calibration": _calibration(), **changes})
    with pytest.raises(ValueError, match="Received: fold_all"):
        _export(older / "net.tflite", skip="fold_all")


def test_a_name_that_leaves_no_room_for_the_cards(older):
    with pytest.raises(InputError, match="too long a name for a file and its card"):
        _export(older / f"{'n' * 244}.tflite")


def test_a_layer_that_cannot_be_copied(older):
    class Closed(keras.layers.Layer):
        def __init__(self, function, **options):
            super().__init__(**options)
            self.function = function

        def call(self, images):
            return self.function(images)

    image = keras.Input((None, None, 3))
    x = Closed(keras.ops.relu, name="closed", dtype="mixed_bfloat16")(image)
    network = keras.Model(image, keras.layers.Conv2D(4, 1, dtype="float32")(x))
    with pytest.raises(InputError, match=r"closed: a Closed cannot be copied to float32 .*get_config"):
        _export(older / "net.tflite", network)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("a reader's fault"), SystemExit(3)])
def test_interrupted(older, error):
    def pairs():
        yield from _pairs(1)
        raise error

    with pytest.raises(type(error)):
        _export(older / "net.tflite", verification=pairs())


def test_full_disk(older, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(convert.os, "fsync", full)
    with pytest.raises(InputError, match="no space left on the disk; nothing was written"):
        _export(older / "net.onnx")


@pytest.mark.parametrize("moved", [0, 1])
@pytest.mark.parametrize("error", [KeyboardInterrupt(), PermissionError("no")])
def test_stopped_between_the_file_and_its_card(older, monkeypatch, moved, error):
    done, real = [], os.replace

    def stopping(source, target):
        if len(done) == moved and not str(source).endswith(".old"):
            raise error
        done.append(target)
        real(source, target)

    monkeypatch.setattr(convert.os, "replace", stopping)
    with pytest.raises(type(error)):
        _export(older / "net.onnx")
    assert len(done) >= moved


def test_stopped_where_nothing_was_before(tmp_path, monkeypatch):
    real = os.replace

    def stopping(source, target):
        if str(target).endswith(".json"):
            raise KeyboardInterrupt
        real(source, target)

    monkeypatch.setattr(convert.os, "replace", stopping)
    with pytest.raises(KeyboardInterrupt):
        _export(tmp_path / "net.onnx")
    assert not os.listdir(tmp_path)


def test_an_older_file_is_replaced(tmp_path):
    for suffix in ("onnx", "onnx.json"):
        (tmp_path / f"net.{suffix}").write_text("old")
    card = _export(tmp_path / "net.onnx")
    assert runtime.load(tmp_path / "net.onnx").card == card
    assert sorted(os.listdir(tmp_path)) == ["net.onnx", "net.onnx.json"]


# ---- what is asked for


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("net.tflite", {"precision": "int8"}, "8 bits need images for calibration"),
        ("net.tflite", {"precision": "int8", "calibration": []}, "8 bits need images for calibration"),
        (
            "net.tflite",
            {"precision": "int4"},
            "tflite files come in float32, float16, dynamic, int8, int16x8. Received: int4",
        ),
        ("net.onnx", {"precision": "int8"}, "8 bits need images for calibration"),
        ("net.onnx", {"precision": "dynamic"}, "onnx files come in float32, float16, int8. Received: dynamic"),
        ("net.onnx", {"format": "tflite"}, "must end in .tflite"),
        ("net.onnx", {"format": "tfjs"}, "must be one of tflite, onnx"),
        ("net.onnx", {"size_px": None}, "say the height and width"),
        ("net.onnx", {"verification": []}, "no images to check the file with"),
    ],
)
def test_mistakes(older, name, changes, message):
    with pytest.raises(InputError, match=message):
        _export(older / name, **changes)


def test_another_number_of_classes(older):
    with pytest.raises(InputError, match="has 4 classes, the label set 2"):
        export(_network(), LabelSet.numbered(2), older / "net.onnx", format="onnx", size_px=SIZE, verification=_pairs())


def test_missing_converter(older, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "tf2onnx", None)
    with pytest.raises(ImportError, match=r"kseg\[onnx\]"):
        _export(older / "net.onnx")


def test_no_flex_operators(older):
    image = keras.Input((None, None, 3))
    network = keras.Model(image, keras.ops.erfinv(image / 300.0) + keras.layers.Conv2D(4, 1)(image)[..., :3])
    with pytest.raises(ConversionError, match=r"TFLite: .*[Ee]rfinv"):
        export(
            network, LabelSet.numbered(3), older / "net.tflite", format="tflite", size_px=SIZE, verification=_pairs()
        )


def test_the_converters_are_quiet(tmp_path, capfd):
    _export(tmp_path / "net.tflite", precision="int8", calibration=_calibration())
    _export(tmp_path / "net.onnx")
    out, err = capfd.readouterr()
    assert (out, err) == ("", "")
