import keras
import numpy as np
import pytest
import tensorflow as tf

from kseg.layers import BilinearInitializer, BilinearUpsampling, CropLike, PadToStride, Preprocess

ANY_SIZE = tf.TensorSpec((None, None, None, 3))


def _reloaded(layer):
    return keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(layer))


@pytest.fixture
def images():
    return np.random.default_rng(0).integers(0, 256, (2, 5, 7, 3)).astype(np.uint8)


class TestBilinearInitializer:
    def test_kernel_by_hand(self):
        row = np.array([0.25, 0.75, 0.75, 0.25])
        kernel = np.asarray(BilinearInitializer()((4, 4, 2, 2)))
        assert kernel.dtype == np.float32
        np.testing.assert_allclose(kernel[:, :, 0, 0], np.outer(row, row))
        np.testing.assert_allclose(kernel[:, :, 1, 1], np.outer(row, row))
        assert not kernel[:, :, 0, 1].any()

    def test_odd_kernel_by_hand(self):
        np.testing.assert_allclose(np.asarray(BilinearInitializer()((1, 5, 1, 1)))[0, :, 0, 0] * 3, [1, 2, 3, 2, 1])

    @pytest.mark.parametrize("factor", [2, 4, 8, 16, 32])
    def test_enlarges_a_ramp_exactly(self, factor):
        upsample = keras.layers.Conv2DTranspose(
            1, 2 * factor, factor, padding="same", use_bias=False, kernel_initializer=BilinearInitializer()
        )
        ramp = np.arange(6, dtype=np.float32)
        got = np.asarray(upsample(np.tile(ramp, (6, 1))[None, :, :, None]))[0, :, :, 0]
        inner = slice(factor, -factor)  # outside, zeros come in
        pixels = (np.arange(6 * factor) + 0.5) / factor - 0.5
        np.testing.assert_allclose(got[inner, inner], np.tile(pixels[inner], (4 * factor, 1)), atol=1e-5)

    def test_channels_must_match(self):
        with pytest.raises(ValueError, match="equal in number"):
            BilinearInitializer()((4, 4, 2, 3))

    def test_reload(self):
        assert isinstance(_reloaded(BilinearInitializer()), BilinearInitializer)


class TestPreprocess:
    @pytest.mark.parametrize(
        ("mode", "reference"),
        [
            ("caffe", keras.applications.vgg16.preprocess_input),
            ("tf", keras.applications.mobilenet_v2.preprocess_input),
            ("unit", lambda images: images / 255),
        ],
    )
    @pytest.mark.parametrize("policy", ["float32", "mixed_float16", "mixed_bfloat16"])
    def test_says_what_keras_says_in_float32(self, images, mode, reference, policy):
        expected = reference(images.astype(np.float32))
        keras.config.set_dtype_policy(policy)
        try:
            for given in (images, images.astype(np.float32)):
                got = np.asarray(Preprocess(mode)(given))
                assert got.dtype == np.float32
                np.testing.assert_allclose(got, expected, atol=1e-6)
        finally:
            keras.config.set_dtype_policy("float32")

    @pytest.mark.parametrize("mode", ["caffe", "tf"])
    def test_grey_is_repeated(self, images, mode):
        grey, layer = images[..., :1], Preprocess(mode)
        np.testing.assert_array_equal(layer(grey), Preprocess(mode)(np.repeat(grey, 3, -1)))
        assert layer.compute_output_shape((None, None, None, 1)) == (None, None, None, 3)

    @pytest.mark.parametrize("mode", ["caffe", "tf", "unit"])
    def test_other_channels(self, mode):
        layer = Preprocess(mode)
        five = layer(np.zeros((1, 2, 2, 5), np.uint8))
        assert five.shape == (1, 2, 2, 5)
        assert layer.compute_output_shape((1, 2, 2, 5)) == (1, 2, 2, 5)
        np.testing.assert_allclose(five, {"caffe": -114.7993, "tf": -1, "unit": 0}[mode], rtol=1e-5)

    def test_unknown_mode(self):
        with pytest.raises(ValueError, match=r"caffe, tf, unit\. Received: torch"):
            Preprocess("torch")

    def test_reload(self):
        assert _reloaded(Preprocess("tf", name="p")).get_config() == Preprocess("tf", name="p").get_config()


