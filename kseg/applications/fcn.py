"""FCN-32s, FCN-16s and FCN-8s on VGG16 (Long, Shelhamer, Darrell 2015; Shelhamer et al. 2016)."""

import keras
import numpy as np
from keras import layers, ops

from kseg.applications.backbones import vgg16
from kseg.applications.scaffold import check_choice, check_count, check_positive, check_share, head, image_input
from kseg.applications.transplant import copy_of
from kseg.applications.weights import load_vgg16, load_weights
from kseg.layers import BilinearInitializer, Conv2D, CropLike, PadToStride, Preprocess

# Where the reference networks pad, and where they cut: at the end, by the last stride; before a fusion, by its stride.
_CAFFE_PADDING_PX = 100
_CAFFE_END_PX = {32: 19, 16: 27, 8: 31}
_CAFFE_SKIP_PX = {16: 5, 8: 9}

_DOCUMENTATION = """

Args:
    include_top: False: end with fc7 (and its dropout), the features [B, ceil(H / 32), ceil(W / 32), fc_units] from
        which the classes are scored; with `alignment="caffe"` [B, ceil((H + 6) / 32), ceil((W + 6) / 32), fc_units].
    weights: None, or the path of a trained network: `.weights.h5` of the very same one, or `.keras`, from which the
        layers that match by name and shape are copied.
    input_tensor: Keras tensor [B, H, W, C] to build on, or None.
    input_shape: (height, width, channels), where sizes may be None; None: RGB images of any size.
    classes: number of classes.
    classifier_activation: None for logits, which kseg's losses take; or "softmax".
    name: of the model.
    fc_units: channels of fc6 and fc7; 4096 as published.
    dropout: share that is dropped after fc6 and fc7, in [0, 1).
    alpha: multiplies the channels of VGG16, for small networks; published weights need 1.0.
    alignment: "same": padded at the bottom and right to a multiple of 32, and cut back. "caffe": 100 pixels of padding
        and fixed cuts as in the reference networks, so that published FCN weights line up.
    trainable_upsampling: learn the kernels of the transposed convolutions, which start out bilinear: all of them, where
        the paper (section 3.3) learns all but the last.
    include_preprocessing: raw RGB 0..255 in (grey is repeated to three channels); False: what `preprocess_input` gives.
    backbone_weights: None, "imagenet", or the path of a file with Keras's VGG16 weights.
Returns:
    keras.Model: images [B, H, W, C], uint8 or float -> float32 logits [B, H, W, classes], under every dtype policy.
Raises:
    ValueError: an argument is not allowed.
    InputError: a weights file is missing or does not fit.
Departs from keras.applications: `weights=None` and logits are the defaults; a `.keras` file of the model loads where
kseg.layers has been imported.
Reference: Long, Shelhamer & Darrell 2015, "Fully Convolutional Networks for Semantic Segmentation", CVPR;
Shelhamer, Long & Darrell 2016, PAMI.
"""


def FCN32s(
    include_top=True,
    weights=None,
    input_tensor=None,
    input_shape=None,
    classes=21,
    classifier_activation=None,
    name="fcn32s",
    *,
    fc_units=4096,
    dropout=0.5,
    alpha=1.0,
    alignment="same",
    trainable_upsampling=False,
    include_preprocessing=True,
    backbone_weights=None,
):
    """FCN-32s: VGG16's classifier at every place, its scores at stride 32 enlarged in one step."""
    return _fcn(**locals(), skips=())


def FCN16s(
    include_top=True,
    weights=None,
    input_tensor=None,
    input_shape=None,
    classes=21,
    classifier_activation=None,
    name="fcn16s",
    *,
    fc_units=4096,
    dropout=0.5,
    alpha=1.0,
    alignment="same",
    trainable_upsampling=False,
    include_preprocessing=True,
    backbone_weights=None,
):
    """FCN-16s: the scores at stride 32, refined by those of pool4."""
    return _fcn(**locals(), skips=(16,))


def FCN8s(
    include_top=True,
    weights=None,
    input_tensor=None,
    input_shape=None,
    classes=21,
    classifier_activation=None,
    name="fcn8s",
    *,
    fc_units=4096,
    dropout=0.5,
    alpha=1.0,
    alignment="same",
    trainable_upsampling=False,
    include_preprocessing=True,
    backbone_weights=None,
):
    """FCN-8s: the scores at stride 32, refined by those of pool4 and pool3."""
    return _fcn(**locals(), skips=(16, 8))


for _builder in (FCN32s, FCN16s, FCN8s):  # the three differ in nothing but their skips
    _builder.__doc__ = f"{_builder.__doc__}{_DOCUMENTATION}"


def _fcn(
    skips,
    include_top,
    weights,
    input_tensor,
    input_shape,
    classes,
    classifier_activation,
    name,
    fc_units,
    dropout,
    alpha,
    alignment,
    trainable_upsampling,
    include_preprocessing,
    backbone_weights,
):
    check_count("classes", classes)
    check_count("fc_units", fc_units)
    check_choice("include_top", include_top, (True, False))
    check_share("dropout", dropout)
    check_positive("alpha", alpha)
    check_choice("alignment", alignment, ("same", "caffe"))
    images, inputs = image_input(input_tensor, input_shape)
    x = Preprocess("caffe", name="preprocess")(images) if include_preprocessing else images
    features = _encode(x, fc_units, dropout, alpha, alignment)
    outputs = features[32]
    if include_top:
        scores = _decode(features, skips, classes, alignment, trainable_upsampling)
        end = 0 if alignment == "same" else _CAFFE_END_PX[min((32, *skips))]
        outputs = head(scores, images, classifier_activation, offset=(end, end))
    model = keras.Model(inputs, outputs, name=name)
    if backbone_weights is not None:
        load_vgg16(model, backbone_weights, fc_units)
    if weights is not None:
        load_weights(model, weights)
    return model


