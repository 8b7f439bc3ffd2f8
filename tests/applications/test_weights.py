import hashlib
import logging
import urllib.error
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest
from test_losses import run_python

from kseg.applications import FCN8s, FCN16s, UNet, published, transplant
from kseg.applications.backbones import mobilenet_v2, vgg16
from kseg.applications.published import Published, find_weights
from kseg.errors import InputError

# TensorFlow's variables with NumPy 2
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")

SMALL = {"fc_units": 16, "alpha": 0.125, "classes": 3}


@pytest.fixture(autouse=True)
def nothing_at_hand(monkeypatch, tmp_path):
    """Neither the user's folder nor Keras's cache nor a network."""
    monkeypatch.delenv("KSEG_WEIGHTS_DIR", raising=False)
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))

    def offline(url, *_):
        if url.startswith("file:"):
            return fetch(url, *_)
        raise urllib.error.URLError("Name or service not known")

    fetch = keras.src.utils.file_utils.urlretrieve
    monkeypatch.setattr("keras.src.utils.file_utils.urlretrieve", offline)
    return tmp_path


@pytest.fixture
def vgg16_file(weights_dir):
    return weights_dir / "vgg16_imagenet_notop.h5"


@pytest.fixture
def mobilenet_v2_file(weights_dir):
    return weights_dir / "mobilenetv2_1.0_notop.weights.h5"


def photo(*size):
    return np.random.default_rng(0).integers(0, 256, (1, *size, 3)).astype(np.uint8)


def set_randomly(model):
    for weight in model.weights:
        weight.assign(np.random.default_rng(5).normal(size=weight.shape))


class TestPublishedFiles:
    def test_vgg16_features_are_those_of_keras(self, vgg16_file, caplog):
        reference = keras.applications.VGG16(weights=str(vgg16_file), include_top=False)
        model = FCN8s(fc_units=16, backbone_weights=vgg16_file)
        image = photo(64, 96)
        for name in ("block3_pool", "block4_pool", "block5_pool"):
            ours, theirs = (keras.Model(m.input, m.get_layer(name).output) for m in (model, reference))
            expected = theirs(keras.applications.vgg16.preprocess_input(image.astype(np.float32)))
            np.testing.assert_allclose(ours(image), expected, atol=1e-3 * np.max(expected))
        assert [record.getMessage() for record in caplog.records] == [
            "vgg16_imagenet_notop.h5: fc6 and fc7 stay random: `fc_units` is 16, published ones have 4096"
        ]
        assert caplog.records[0].name == "kseg"

    def test_mobilenet_v2_features_are_those_of_keras(self, mobilenet_v2_file, caplog):
        reference = keras.applications.MobileNetV2(weights=None, include_top=False, input_shape=(None, None, 3))
        reference.load_weights(mobilenet_v2_file)
        model = UNet(filters=2, backbone="mobilenet_v2", backbone_weights=mobilenet_v2_file)
        image = photo(64, 96)
        for name in ("block_1_expand_relu", "block_13_expand_relu", "out_relu"):
            ours, theirs = (keras.Model(m.input, m.get_layer(name).output) for m in (model, reference))
            expected = theirs(keras.applications.mobilenet_v2.preprocess_input(image.astype(np.float32)))
            np.testing.assert_allclose(ours(image), expected, atol=1e-3)
        assert not caplog.records

    def test_grey_images_take_all_weights_and_five_channels_all_but_the_first(self, mobilenet_v2_file, caplog):
        UNet(filters=2, backbone="mobilenet_v2", input_shape=(None, None, 1), backbone_weights=mobilenet_v2_file)
        assert not caplog.records
        UNet(filters=2, backbone="mobilenet_v2", input_shape=(None, None, 5), backbone_weights=mobilenet_v2_file)
        assert [record.getMessage() for record in caplog.records] == [
            "mobilenetv2_1.0_notop.weights.h5: Conv1 stays random: it takes 5 channels, not 3"
        ]

    def test_five_channels_on_vgg16(self, vgg16_file, caplog):
        model = UNet(filters=2, backbone="vgg16", input_shape=(None, None, 5), backbone_weights=vgg16_file)
        assert "block1_conv1 stays random: it takes 5 channels, not 3" in caplog.text
        with h5py.File(vgg16_file) as file:
            expected = file["block1_conv2/block1_conv2_W_1:0"][:]
        np.testing.assert_array_equal(model.get_layer("block1_conv2").kernel.value, expected)

    def test_what_the_network_stands_on_keeps_its_weights(self, vgg16_file):
        """MobileNetV2 of Keras calls its layers block_1_expand and the like."""
        image = keras.Input((None, None, 3))
        below = keras.layers.Conv2D(3, 3, padding="same", name="block_1_expand")
        options = {"filters": 2, "backbone": "vgg16", "include_preprocessing": False, "input_tensor": below(image)}
        before = np.array(below.kernel.value)
        UNet(**options, backbone_weights=vgg16_file)
        np.testing.assert_array_equal(below.kernel.value, before)

    def test_files_that_are_something_else(self, vgg16_file, mobilenet_v2_file, tmp_path):
        (tmp_path / "text.h5").write_text("no weights")
        cut = tmp_path / "cut.h5"
        cut.write_bytes(vgg16_file.read_bytes()[:100_000])
        cut_new = tmp_path / "cut.weights.h5"
        cut_new.write_bytes(mobilenet_v2_file.read_bytes()[:100_000])
        vgg, mobile = ({"filters": 2, "backbone": name} for name in ("vgg16", "mobilenet_v2"))
        for path in (tmp_path / "text.h5", cut, mobilenet_v2_file, tmp_path / "none.h5", tmp_path):
            with pytest.raises(InputError, match=path.name):
                UNet(**vgg, alpha=0.125, backbone_weights=path)
        for path in (cut_new, vgg16_file):
            with pytest.raises(InputError, match=path.name):
                UNet(**mobile, backbone_weights=path)
        with pytest.raises(InputError, match=r"not the weights of MobileNetV2 of width 0\.5"):
            UNet(**mobile, alpha=0.5, backbone_weights=mobilenet_v2_file)
        with pytest.raises(InputError, match="block1_conv1 needs the shapes"):
            UNet(**vgg, alpha=0.5, backbone_weights=vgg16_file)


