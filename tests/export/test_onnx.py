"""The ONNX writer by itself; tests/export/test_export.py tests it as a part of `export`."""

import keras
import numpy as np
import onnx
import onnxruntime
import pytest
from conftest import over_networks

from kseg.errors import CheckError, InputError
from kseg.export import ConversionError
from kseg.export.onnx import OPSET, PRECISIONS, int8, weights, write_onnx
from kseg.lowering import lower

SIZE, ODD = (32, 40), (33, 40)


def _filled(build, classes=5):
    """A network whose every weight counts, and whose activations neither vanish nor explode."""
    keras.utils.set_random_seed(0)
    network = build(classes=classes)
    rng = np.random.default_rng(0)
    for layer in network.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.set_weights([rng.uniform(0.6, 1.2, weight.shape) for weight in layer.weights])
        elif layer.name.startswith("score"):
            layer.set_weights([rng.normal(0, 0.1, weight.shape) for weight in layer.weights])
    return network


def _small(classes=4, head=None):
    """Convolutions of every kind; `head` comes last."""
    keras.utils.set_random_seed(1)
    image = keras.Input((None, None, 3))
    x = keras.layers.Rescaling(1 / 127.5, -1)(image)
    x = skip = keras.layers.Conv2D(16, 3, padding="same", activation="relu", bias_initializer="normal")(x)
    x = keras.layers.MaxPooling2D()(x)
    x = keras.layers.DepthwiseConv2D(3, padding="same", bias_initializer="normal", name="depthwise")(x)
    x = keras.layers.ReLU(6.0)(x)
    x = keras.layers.Conv2DTranspose(8, 2, 2, padding="same", name="enlarge")(x)
    x = keras.layers.Concatenate()([x, skip])
    x = keras.layers.Conv2D(classes, 1, name="last")(x)
    return keras.Model(image, head(x) if head else x, name="small")


def _pictures(count=4, size_px=SIZE, most=256):
    rng = np.random.default_rng(5)
    return [np.kron(rng.integers(0, most, (9, 10, 3)), np.ones((4, 4, 1)))[: size_px[0], : size_px[1]].astype(np.uint8)
        for _ in range(count)]  # fmt: skip


def _run(path, image, precise=False):
    options = onnxruntime.SessionOptions()
    if precise:  # ONNX Runtime's way around the overflow of 8 bits on processors with AVX2
        options.add_session_config_entry("session.x64quantprecision", "1")
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    dtype = {"tensor(float)": np.float32, "tensor(uint8)": np.uint8}[session.get_inputs()[0].type]
    return session.run(None, {"image": image[None].astype(dtype)})[0]


def _keras(network, image):
    return np.asarray(network(image[None].astype(network.inputs[0].dtype), training=False))


def _error(found, expected):
    assert found.shape == expected.shape
    return np.abs(found - expected).max() / np.abs(expected).max()


def _relative_rms(found, expected):
    return np.sqrt(((found - expected) ** 2).mean() / (expected**2).mean())


def _checked(path):
    onnx.checker.check_model(str(path), full_check=True)
    return onnx.load(path)


def _shape(entry):
    return [dim.dim_param or dim.dim_value for dim in entry.type.tensor_type.shape.dim]


# ---- all networks


@over_networks("fcn32s", "fcn8s", "unet", "unet_bilinear", "unet_mobilenet_v2")
def test_fixed_size(tmp_path, build):
    network, path = lower(_filled(build), ODD), tmp_path / "net.onnx"
    assert write_onnx(network, path, metadata={"network": network.name}) == [path]
    proto = _checked(path)
    (image,), (output,) = proto.graph.input, proto.graph.output
    assert (image.name, _shape(image)) == ("image", [1, *ODD, 3])
    assert (output.name, _shape(output)) == ("logits", [1, *ODD, 5])
    assert {entry.key: entry.value for entry in proto.metadata_props} == {"network": network.name, "opset": str(OPSET)}
    assert [(entry.domain, entry.version) for entry in proto.opset_import] == [("", OPSET)]
    given = {tensor.name for tensor in proto.graph.initializer}
    assert given <= {entry for node in proto.graph.node for entry in node.input}  # nothing is carried in vain
    assert not any(given.issuperset(node.input) for node in proto.graph.node)  # all that can be computed is
    layers = {layer.name for layer in network.layers}
    for node in proto.graph.node:
        if "Conv" in node.op_type:
            assert node.name in layers
            assert node.input[1] in {weight.path for weight in network.weights}
    picture = _pictures(1, ODD)[0]
    assert _error(_run(path, picture), _keras(network, picture)) < 1e-5


