"""FCN-32s, FCN-16s and FCN-8s on VGG16 (Long, Shelhamer, Darrell 2015; Shelhamer et al. 2016)."""

import keras
import numpy as np
from keras import layers, ops

from kseg.applications.backbones import vgg16
from kseg.applications.scaffold import check_choice, check_classes, finish, head, image_input
from kseg.applications.weights import load_vgg16
from kseg.layers import BilinearInitializer, CropLike, PadToStride, Preprocess

# Where the reference networks pad, and where they cut: at the end, by the last stride; before a fusion, by its stride.
_CAFFE_PADDING_PX = 100
_CAFFE_END_PX = {32: 19, 16: 27, 8: 31}
_CAFFE_SKIP_PX = {16: 5, 8: 9}

_DOCUMENTATION = """{title}

Args:
    include_top: False: end with fc7, the features [B, H / 32, W / 32, fc_units] from which the classes are scored.
    weights: None, or the path of a trained network, `.weights.h5` or `.keras`.
    input_tensor: Keras tensor [B, H, W, 3] to build on, or None.
    input_shape: (height, width, 3), where sizes may be None; None: any size.
    classes: number of classes.
    classifier_activation: None for logits, which kseg's losses take; or "softmax".
    name: of the model.
    fc_units: channels of fc6 and fc7; 4096 as published.
    dropout: share that is dropped after fc6 and fc7, 0..1.
    alignment: "same": padded at the bottom and right to a multiple of 32, and cut back. "caffe": 100 pixels of padding
        and fixed cuts as in the reference networks, so that published FCN weights line up.
    trainable_upsampling: learn the bilinear kernels too.
    include_preprocessing: raw RGB 0..255 in; False: what `preprocess_input` gives.
    backbone_weights: None, "imagenet", or the path of a file with Keras's VGG16 weights.
Returns:
    keras.Model: images [B, H, W, 3] -> float32 logits [B, H, W, classes], under every dtype policy.
Raises:
    ValueError: an argument is not allowed.
    InputError: a weights file is missing or does not fit.
Departs from keras.applications: `weights=None` and logits are the defaults.
Reference: Long, Shelhamer & Darrell 2015, "Fully Convolutional Networks for Semantic Segmentation", CVPR.
"""


def _builder(name, skips, title):
    """The public function that builds one member of the family; the members differ only in their skips."""

    def build(
        include_top=True,
        weights=None,
        input_tensor=None,
        input_shape=None,
        classes=21,
        classifier_activation=None,
        name=name.lower(),
        *,
        fc_units=4096,
        dropout=0.5,
        alignment="same",
        trainable_upsampling=False,
        include_preprocessing=True,
        backbone_weights=None,
    ):
        check_classes(classes)
        check_choice("alignment", alignment, ("same", "caffe"))
        images, inputs = image_input(input_tensor, input_shape)
        if images.shape[-1] != 3:
            raise ValueError(f"VGG16 takes RGB images. Received: `input_shape` with {images.shape[-1]} channels")
        x = Preprocess("caffe", name="preprocess")(images) if include_preprocessing else images
        features = _encode(x, fc_units, dropout, alignment)
        outputs = features[32]
        if include_top:
            scores = _decode(features, skips, classes, alignment, trainable_upsampling)
            end = 0 if alignment == "same" else _CAFFE_END_PX[min((32, *skips))]
            outputs = head(scores, images, classifier_activation, offset=(end, end))
        model = finish(inputs, outputs, name)
        if backbone_weights is not None:
            load_vgg16(model, backbone_weights, fc_units)
        return finish(model.input, model.output, name, weights) if weights else model

    build.__name__ = build.__qualname__ = name
    build.__doc__ = _DOCUMENTATION.format(title=title)
    return build


FCN32s = _builder("FCN32s", (), "FCN-32s: scores at stride 32, enlarged in one step.")
FCN16s = _builder("FCN16s", (16,), "FCN-16s: the scores at stride 32, refined by those of pool4.")
FCN8s = _builder("FCN8s", (16, 8), "FCN-8s: the scores at stride 32, refined by those of pool4 and pool3.")