class TestSizes:
    @pytest.mark.parametrize("size", [(1, 1), (8, 16), (67, 99)])
    def test_pad_and_cut_give_the_image_back(self, size):
        image = np.random.default_rng(0).normal(size=(1, *size, 3)).astype(np.float32)
        pad, cut = PadToStride(8), CropLike()

        def both(image):
            padded = pad(image)
            return padded, cut([padded, image])

        for call in (both, tf.function(both, input_signature=[ANY_SIZE])):
            padded, back = call(image)
            assert padded.shape == (1, -(-size[0] // 8) * 8, -(-size[1] // 8) * 8, 3)
            np.testing.assert_array_equal(padded[:, : size[0], : size[1]], image)
            assert not np.asarray(padded)[:, size[0] :].any()
            assert not np.asarray(padded)[:, :, size[1] :].any()
            np.testing.assert_array_equal(back, image)

    @pytest.mark.parametrize(("offset", "top", "left"), [((2, 3), 2, 3), ("centre", 1, 2)])
    def test_offset(self, offset, top, left):
        image = np.arange(8 * 9 * 3, dtype=np.float32).reshape(1, 8, 9, 3)
        reference = np.zeros((1, 5, 4, 3), np.float32)
        layer = CropLike(offset)
        for call in (layer, tf.function(layer, input_signature=[[ANY_SIZE, ANY_SIZE]])):
            np.testing.assert_array_equal(call([image, reference]), image[:, top : top + 5, left : left + 4])

    def test_symbolic_shapes(self):
        images = keras.Input((None, 99, 5))
        padded = PadToStride(32)(images)
        assert padded.shape == (None, None, 128, 5)
        assert CropLike()([padded, images]).shape == (None, None, 99, 5)

    def test_too_small_is_said(self):
        with pytest.raises(ValueError, match="cannot cut"):
            CropLike((1, 0))([np.zeros((1, 4, 4, 1)), np.zeros((1, 4, 4, 1))])
        with pytest.raises(ValueError, match="cannot cut"):
            CropLike("centre")([keras.Input((4, 4, 1)), keras.Input((None, 5, 1))])

    @pytest.mark.parametrize("stride", [0, -2, 2.0, None])
    def test_bad_stride(self, stride):
        with pytest.raises(ValueError, match="whole number from 1"):
            PadToStride(stride)

    @pytest.mark.parametrize("offset", ["center", (1,), (-1, 0)])
    def test_bad_offset(self, offset):
        with pytest.raises(ValueError, match="Received"):
            CropLike(offset)

    @pytest.mark.parametrize("layer", [PadToStride(16), BilinearUpsampling(3), CropLike((1, 2)), CropLike("centre")])
    def test_reload(self, layer):
        assert _reloaded(layer).get_config() == layer.get_config()


class TestBilinearUpsampling:
    @pytest.mark.parametrize("size", [(1, 1), (4, 7)])
    @pytest.mark.parametrize("factor", [1, 2, 3, 4])
    def test_says_what_tensorflow_says_in_any_graph(self, size, factor):
        image = np.random.default_rng(0).normal(size=(2, *size, 3)).astype(np.float32)
        expected = tf.image.resize(image, (factor * size[0], factor * size[1]))
        layer = BilinearUpsampling(factor)
        for call in (layer, tf.function(layer, input_signature=[ANY_SIZE])):
            np.testing.assert_allclose(call(image), expected, atol=1e-6)

    def test_half_precision_stays(self):
        layer = BilinearUpsampling(dtype="bfloat16")
        images = tf.zeros((1, 2, 2, 3), "bfloat16")
        for call in (layer, tf.function(layer, input_signature=[tf.TensorSpec((None, None, None, 3), "bfloat16")])):
            assert call(images).dtype == "bfloat16"

    def test_symbolic_shape(self):
        assert BilinearUpsampling(4)(keras.Input((None, 5, 2))).shape == (None, None, 20, 2)

    @pytest.mark.parametrize("factor", [0, 1.5, "2"])
    def test_bad_factor(self, factor):
        with pytest.raises(ValueError, match="`factor` must be a whole number from 1"):
            BilinearUpsampling(factor)

    def test_files_of_before_load(self):
        """U-Nets with bilinear upsampling were saved with a layer that had no factor but two."""
        config = {
            "module": None,
            "class_name": "DoubleSize",
            "config": {"name": "up"},
            "registered_name": "kseg>DoubleSize",
        }
        layer = keras.saving.deserialize_keras_object(config)
        assert type(layer) is BilinearUpsampling
        assert layer.factor == 2