@over_networks("fcn8s", "unet_bilinear")
def test_any_size(tmp_path, build):
    network, path = lower(_filled(build), None, resizable=True), tmp_path / "net.onnx"
    write_onnx(network, path)
    graph = _checked(path).graph
    assert _shape(graph.input[0]) == [1, "height", "width", 3]
    assert _shape(graph.output[0]) == [1, "height", "width", 5]
    for size_px in ((33, 40), (32, 32), (39, 47)):
        picture = np.resize(_pictures(1)[0], (*size_px, 3))
        assert _error(_run(path, picture), _keras(network, picture)) < 1e-5


def test_nearest_upsampling_in_words_of_today(tmp_path):
    image = keras.Input((None, None, 3))
    network = keras.Model(image, keras.layers.UpSampling2D(4)(keras.layers.Conv2D(3, 3, 4, padding="same")(image)))
    for path, options in ((tmp_path / "a.onnx", {"size_px": (32, 40)}), (tmp_path / "b.onnx", {"size_px": None})):
        lowered = lower(network, resizable=options["size_px"] is None, **options)
        write_onnx(lowered, path)
        (node,) = (node for node in _checked(path).graph.node if node.op_type == "Resize")
        modes = {attribute.name: attribute.s for attribute in node.attribute}
        assert modes["coordinate_transformation_mode"] == b"half_pixel"
        picture = np.resize(_pictures(1)[0], (32, 40, 3))
        assert _error(_run(path, picture), _keras(lowered, picture)) < 1e-5


# ---- what is asked for


@pytest.mark.parametrize("resizable", [False, True])
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(
    ("output", "dtype", "classes", "element"),
    [("logits", "uint8", 4, "FLOAT"), ("probabilities", "float32", 4, "FLOAT"), ("labels", "uint8", 4, "UINT8"),
     ("labels", "float32", 300, "INT32")],
)  # fmt: skip
def test_outputs_and_inputs(tmp_path, precision, output, dtype, classes, element, resizable):
    size_px = None if resizable else SIZE
    network = lower(_small(classes), size_px, output=output, input_dtype=dtype, resizable=resizable)
    path = tmp_path / "net.onnx"
    write_onnx(network, path, precision, output=output, calibration=_pictures())
    graph = _checked(path).graph
    assert graph.output[0].name == output
    assert graph.output[0].type.tensor_type.elem_type == getattr(onnx.TensorProto, element)
    assert _shape(graph.output[0])[1:3] == (["height", "width"] if resizable else [*SIZE])
    picture = _pictures(5)[-1]
    found, expected = _run(path, picture), _keras(network, picture)
    assert found.dtype == expected.dtype
    if output == "labels":
        assert (found == expected).mean() > {"float32": 0.999, "float16": 0.98, "int8": 0.8}[precision]
    else:
        assert _error(found, expected) < {"float32": 1e-5, "float16": 1e-2, "int8": 0.1}[precision]


@pytest.mark.parametrize("precision", ["float32", "float16", "int8"])
@pytest.mark.parametrize("size", [SIZE, (None, None)])
def test_a_border_of_zeros_counts_in_a_maximum(tmp_path, precision, size):
    """ResNet50V2 of Keras begins so."""
    image = keras.Input((None, None, 3))
    x = keras.layers.Conv2D(8, 3, padding="same", bias_initializer=keras.initializers.Constant(-2.0))(image / 255.0)
    x = keras.layers.MaxPooling2D(3, 2)(keras.layers.ZeroPadding2D(1)(x))
    network = keras.Model(image, keras.layers.UpSampling2D()(x))
    lowered = lower(network, SIZE) if size == SIZE else lower(network, None, resizable=True)
    write_onnx(lowered, tmp_path / "small.onnx", precision, calibration=_pictures())
    picture = _pictures()[0]
    expected = _keras(network, picture)
    assert expected[0, 0].max() == 0 > expected[0, 4:-4, 4:-4].mean()
    allowed = {"float32": 1e-6, "float16": 2e-3, "int8": 0.03}[precision]
    assert np.abs(_run(tmp_path / "small.onnx", picture) - expected).max() <= allowed * np.abs(expected).max()


