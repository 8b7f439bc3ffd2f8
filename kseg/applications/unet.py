"""U-Net (Ronneberger, Fischer, Brox 2015)."""

import keras
from keras import layers

from kseg.applications.backbones import BN_MOMENTUM, PREPROCESSING, mobilenet_v2, vgg16
from kseg.applications.scaffold import check_choice, check_count, check_positive, check_share, head, image_input
from kseg.applications.weights import load_backbone, load_weights
from kseg.layers import (
    BatchNormalization,
    BilinearUpsampling,
    Conv2D,
    Conv2DTranspose,
    CropLike,
    PadToStride,
    Preprocess,
)


def UNet(
    include_top=True,
    weights=None,
    input_tensor=None,
    input_shape=None,
    classes=21,
    classifier_activation=None,
    name="unet",
    *,
    filters=64,
    depth=4,
    padding="same",
    upsampling="transpose",
    batch_normalization=False,
    dropout=0.0,
    backbone=None,
    alpha=1.0,
    include_preprocessing=True,
    backbone_weights=None,
):
    """U-Net: a contracting and an expanding path, joined by concatenation at every stride.

    Args:
        include_top: False: end with the features [B, H, W, filters] from which the classes are scored (smaller than the
            image with `padding="valid"`).
        weights: None, or the path of a trained network, `.weights.h5` or `.keras`.
        input_tensor: Keras tensor [B, H, W, C] to build on, or None.
        input_shape: (height, width, channels), where sizes may be None; None: RGB images of any size.
        classes: number of classes.
        classifier_activation: None for logits, which kseg's losses take; or "softmax".
        name: of the model.
        filters: channels at full resolution; doubled with each halving of the resolution. With a backbone they are
            those of the expanding path, for which 16 is usual.
        depth: number of halvings; a backbone has its own, five, and takes no notice of this.
        padding: "same": padded at the bottom and right to a multiple of the last stride, and cut back. "valid": no
            padding, as published: 572x572 -> 388x388; train with labels cut to the middle, on sizes that stay even
            at each halving.
        upsampling: "transpose": learned 2x2 up-convolutions; "bilinear": fixed, followed by a 2x2 convolution. Both
            halve the channels.
        batch_normalization: normalise between each convolution of U-Net's own and its activation, and the skips of
            VGG16. (Its features are not normalised by themselves, and deviate by hundreds at the fine strides and by
            ones at the coarse, which would be drowned.)
        dropout: share that is dropped at the two coarsest strides of the contracting path, from 0 to below 1; with a
            backbone, of what the expanding path takes from there.
        backbone: None, "vgg16" or "mobilenet_v2": a network for classification as contracting path.
        alpha: multiplies the channels of the backbone; published weights exist for VGG16 with 1.0, for MobileNetV2 with
            0.35, 0.5, 0.75, 1.0, 1.3, 1.4.
        include_preprocessing: raw values 0..255 in (scaled to 0..1 without a backbone, else as the backbone was
            trained); False: scaled already.
        backbone_weights: None, "imagenet", or the path of a file with Keras's weights for the backbone.
    Returns:
        keras.Model: images [B, H, W, C] -> float32 logits [B, H, W, classes], under every dtype policy.
    Raises:
        ValueError: an argument is not allowed.
        InputError: a weights file is missing or does not fit.
    Departs from keras.applications: `weights=None` and logits are the defaults. Departs from the paper:
    `padding="same"` and an optional batch normalisation.
    Reference: Ronneberger, Fischer & Brox 2015, "U-Net: Convolutional Networks for Biomedical Image Segmentation".
    """
    for argument, value in (("classes", classes), ("filters", filters), ("depth", depth)):
        check_count(argument, value)
    depth = int(depth)
    check_choice("include_top", include_top, (True, False))
    check_share("dropout", dropout)
    check_positive("alpha", alpha)
    check_choice("padding", padding, ("same", "valid"))
    check_choice("upsampling", upsampling, ("transpose", "bilinear"))
    check_choice("backbone", backbone, (None, *PREPROCESSING))
    if backbone and padding == "valid":
        raise ValueError('a backbone works with `padding="same"` only. Received: padding="valid"')
    if backbone_weights is not None and not backbone:
        raise ValueError("`backbone_weights` needs a `backbone`. Received: backbone=None")
    if alpha != 1 and not backbone:
        raise ValueError(f"`alpha` needs a `backbone`; without one, `filters` sets the width. Received: alpha={alpha}")
    images, inputs = image_input(input_tensor, input_shape)
    if padding == "valid":
        _check_valid(images.shape[1:3], depth)
    scaling = PREPROCESSING[backbone] if backbone else "unit"
    x = Preprocess(scaling, name="preprocess")(images) if include_preprocessing else images
    if padding == "same":
        x = PadToStride(32 if backbone else 2**depth, name="pad")(x)
    if backbone:
        features = _contract_by(backbone, x, alpha, batch_normalization, dropout)
    else:
        features = _contract(x, filters, depth, padding, batch_normalization, dropout)
    x = _expand(features, filters, padding, upsampling, batch_normalization)
    if include_top:
        # In float32, as the logits are: rounding them to bfloat16 would be felt in all gradients.
        scores = Conv2D(classes, 1, kernel_initializer="he_normal", dtype="float32", name="score_1")(x)
        x = head(scores, images, classifier_activation, offset=(0, 0) if padding == "same" else None)
    elif padding == "same":
        x = CropLike((0, 0), name="crop")([x, images])
    model = keras.Model(inputs, x, name=name)
    if backbone_weights is not None:
        load_backbone(model, backbone, backbone_weights, alpha)
    if weights is not None:
        load_weights(model, weights)
    return model