class TestFinding:
    """What "imagenet" stands for; the file is a stand-in, so that nothing is downloaded."""

    @pytest.fixture
    def wanted(self, tmp_path):
        (tmp_path / "online").mkdir()
        (tmp_path / "online" / "stand_in.h5").write_bytes(b"weights")
        md5 = hashlib.md5(b"weights").hexdigest()
        return Published("stand_in.h5", (tmp_path / "online" / "stand_in.h5").as_uri(), md5)

    def test_the_published_ones(self):
        """Addresses and hashes as keras.applications itself has them."""
        source = Path(keras.src.applications.vgg16.__file__).read_text()
        for file in (published.VGG16, published.VGG16_TOP):
            assert file.md5 in source
        assert published.VGG16_TOP.url == keras.src.applications.vgg16.WEIGHTS_PATH
        assert published.VGG16.url == keras.src.applications.vgg16.WEIGHTS_PATH_NO_TOP
        mobile = published.mobilenet_v2_file(1)
        assert mobile.url.startswith(keras.src.applications.mobilenet_v2.BASE_WEIGHT_PATH)
        assert mobile.file == "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_224_no_top.h5"

    @pytest.mark.parametrize(
        ("options", "file", "checksum"),
        [
            ({"backbone": "vgg16"}, published.VGG16.file, "md5 6d6bbae143d832006294945121d1f1fc"),
            ({"backbone": "mobilenet_v2"}, published.mobilenet_v2_file(1).file, "Keras publishes no hash of it"),
        ],
    )
    def test_offline(self, options, file, checksum, tmp_path, capsys):
        with pytest.raises(InputError) as error:
            UNet(filters=2, backbone_weights="imagenet", **options)
        told = str(error.value)
        for part in (file, checksum, "`backbone_weights`", "KSEG_WEIGHTS_DIR", str(tmp_path / "keras" / "models")):
            assert part in told
        assert "\n" not in told
        assert not list((tmp_path / "keras" / "models").iterdir())

    def test_no_weights_of_this_width(self):
        with pytest.raises(InputError, match=r"exist for `alpha` 0\.35, .*Received: 0\.1"):
            UNet(filters=2, backbone="mobilenet_v2", alpha=0.1, backbone_weights="imagenet")

    def test_the_users_folder_comes_first(self, wanted, tmp_path, monkeypatch):
        for folder in ("mine", "keras/models"):
            (tmp_path / folder).mkdir(parents=True)
            (tmp_path / folder / wanted.file).write_bytes(b"weights")
        monkeypatch.setenv("KSEG_WEIGHTS_DIR", str(tmp_path / "mine"))
        assert find_weights("imagenet", wanted) == tmp_path / "mine" / wanted.file
        (tmp_path / "mine" / wanted.file).unlink()
        assert find_weights("imagenet", wanted) == tmp_path / "keras/models" / wanted.file

    def test_download_lands_in_the_cache(self, wanted, tmp_path, capsys):
        cached = tmp_path / "keras" / "models" / wanted.file
        assert find_weights("imagenet", wanted) == cached
        assert [path.name for path in cached.parent.iterdir()] == [wanted.file]
        cached.write_bytes(b"broken off")  # as an interrupted download by others leaves it
        assert find_weights("imagenet", wanted).read_bytes() == b"weights"

    def test_a_bad_download_does_not_stay(self, wanted, tmp_path, capsys):
        bad = Published(wanted.file, wanted.url, "0" * 32)
        for _ in range(2):
            with pytest.raises(InputError, match=r"stand_in\.h5 \(md5 000"):
                find_weights("imagenet", bad)
            assert not list((tmp_path / "keras" / "models").iterdir())

    def test_imagenet_in_the_users_folder(self, vgg16_file, tmp_path, monkeypatch):
        (tmp_path / published.VGG16.file).symlink_to(vgg16_file)
        monkeypatch.setenv("KSEG_WEIGHTS_DIR", str(tmp_path))
        model = UNet(filters=2, backbone="vgg16", backbone_weights="imagenet")
        with h5py.File(vgg16_file) as file:
            expected = file["block5_conv3/block5_conv3_W_1:0"][:]
        np.testing.assert_array_equal(model.get_layer("block5_conv3").kernel.value, expected)