def _encode(x, fc_units, dropout, alpha, alignment):
    """VGG16's pooled features keyed by stride; at 32 the fully connected layers, as convolutions, come on top."""
    if alignment == "same":
        x = PadToStride(32, name="pad")(x)
    else:
        # The first convolution pads one pixel itself.
        x = layers.ZeroPadding2D(_CAFFE_PADDING_PX - 1, name="pad")(x)
    features = vgg16(x, alpha)
    padding = "same" if alignment == "same" else "valid"
    x = features[32]
    for number, size in ((6, 7), (7, 1)):
        x = Conv2D(fc_units, size, padding=padding, activation="relu", name=f"fc{number}")(x)
        x = layers.Dropout(dropout, name=f"dropout{number}")(x)
    return features | {32: x}


def _decode(features, skips, classes, alignment, trainable):
    """Scores at stride 32, enlarged and added to those of each skip, then enlarged to stride 1.

    All in float32, as the logits are: rounding them in between would cost precision and saves no time.
    """
    stride, scores = 32, _score(features[32], 32, classes)
    for skip in skips:
        scores = _enlarge(scores, stride, skip, classes, alignment, trainable)
        finer = _score(features[skip], skip, classes)
        if alignment == "caffe":
            offset = _CAFFE_SKIP_PX[skip]
            finer = CropLike((offset, offset), dtype="float32", name=f"crop_{skip}")([finer, scores])
        scores = layers.Add(dtype="float32", name=f"fuse_{skip}")([scores, finer])
        stride = skip
    return _enlarge(scores, stride, 1, classes, alignment, trainable)


def _score(features, stride, classes):
    # Zero scores add nothing, so a finer network starts out saying what the coarser one said (section 4.2).
    return Conv2D(classes, 1, kernel_initializer="zeros", dtype="float32", name=f"score_{stride}")(features)


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
        dtype="float32",
        name=f"upsample_{stride}_{target}",
    )(scores)


def preprocess_input(images):
    """What the networks do to raw images with `include_preprocessing=True`: RGB -> BGR minus the ImageNet mean.

    Args:
        images: uint8 or float [..., H, W, C] in 0..255, NumPy array or tensor; see `kseg.layers.Preprocess`.
    Returns:
        float32 [..., H, W, 3] for RGB and grey images: a NumPy array for one, else a tensor of the Keras backend.
    """
    outputs = Preprocess("caffe").call(ops.convert_to_tensor(images))
    return ops.convert_to_numpy(outputs) if isinstance(images, np.ndarray) else outputs


def fully_convolutional(classifier, name="fully_convolutional"):
    """Turn a VGG16 classifier into a network that classifies every place of a larger image (section 3.1).

    On an image of the classifier's own size, 224x224, the output [B, 1, 1, classes] equals the classifier's. On a
    larger one it is the heat map [B, (H - 224) // 32 + 1, (W - 224) // 32 + 1, classes] of sliding the classifier with
    stride 32. To the last digit this holds for the fully connected layers, slid over the features of the whole image.
    Sliding over pixels differs at the border of each window: cut out, a window has zeros around it, where the heat
    map sees the rest of the image.

    Args:
        classifier: keras.applications.VGG16(include_top=True, ...); its `input_shape` is the window.
        name: of the new model.
    Returns:
        keras.Model with copies of the weights; it takes what the classifier takes (preprocessed images), of any size
        from the window's.
    Raises:
        ValueError: not such a classifier.
    """
    dense = {"fc1": "fc6", "fc2": "fc7", "predictions": "predictions"}
    missing = {"block1_conv1", "block5_pool", *dense} - {layer.name for layer in classifier.layers}
    if missing:
        raise ValueError(
            f"`classifier` must be keras.applications.VGG16(include_top=True). It lacks: {sorted(missing)}"
        )
    inputs = x = keras.Input((None, None, classifier.input_shape[-1]), name="images")
    pairs = []
    for layer in classifier.layers:
        if layer.name.startswith("block"):
            pairs.append((layer, type(layer).from_config(layer.get_config())))
            x = pairs[-1][1](x)
    size = classifier.get_layer("block5_pool").output.shape[1:3]
    for old, new in dense.items():
        layer = classifier.get_layer(old)
        convolution = Conv2D(layer.units, size, activation=layer.activation, dtype=layer.dtype_policy, name=new)
        x, size = convolution(x), 1
        pairs.append((layer, convolution))
    for layer, copy in pairs:
        # Flattening goes row by row, which is the order of a convolution's kernel: a new shape is all that it takes.
        for weight, target in zip(layer.weights, copy.weights, strict=True):
            target.assign(copy_of(weight).reshape(target.shape))
    return keras.Model(inputs, x, name=name)