def _check_valid(size_px, depth):
    """Raise ValueError if an unpadded network has nothing to say about an image of this (height, width)."""
    smallest = 1
    for _ in range(depth):
        smallest = -(-(smallest + 4) // 2)  # what has to come out of the coarser level
    for _ in range(depth):
        smallest = 2 * (smallest + 4)
    smallest += 4
    if any(size is not None and size < smallest for size in size_px):
        raise ValueError(
            f'`input_shape` must have at least {smallest} x {smallest} pixels with `padding="valid"` and '
            f"`depth={depth}`. Received: {size_px}"
        )


def _contract(x, filters, depth, padding, batch_normalization, dropout):
    """{stride: features} with strides 1, 2, ... 2^depth."""
    features = {}
    for level in range(depth + 1):
        stride = 2**level
        if level:
            x = layers.MaxPooling2D(2, name=f"pool_{stride}")(x)
        x = _two_convolutions(x, filters * stride, padding, batch_normalization, f"encode_{stride}")
        if dropout and level >= depth - 1:
            x = layers.Dropout(dropout, name=f"dropout_{stride}")(x)
        features[stride] = x
    return features


def _contract_by(backbone, x, alpha, batch_normalization, dropout):
    """{stride: features} of a backbone."""
    features = vgg16(x, alpha, before_pool=True) if backbone == "vgg16" else mobilenet_v2(x, alpha)
    if backbone == "vgg16" and batch_normalization:
        features = {
            stride: BatchNormalization(momentum=BN_MOMENTUM, name=f"encode_{stride}_bn")(feature)
            for stride, feature in features.items()
        }
    if dropout:
        for stride in sorted(features)[-2:]:
            features[stride] = layers.Dropout(dropout, name=f"dropout_{stride}")(features[stride])
    return features


def _expand(features, filters, padding, upsampling, batch_normalization):
    """From the coarsest features to full resolution; a stride that the backbone lacks is passed without a skip."""
    stride = max(features)
    x = features[stride]
    while stride > 1:
        stride //= 2
        x = _enlarge(x, filters * stride, upsampling, stride)
        if stride in features:
            skip = features[stride]
            if padding == "valid":
                skip = CropLike("centre", name=f"crop_{stride}")([skip, x])
            x = layers.Concatenate(name=f"skip_{stride}")([skip, x])
        x = _two_convolutions(x, filters * stride, padding, batch_normalization, f"decode_{stride}")
    return x


def _enlarge(x, channels, upsampling, stride):
    name = f"upsample_{stride}"
    if upsampling == "transpose":
        return Conv2DTranspose(channels, 2, strides=2, kernel_initializer="he_normal", name=name)(x)
    x = BilinearUpsampling(2, name=name)(x)
    return Conv2D(channels, 2, padding="same", kernel_initializer="he_normal", name=f"{name}_conv")(x)


def _two_convolutions(x, channels, padding, batch_normalization, name):
    for number in (1, 2):
        # A bias before a normalisation has no effect.
        x = Conv2D(
            channels,
            3,
            padding=padding,
            use_bias=not batch_normalization,
            kernel_initializer="he_normal",
            name=f"{name}_conv{number}",
        )(x)
        if batch_normalization:
            x = BatchNormalization(momentum=BN_MOMENTUM, name=f"{name}_bn{number}")(x)
        x = layers.Activation("relu", name=f"{name}_relu{number}")(x)
    return x