class TestWholeNetworks:
    @pytest.mark.parametrize("ending", [".weights.h5", ".keras"])
    def test_round_trip(self, ending, tmp_path, caplog):
        trained = FCN8s(**SMALL)
        set_randomly(trained)
        path = tmp_path / f"trained{ending}"
        trained.save_weights(path) if ending == ".weights.h5" else trained.save(path)
        again = FCN8s(**SMALL, weights=path)
        for ours, theirs in zip(again.weights, trained.weights, strict=True):
            np.testing.assert_array_equal(ours.value, theirs.value)
        assert not caplog.records

    def test_a_coarser_network_is_taken_up(self, tmp_path, caplog):
        trained = FCN16s(**SMALL)
        set_randomly(trained)
        trained.save(tmp_path / "fcn16s.keras")
        model = FCN8s(**SMALL, weights=str(tmp_path / "fcn16s.keras"))
        np.testing.assert_array_equal(
            model.get_layer("score_16").kernel.value, trained.get_layer("score_16").kernel.value
        )
        (record,) = caplog.records
        assert record.levelno == logging.WARNING
        assert "score_8: not in the source" in record.getMessage()

    def test_files_that_do_not_fit(self, tmp_path):
        other = UNet(filters=2, depth=1)
        other.save(tmp_path / "other.keras")
        other.save_weights(tmp_path / "other.weights.h5")
        whole = (tmp_path / "other.keras").read_bytes()
        (tmp_path / "cut.keras").write_bytes(whole[: len(whole) // 2])
        (tmp_path / "cut.weights.h5").write_bytes((tmp_path / "other.weights.h5").read_bytes()[:2000])
        (tmp_path / "file.txt").write_text("")
        for name in ("other.keras", "other.weights.h5", "cut.keras", "cut.weights.h5", "file.txt", "none.keras"):
            with pytest.raises(InputError, match=name):
                FCN8s(**SMALL, weights=tmp_path / name)

    def test_imagenet_is_for_the_backbone(self):
        with pytest.raises(InputError, match='backbone_weights="imagenet"'):
            FCN8s(**SMALL, weights="imagenet")


def test_transplant_reports():
    source, target = UNet(filters=2, depth=1, classes=2), UNet(filters=2, depth=2, classes=3)
    set_randomly(source)
    report = transplant(source, target)
    assert {"encode_1_conv1", "encode_2_conv2", "upsample_1", "decode_1_conv1"} <= set(report.copied)
    assert report.skipped["encode_4_conv1"] == "not in the source"
    assert report.skipped["score_1"] == "[(1, 1, 2, 2), (2,)] in the source, [(1, 1, 2, 3), (3,)] in the target"
    assert set(report.copied) | set(report.skipped) == {layer.name for layer in target.layers if layer.weights}
    for name in report.copied:
        for ours, theirs in zip(target.get_layer(name).weights, source.get_layer(name).weights, strict=True):
            np.testing.assert_array_equal(ours.value, theirs.value)
    assert str(report).startswith("7 layers copied, 6 kept (encode_4_conv1: not in the source; ")


@pytest.mark.parametrize(
    ("backbone", "strides"),
    [
        (vgg16, {2: 8, 4: 16, 8: 32, 16: 64, 32: 64}),
        (lambda images, alpha: vgg16(images, alpha, before_pool=True), {1: 8, 2: 16, 4: 32, 8: 64, 16: 64, 32: 64}),
        (mobilenet_v2, {2: 48, 4: 48, 8: 48, 16: 96, 32: 1280}),
    ],
    ids=["vgg16", "vgg16_before_pool", "mobilenet_v2"],
)
def test_backbones_key_features_by_stride(backbone, strides):
    features = backbone(keras.Input((64, 96, 3)), 0.125)
    shapes = {stride: tuple(feature.shape[1:]) for stride, feature in features.items()}
    assert shapes == {stride: (64 // stride, 96 // stride, channels) for stride, channels in strides.items()}


@pytest.mark.slow
def test_on_jax_training_one_network_leaves_the_other_whole():
    """JAX lets a step use up the arrays of its variables, so two networks must not hold the same one."""
    pytest.importorskip("jax")
    run_python(
        """
import keras, numpy as np
from kseg.applications import FCN8s, FCN16s, transplant
source, target = (build(classes=2, fc_units=4, alpha=0.125) for build in (FCN16s, FCN8s))
transplant(source, target)
images = np.zeros((2, 32, 32, 3), "float32")
expected = np.asarray(source(images))
target.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
target.fit(images, np.zeros((2, 32, 32), "int32"), verbose=0)
np.testing.assert_array_equal(np.asarray(source(images)), expected)
""",
        "jax",
    )