@pytest.mark.parametrize("sizes", [((7, 10), (31, 31)), ((23, 41), SIZE), ((16, 20), (31, 39))])
def test_resized_to_sizes_that_no_factor_in_float32_gives(tmp_path, sizes):
    image = keras.Input((None, None, 3))
    x = image / 255.0
    for height, width in (*sizes, SIZE):
        x = keras.layers.Resizing(height, width)(x)
    network = keras.Model(image, keras.layers.Conv2D(2, 1)(x))
    write_onnx(lower(network, SIZE), tmp_path / "small.onnx")
    _checked(tmp_path / "small.onnx")
    picture = _pictures()[0]
    assert _error(_run(tmp_path / "small.onnx", picture), _keras(network, picture)) <= 1e-5


def test_half_precision_is_for_kernels(tmp_path):
    write_onnx(lower(_small(), SIZE), tmp_path / "net.onnx", "float16")
    kinds = {tensor.name: tensor.data_type for tensor in onnx.load(tmp_path / "net.onnx").graph.initializer}
    assert kinds["last/kernel_float16"] == onnx.TensorProto.FLOAT16
    assert kinds["last/bias"] == onnx.TensorProto.FLOAT


def test_a_bias_goes_into_its_depthwise_convolution(tmp_path):
    write_onnx(lower(_small(), SIZE), tmp_path / "net.onnx")
    nodes = {node.name: node for node in onnx.load(tmp_path / "net.onnx").graph.node}
    assert [*nodes["depthwise"].input[1:]] == ["depthwise/kernel", "depthwise/bias"]
    assert "Add" not in {node.op_type for node in nodes.values()}


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("other", ["mean", "weight"])
def test_a_second_bias(tmp_path, precision, other):
    """Of a sum with the image's mean Keras makes a BiasAdd, and tf2onnx a convolution with two biases."""

    class Shift(keras.layers.Layer):
        def build(self, shape):
            self.shift = self.add_weight(shape=(shape[-1],), initializer="normal")

        def call(self, values):
            return values + self.shift

    def head(x):
        second = {"mean": keras.layers.GlobalAveragePooling2D(keepdims=True), "weight": Shift()}[other]
        convolution = keras.layers.Conv2D(4, 3, padding="same", bias_initializer="normal")(x)
        return keras.layers.Add()([convolution, second(x)]) if other == "mean" else second(convolution)

    network = lower(_small(4, head), SIZE)
    write_onnx(network, tmp_path / "net.onnx", precision, calibration=_pictures())
    assert all(len(node.input) <= 3 for node in _checked(tmp_path / "net.onnx").graph.node if node.op_type == "Conv")
    picture = _pictures(1)[0]
    error = _relative_rms(_run(tmp_path / "net.onnx", picture), _keras(network, picture))
    assert error < {"float32": 1e-5, "float16": 2e-3, "int8": 0.05}[precision]


def test_a_channel_without_weights_keeps_its_bias(tmp_path):
    """As a normalisation with a gamma of zero leaves it."""
    network = _small()
    first = next(layer for layer in network.layers if isinstance(layer, keras.layers.Conv2D))
    kernel, bias = first.get_weights()
    kernel[..., 3], bias[3] = 0, 0.4
    first.set_weights([kernel, bias])
    network = lower(network, SIZE)
    write_onnx(network, tmp_path / "net.onnx", "int8", calibration=_pictures())
    picture = _pictures(1)[0]
    assert _relative_rms(_run(tmp_path / "net.onnx", picture), _keras(network, picture)) < 0.05


@pytest.mark.parametrize("precision", PRECISIONS)
def test_grouped_convolutions(tmp_path, precision):
    """Keras lets XLA compile them, in a function of their own."""
    network = lower(_small(12, lambda x: keras.layers.Conv2D(4, 3, groups=4, padding="same", name="grouped")(x)), SIZE)
    write_onnx(network, tmp_path / "net.onnx", precision, calibration=_pictures())
    groups = [attribute.i for node in _checked(tmp_path / "net.onnx").graph.node for attribute in node.attribute
        if attribute.name == "group"]  # fmt: skip
    assert 4 in groups
    picture = _pictures(1)[0]
    error = _relative_rms(_run(tmp_path / "net.onnx", picture), _keras(network, picture))
    assert error < {"float32": 1e-5, "float16": 2e-3, "int8": 0.05}[precision]


