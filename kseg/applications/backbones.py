"""Backbones: images -> features keyed by stride.

The contract: a backbone is a function `backbone(images, ...) -> {stride: features}`, where `features` is a Keras
tensor [B, H / stride, W / stride, channels] and H, W are multiples of 32. Its layers keep the names that they have in
keras.applications, by which published weights are found.
"""

from keras import layers

from kseg.layers import BatchNormalization, Conv2D

# Convolutions and channels of VGG16's five blocks (Simonyan & Zisserman 2015, table 1, configuration D).
_VGG16_BLOCKS = ((2, 64), (2, 128), (3, 256), (3, 512), (3, 512))

# MobileNetV2's inverted residuals: expansion, channels, repetitions, stride of the first (Sandler et al. 2018,
# table 2).
_MOBILENET_V2_BLOCKS = (
    *((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2)),
    *((6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)),
)

# Of batch normalisation. Keras's 0.99 suits trainings of many thousand steps: in the first hundreds the moving
# statistics lag behind the weights, and the validations tell of the lag. After its 60 steps README's first example has
# 0.63 mean IoU on val; with 0.99 it had 0.21 (seed 0).
BN_MOMENTUM = 0.9

# What each was trained on, see `kseg.layers.Preprocess`.
PREPROCESSING = {"vgg16": "caffe", "mobilenet_v2": "tf"}

# How the names of a backbone's layers begin: what can be frozen or trained more slowly.
BACKBONE_LAYERS = {
    "vgg16": ("block",),
    "mobilenet_v2": ("Conv1", "bn_Conv1", "expanded_conv", "block_", "Conv_1"),
}


def vgg16(images, alpha=1.0, before_pool=False):
    """VGG16 without its classifier (Simonyan & Zisserman 2015).

    Args:
        images: Keras tensor [B, H, W, 3], preprocessed ("caffe").
        alpha: multiplies the channels, as in MobileNet; 1.0 as published.
        before_pool: which features stand for a stride. False: the pooled maps that the next block starts from, as in
            FCN. True: the last convolution at each stride, as a U-Net's skips.
    Returns:
        {2, 4, 8, 16, 32: pooled maps}, or {1, 2, 4, 8, 16: last convolutions, 32: the last pooled map}.
    """
    features, x = {}, images
    for block, (convolutions, channels) in enumerate(_VGG16_BLOCKS, 1):
        for number in range(1, convolutions + 1):
            name = f"block{block}_conv{number}"
            x = Conv2D(max(1, round(alpha * channels)), 3, padding="same", activation="relu", name=name)(x)
        if before_pool:
            features[2 ** (block - 1)] = x
        # On even sizes "same" equals "valid"; on odd ones it rounds up, as Caffe does.
        x = layers.MaxPooling2D(2, padding="same", name=f"block{block}_pool")(x)
        if not before_pool:
            features[2**block] = x
    return features | {32: x}


def mobilenet_v2(images, alpha=1.0, output_stride=32):
    """MobileNetV2 without its classifier (Sandler et al. 2018).

    Args:
        images: Keras tensor [B, H, W, 3], preprocessed ("tf").
        alpha: multiplies the channels.
        output_stride: 32 as published; or 16: the last downsampling is left out, and what follows it looks at places
            two apart in its stead (atrous convolution), so that the same weights fit.
    Returns:
        {2, 4, 8, 16: expanded features before each downsampling, 32: the last map}; with `output_stride` 16
        {2, 4, 8: expanded features, 16: the last map before it is widened for the classifier}.
    Departs from keras.applications: the momentum of the normalisations is 0.9, not 0.999. Over 52 layers the lag adds
    up: a network that had learned its nuclei in 192 steps scored 0.13 mean IoU with 0.99 and 0.75 with 0.9. And what
    it pads by layers of their own is padded by the convolutions, which is the same for even sizes.
    """
    x = Conv2D(_of_eight(32 * alpha), 3, strides=2, padding="same", use_bias=False, name="Conv1")(images)
    x = _normalised(x, "bn_Conv1", "Conv1_relu")
    features, stride, rate, number = {}, 2, 1, 0
    for expansion, channels, repetitions, first_step in _MOBILENET_V2_BLOCKS:
        for step in (first_step, *(1,) * (repetitions - 1)):
            dilated = step > 1 and stride == output_stride
            x, expanded = _inverted_residual(x, expansion, int(channels * alpha), 1 if dilated else step, rate, number)
            if dilated:
                rate *= step
            elif step > 1:
                features[stride] = expanded
                stride *= step
            number += 1
    if output_stride == 32:
        x = Conv2D(_of_eight(1280 * max(alpha, 1)), 1, use_bias=False, name="Conv_1")(x)
        x = _normalised(x, "Conv_1_bn", "out_relu")
    return features | {stride: x}


def _inverted_residual(x, expansion, channels, step, rate, number):
    """(Its result, its expanded features), with the names of keras.applications."""
    prefix = f"block_{number}_" if number else "expanded_conv_"
    inputs, expanded = x, x
    if expansion > 1:
        x = Conv2D(expansion * x.shape[-1], 1, use_bias=False, name=f"{prefix}expand")(x)
        x = expanded = _normalised(x, f"{prefix}expand_BN", f"{prefix}expand_relu")
    x = layers.DepthwiseConv2D(
        3, strides=step, padding="same", dilation_rate=rate, use_bias=False, name=f"{prefix}depthwise"
    )(x)
    x = _normalised(x, f"{prefix}depthwise_BN", f"{prefix}depthwise_relu")
    x = Conv2D(_of_eight(channels), 1, use_bias=False, name=f"{prefix}project")(x)
    x = BatchNormalization(momentum=BN_MOMENTUM, name=f"{prefix}project_BN")(x)
    if step == 1 and inputs.shape[-1] == x.shape[-1]:
        x = layers.Add(name=f"{prefix}add")([inputs, x])
    return x, expanded


def _normalised(x, name, activation_name):
    x = BatchNormalization(momentum=BN_MOMENTUM, name=name)(x)
    return layers.ReLU(6.0, name=activation_name)(x)


def _of_eight(channels):
    """The nearest multiple of 8, at least 8 and at least nine tenths of it (MobileNet's own rule)."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded if rounded >= 0.9 * channels else rounded + 8
