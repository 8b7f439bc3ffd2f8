"""Backbones: images -> features keyed by stride.

The contract: a backbone is a function `backbone(images, ...) -> {stride: features}`, where `features` is a Keras
tensor [B, H / stride, W / stride, channels] and H, W are multiples of 32. Its layers keep the names that they have in
keras.applications, by which published weights are found.
"""

import keras
from keras import layers

from kseg.layers import Conv2D

# Convolutions and channels of VGG16's five blocks (Simonyan & Zisserman 2015, table 1, configuration D).
_VGG16_BLOCKS = ((2, 64), (2, 128), (3, 256), (3, 512), (3, 512))

_MOBILENET_V2_FEATURES = {
    2: "block_1_expand_relu",
    4: "block_3_expand_relu",
    8: "block_6_expand_relu",
    16: "block_13_expand_relu",
    32: "out_relu",
}

# Of batch normalisation. Keras's 0.99 suits trainings of many thousand steps: in the first hundreds the moving
# statistics lag behind the weights, and the validations tell of the lag. After its 60 steps README's first example has
# 0.63 mean IoU on val; with 0.99 it had 0.21 (seed 0).
BN_MOMENTUM = 0.9

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


def mobilenet_v2(images, alpha=1.0):
    """MobileNetV2 without its classifier (Sandler et al. 2018), built by keras.applications.

    Args:
        images: Keras tensor [B, H, W, 3], preprocessed ("tf").
        alpha: multiplies the channels.
    Returns:
        {2, 4, 8, 16: expanded features before each downsampling, 32: the last map}.
    Departs from keras.applications: the momentum of the normalisations is 0.9, not 0.999. Over 52 layers the lag adds
    up: a network that had learned its nuclei in 192 steps scored 0.13 mean IoU with 0.99 and 0.75 with 0.9.
    """
    network = keras.applications.MobileNetV2(input_tensor=images, include_top=False, weights=None, alpha=alpha)
    for layer in network.layers:
        if isinstance(layer, layers.BatchNormalization):
            layer.momentum = BN_MOMENTUM
    return {stride: network.get_layer(name).output for stride, name in _MOBILENET_V2_FEATURES.items()}