def test_a_bias_that_others_use_stays(tmp_path):
    image = keras.Input((None, None, 3))
    share = keras.layers.DepthwiseConv2D(3, padding="same", bias_initializer="normal")
    network = lower(keras.Model(image, share(keras.layers.ReLU()(share(image)))), SIZE)
    write_onnx(network, tmp_path / "net.onnx")
    picture = _pictures(1)[0]
    assert _error(_run(tmp_path / "net.onnx", picture), _keras(network, picture)) < 1e-5


@pytest.mark.parametrize("dtype", ["int32", "float32"])
def test_division_rounds_down(tmp_path, dtype):
    """tf2onnx alone rounds whole numbers towards zero."""
    image = keras.Input(batch_shape=(1, None, None, 3), name="image")
    whole = keras.ops.cast(image, dtype) - 40
    network = keras.Model(image, keras.ops.cast(whole // 7, "float32") * 100 + keras.ops.cast(whole % 7, "float32"))
    write_onnx(network, tmp_path / "net.onnx")
    picture = _pictures(1, most=80)[0]
    np.testing.assert_array_equal(_run(tmp_path / "net.onnx", picture), _keras(network, picture))


# ---- the file


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_same_network_gives_the_same_file(tmp_path, precision):
    network = lower(_small(), SIZE)
    for name in ("a.onnx", "b.onnx"):
        write_onnx(network, tmp_path / name, precision, calibration=_pictures())
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["a.onnx", "b.onnx"]  # nothing temporary stays


@pytest.mark.parametrize("precision", PRECISIONS)
def test_weights_in_a_second_file(tmp_path, precision):
    network, one, two = lower(_small(), SIZE), tmp_path / "one.onnx", tmp_path / "two.onnx"
    write_onnx(network, one, precision, calibration=_pictures())
    written = write_onnx(network, two, precision, calibration=_pictures(), external_above_bytes=0)
    assert written == [two, tmp_path / "two.onnx.data"]
    onnx.checker.check_model(str(two), full_check=True)
    assert two.stat().st_size < one.stat().st_size
    picture = _pictures(1)[0]
    np.testing.assert_array_equal(_run(two, picture), _run(one, picture))


@pytest.mark.parametrize("piece_bytes", [1, 100, 2**22])
@pytest.mark.parametrize("external_above_bytes", [0, 10**9])
def test_arrays_of_every_form(tmp_path, monkeypatch, piece_bytes, external_above_bytes):
    monkeypatch.setattr(weights, "PIECE_BYTES", piece_bytes)
    rng = np.random.default_rng(0)
    arrays = {
        "empty": np.zeros((0, 3), np.float32),
        "scalar": np.array(7, np.int64),
        "turned": rng.normal(size=(3, 5, 7, 11)).astype(np.float32).transpose(3, 2, 0, 1),
        "half": np.arange(64, dtype=np.float16),
        "n" * 200: np.arange(30_000, dtype=np.int8),
    }
    proto = onnx.helper.make_model(onnx.helper.make_graph([], "g", [], []), doc_string="d" * 300)
    path = tmp_path / "net.onnx"
    weights.write(proto, arrays, path, external_above_bytes)
    assert not proto.graph.initializer
    loaded = onnx.load(path)
    assert loaded.doc_string == "d" * 300
    assert [tensor.name for tensor in loaded.graph.initializer] == [*arrays]
    for tensor in loaded.graph.initializer:
        np.testing.assert_array_equal(onnx.numpy_helper.to_array(tensor), arrays[tensor.name])


# ---- 8 bits


@pytest.fixture(scope="module")
def eight_bits(tmp_path_factory):
    """(the network, its int8 file)."""
    network, path = lower(_small(), SIZE), tmp_path_factory.mktemp("int8") / "net.onnx"
    write_onnx(network, path, "int8", {"network": "small"}, calibration=_pictures())
    return network, path


def test_int8_computes_nearly_the_same(eight_bits):
    network, path = eight_bits
    for picture in _pictures(8)[4:]:
        found, expected = _run(path, picture), _keras(network, picture)
        assert _relative_rms(found, expected) < 0.05
        assert (found.argmax(-1) == expected.argmax(-1)).mean() > 0.93


def test_int8_overflows_on_no_processor(eight_bits):
    """Two products of a uint8 and a weight fit into 16 bits as long as the weights have 7."""
    _, path = eight_bits
    kernels = [tensor for tensor in onnx.load(path).graph.initializer if tensor.name.endswith("/kernel_quantized")]
    assert len(kernels) == 4
    assert all(np.abs(onnx.numpy_helper.to_array(kernel).astype(int)).max() == 64 for kernel in kernels)
    picture = np.full((*SIZE, 3), 255, np.uint8)
    np.testing.assert_array_equal(_run(path, picture), _run(path, picture, precise=True))


def test_int8_file(eight_bits):
    _, path = eight_bits
    proto = _checked(path)
    assert {entry.key: entry.value for entry in proto.metadata_props} == {"network": "small", "opset": str(OPSET)}
    assert [entry.domain for entry in proto.opset_import] == [""]
    kinds = [node.op_type for node in proto.graph.node]
    assert kinds.count("Conv") == 3
    assert "Relu" not in kinds  # the range of the activation does it
    makers = {name: node for node in proto.graph.node for name in node.output}
    for node in proto.graph.node:
        if "Conv" in node.op_type:
            assert [makers[name].op_type for name in node.input] == ["DequantizeLinear"] * len(node.input)
    scales = {tensor.name: tensor.dims for tensor in proto.graph.initializer if tensor.name.endswith("/kernel_scale")}
    assert [*scales["last/kernel_scale"]] == [4]  # one a channel
    assert [*scales["enlarge/kernel_scale"]] == [8]


def test_int8_is_about_as_good_as_onnxruntime_alone(eight_bits, tmp_path, monkeypatch):
    """Its own `quantize_static` sees all weights; the stand-ins must lead to the very same ones."""
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    (network, _), path = eight_bits, tmp_path / "ours.onnx"
    monkeypatch.setattr(int8, "equalise", lambda _, weights, ranges: (weights, ranges))
    write_onnx(network, path, "int8", calibration=_pictures())
    write_onnx(network, tmp_path / "float.onnx")
    pictures = iter([*_pictures(), *(np.full((*SIZE, 3), value) for value in (0, 255))])

    class Reader:
        def get_next(self):
            return next(({"image": np.float32(picture)[None]} for picture in pictures), None)

    quantize_static(
        tmp_path / "float.onnx", tmp_path / "theirs.onnx", Reader(), QuantFormat.QDQ, per_channel=True,
        reduce_range=True, activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
    )  # fmt: skip
    ours, theirs = (
        {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in onnx.load(file).graph.initializer}
        for file in (path, tmp_path / "theirs.onnx")
    )
    kernels = [name for name in theirs if "/kernel_" in name]
    assert len(kernels) == 12  # each with its scale and its zero point
    for name in kernels:
        np.testing.assert_array_equal(ours[name], theirs[name])


def test_int8_reaches_from_black_to_white_whatever_the_images_show(tmp_path):
    path = tmp_path / "net.onnx"
    grey = [np.full((*SIZE, 3), value, np.uint8) for value in (127, 128)]
    image = keras.Input((None, None, 3))
    scores = keras.layers.Conv2D(4, 3, padding="same")(keras.layers.Rescaling(1 / 127.5, -1)(image))
    network = lower(keras.Model(image, scores), SIZE)  # one subtraction is left before the convolution
    write_onnx(network, path, "int8", calibration=grey)
    graph = onnx.load(path).graph
    values = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    first = next(node for node in graph.node if node.op_type == "QuantizeLinear")
    scale, zero = float(values[first.input[1]]), int(values[first.input[2]])
    assert (-zero * scale, (255 - zero) * scale) == pytest.approx((-127.5, 127.5), abs=1)


def test_layers_that_stay_in_float(tmp_path):
    network, path = lower(_small(), SIZE), tmp_path / "net.onnx"
    write_onnx(network, path, "int8", calibration=_pictures(), float_nodes=["last", "depthwise"])
    kinds = {tensor.name: tensor.data_type for tensor in _checked(path).graph.initializer}
    assert kinds["last/kernel"] == kinds["depthwise/kernel"] == onnx.TensorProto.FLOAT
    assert kinds["enlarge/kernel_quantized"] == onnx.TensorProto.INT8
    with pytest.raises(InputError, match="is called lost"):
        write_onnx(network, path, "int8", calibration=_pictures(), float_nodes=["last", "lost"])


@pytest.mark.parametrize("turned", [False, True])
def test_int8_with_a_softmax_inside(tmp_path, turned):
    """On images with sharper scores than those of the calibration ONNX Runtime gave numbers that had wrapped round."""
    keras.utils.set_random_seed(3)
    image = keras.Input((*SIZE, 3))
    x = keras.layers.Softmax()(keras.layers.Conv2D(64, 1, name="scores")(image / 20.0))
    x = keras.ops.transpose(x, (0, 2, 1, 3)) if turned else x
    x = keras.layers.Conv2D(4, 1, name="last")(x)
    x = keras.ops.transpose(x, (0, 2, 1, 3)) if turned else x
    network, path = keras.Model(image, x), tmp_path / "net.onnx"
    write_onnx(lower(network, SIZE), path, "int8", calibration=_pictures(most=2))
    (sharp,) = _pictures(1)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    plain = onnxruntime.InferenceSession(str(path), options).run(None, {"image": sharp[None].astype(np.float32)})[0]
    np.testing.assert_allclose(_run(path, sharp), plain, atol=0.05 * np.abs(plain).max())


@pytest.mark.parametrize("images", [None, [], iter(())])
def test_int8_without_images(tmp_path, images):
    with pytest.raises(InputError, match="8 bits need images for calibration"):
        write_onnx(lower(_small(), SIZE), tmp_path / "net.onnx", "int8", calibration=images)
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("factor", [np.nan, np.inf])
def test_int8_of_what_is_not_finite(tmp_path, factor):
    network = lower(_small(head=keras.layers.ReLU()), SIZE)
    network.get_layer("last").bias.assign([0, 0, factor, 0])
    with pytest.raises(CheckError, match="calibration: .* computes"):
        write_onnx(network, tmp_path / "net.onnx", "int8", calibration=_pictures())
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("activation", ["gelu", "celu"])
def test_activations_that_onnx_has_not(tmp_path, precision, activation):
    network = lower(_small(head=keras.layers.Activation(activation)), SIZE)
    images = _pictures()
    path, *_ = write_onnx(network, tmp_path / "net.onnx", precision, calibration=images)
    expected = network.predict(images[0][None], verbose=0)
    errors = {"float32": 1e-6, "float16": 2e-3, "int8": 0.1}
    np.testing.assert_allclose(_run(path, images[0]), expected, atol=errors[precision] * np.abs(expected).max())


# ---- what goes wrong


@pytest.mark.parametrize("precision", PRECISIONS)
def test_an_operator_that_onnx_has_not(tmp_path, precision):
    image = keras.Input((None, None, 3))
    network = lower(keras.Model(image, keras.ops.erfinv(image / 300.0), name="odd"), SIZE)
    with pytest.raises(ConversionError, match=r"net\.onnx: .*No Op registered for Erfinv") as caught:
        write_onnx(network, tmp_path / "net.onnx", precision, calibration=_pictures())
    assert "\n" not in str(caught.value)
    assert not [*tmp_path.iterdir()]


def test_branches_that_read_what_is_outside_are_not_folded(tmp_path):
    """Keras pads to an aspect ratio by an If, which tf2onnx leaves before what its branches read."""
    image = keras.Input((32, 40, 3))
    x = keras.layers.Resizing(16, 16)(keras.layers.Conv2D(2, 3, padding="same")(image))
    network = lower(keras.Model(image, keras.layers.Resizing(32, 40, pad_to_aspect_ratio=True)(x)), SIZE)
    with pytest.raises(ConversionError, match=r"net\.onnx: onnx\.checker refuses it: .*topologically sorted"):
        write_onnx(network, tmp_path / "net.onnx", "float32")


def test_quiet(tmp_path, capfd):
    for precision in PRECISIONS:
        write_onnx(lower(_small(), SIZE), tmp_path / "net.onnx", precision, calibration=_pictures())
    assert capfd.readouterr() == ("", "")