def _encode(x, fc_units, dropout, alignment):
    """VGG16's pooled features keyed by stride; at 32 the fully connected layers, as convolutions, come on top."""
    if alignment == "same":
        x = PadToStride(32, name="pad")(x)
    else:
        # The first convolution pads one pixel itself.
        x = layers.ZeroPadding2D(_CAFFE_PADDING_PX - 1, name="pad")(x)
    features = vgg16(x)
    padding = "same" if alignment == "same" else "valid"
    x = features[32]
    for number, size in ((6, 7), (7, 1)):
        x = layers.Conv2D(fc_units, size, padding=padding, activation="relu", name=f"fc{number}")(x)
        x = layers.Dropout(dropout, name=f"dropout{number}")(x)
    return features | {32: x}


def _decode(features, skips, classes, alignment, trainable):
    """Scores at stride 32, enlarged and added to those of each skip, then enlarged to stride 1."""
    stride, scores = 32, _score(features[32], 32, classes)
    for skip in skips:
        scores = _enlarge(scores, stride, skip, classes, alignment, trainable)
        finer = _score(features[skip], skip, classes)
        if alignment == "caffe":
            offset = _CAFFE_SKIP_PX[skip]
            finer = CropLike((offset, offset), name=f"crop_{skip}")([finer, scores])
        scores = layers.Add(name=f"fuse_{skip}")([scores, finer])
        stride = skip
    return _enlarge(scores, stride, 1, classes, alignment, trainable)


def _score(features, stride, classes):
    # Zero scores add nothing, so a finer network starts out saying what the coarser one said (section 4.2).
    return layers.Conv2D(classes, 1, kernel_initializer="zeros", name=f"score_{stride}")(features)


def _enlarge(scores, stride, target, classes, alignment, trainable):
    factor = stride // target
    return layers.Conv2DTranspose(
        classes,
        2 * factor,
        strides=factor,
        padding="same" if alignment == "same" else "valid",
        use_bias=False,
        kernel_initializer=BilinearInitializer(),
        trainable=trainable,
        name=f"upsample_{stride}_{target}",
    )(scores)


def preprocess_input(images):
    """What the networks do to raw images with `include_preprocessing=True`: RGB -> BGR minus the ImageNet mean.

    Args:
        images: uint8 or float [..., H, W, 3] in 0..255, NumPy array or tensor.
    Returns:
        float32, same shape: a tensor of the Keras backend.
    """
    return Preprocess("caffe").call(ops.convert_to_tensor(images))


def fully_convolutional(classifier, name="fully_convolutional"):
    """Turn a VGG16 classifier into a network that classifies every place of a larger image (section 3.1).

    On a 224x224 image the output [B, 1, 1, classes] equals the classifier's. On a larger one it is the heat map
    [B, (H - 224) // 32 + 1, (W - 224) // 32 + 1, classes] of sliding the classifier with stride 32: exactly its fully
    connected layers slid over the last features. A window cut out of the image sees zeros around itself where the
    heat map sees the image, so near its border its features are others.

    Args:
        classifier: keras.applications.VGG16(include_top=True, ...).
        name: of the new model.
    Returns:
        keras.Model that takes what the classifier takes, of any size from 224x224, with copies of its weights.
    Raises:
        ValueError: not such a classifier.
    """
    names = {layer.name for layer in classifier.layers}
    missing = {"block1_conv1", "block5_conv3", "fc1", "fc2", "predictions"} - names
    if missing:
        raise ValueError(
            f"`classifier` must be keras.applications.VGG16(include_top=True). It lacks: {sorted(missing)}"
        )
    inputs = keras.Input((None, None, 3), name="images")
    x = vgg16(inputs)[32]
    dense = [classifier.get_layer(name) for name in ("fc1", "fc2", "predictions")]
    for layer, convolution, size in zip(dense, ("fc6", "fc7", "score_32"), (7, 1, 1), strict=True):
        x = layers.Conv2D(layer.units, size, name=convolution)(x)
        x = layers.Activation(layer.activation, name="predictions" if layer is dense[-1] else f"{convolution}_act")(x)
    model = keras.Model(inputs, x, name=name)
    for layer in model.layers:
        if layer.name.startswith("block") and layer.weights:
            layer.set_weights(classifier.get_layer(layer.name).get_weights())
    for layer, convolution in zip(dense, ("fc6", "fc7", "score_32"), strict=True):
        kernel, bias = layer.get_weights()
        target = model.get_layer(convolution)
        target.set_weights([np.reshape(kernel, tuple(target.kernel.shape)), bias])
    return model
