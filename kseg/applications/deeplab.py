"""DeepLabv3+ (Chen, Zhu, Papandreou, Schroff, Adam 2018)."""

import keras
from keras import layers

from kseg.applications.backbones import BN_MOMENTUM, PREPROCESSING, mobilenet_v2, vgg16
from kseg.applications.scaffold import check_choice, check_count, check_positive, check_share, head, image_input
from kseg.applications.weights import load_backbone, load_weights
from kseg.layers import BatchNormalization, BilinearUpsampling, Conv2D, PadToStride, Preprocess

# Channels to which the fine features are brought before they are joined to the coarse (section 4.1 of the paper).
_FINE_CHANNELS = 48


def DeepLabV3Plus(
    include_top=True,
    weights=None,
    input_tensor=None,
    input_shape=None,
    classes=21,
    classifier_activation=None,
    name="deeplabv3plus",
    *,
    filters=256,
    rates=(6, 12, 18),
    dropout=0.1,
    backbone="vgg16",
    alpha=1.0,
    include_preprocessing=True,
    backbone_weights=None,
):
    """DeepLabv3+: what lies near and far around each place, enlarged and refined by features at stride 4.

    Args:
        include_top: False: end with the features [B, ceil(H / 16) * 4, ceil(W / 16) * 4, filters] from which the
            classes are scored.
        weights: None, or the path of a trained network, `.weights.h5` or `.keras`.
        input_tensor: Keras tensor [B, H, W, C] to build on, or None.
        input_shape: (height, width, channels), where sizes may be None; None: RGB images of any size.
        classes: number of classes.
        classifier_activation: None for logits, which kseg's losses take; or "softmax".
        name: of the model.
        filters: channels of the pyramid's levels and of the decoder.
        rates: how many places apart, at stride 16, the 3x3 convolutions of the pyramid look. Without any, `()`, it has
            the 1x1 convolution and the mean of the whole image only, which is the fast network for a phone.
        dropout: share of the pyramid's result that is dropped, in [0, 1).
        backbone: "vgg16" or "mobilenet_v2", both at stride 16: without its last downsampling.
        alpha: multiplies the channels of the backbone; published weights exist for VGG16 with 1.0, for MobileNetV2 with
            0.35, 0.5, 0.75, 1.0, 1.3, 1.4.
        include_preprocessing: raw values 0..255 in; False: scaled already, as the backbone was trained.
        backbone_weights: None, "imagenet", or the path of a file with Keras's weights for the backbone.
    Returns:
        keras.Model: images [B, H, W, C], uint8 or float -> float32 logits [B, H, W, classes], under every dtype policy.
    Raises:
        ValueError: an argument is not allowed.
        InputError: a weights file is missing or does not fit.
    Departs from keras.applications: `weights=None` and logits are the defaults. Departs from the paper: its backbones
    are Xception and ResNet, its convolutions in the pyramid and at stride 4 are separable, and the mean of the whole
    image is normalised by itself, for which a batch of a few images has too few of them. That mean makes what is said
    of a place depend on the whole image: cut into windows, it is not quite the same.
    Reference: Chen, Zhu, Papandreou, Schroff & Adam 2018, "Encoder-Decoder with Atrous Separable Convolution for
    Semantic Image Segmentation"; the pyramid: Chen, Papandreou, Schroff & Adam 2017, "Rethinking Atrous Convolution".
    """
    check_count("classes", classes)
    check_count("filters", filters)
    if not isinstance(rates, tuple | list) or len(set(rates)) < len(rates):
        raise ValueError(f"`rates` must be different whole numbers, as a tuple. Received: {rates}")
    for rate in rates:
        check_count("rates", rate)
    rates = tuple(map(int, rates))  # Keras takes no whole numbers of NumPy here
    check_choice("include_top", include_top, (True, False))
    check_share("dropout", dropout)
    check_positive("alpha", alpha)
    check_choice("backbone", backbone, tuple(PREPROCESSING))
    images, inputs = image_input(input_tensor, input_shape)
    x = Preprocess(PREPROCESSING[backbone], name="preprocess")(images) if include_preprocessing else images
    fine, coarse = _encode(PadToStride(16, name="pad")(x), backbone, alpha)
    x = _pyramid(coarse, filters, rates)
    x = layers.Dropout(dropout, name="dropout_16")(x)
    x = BilinearUpsampling(4, name="upsample_16_4")(x)
    x = layers.Concatenate(name="skip_4")([_convolution(fine, _FINE_CHANNELS, 1, "encode_4"), x])
    for number in (1, 2):
        x = _convolution(x, filters, 3, f"decode_4_{number}")
    if include_top:
        # Zeros, as in FCN: the first, noisy steps do not reach the backbone's trained weights.
        scores = Conv2D(classes, 1, kernel_initializer="zeros", dtype="float32", name="score_4")(x)
        scores = BilinearUpsampling(4, dtype="float32", name="upsample_4_1")(scores)
        x = head(scores, images, classifier_activation)
    model = keras.Model(inputs, x, name=name)
    if backbone_weights is not None:
        load_backbone(model, backbone, backbone_weights, alpha)
    if weights is not None:
        load_weights(model, weights)
    return model


def _encode(x, backbone, alpha):
    """The backbone's features at strides 4 and 16."""
    if backbone == "mobilenet_v2":
        features = mobilenet_v2(x, alpha, output_stride=16)
        return features[4], features[16]
    features = vgg16(x, alpha, before_pool=True)
    # They are not normalised by themselves, and their mean over the image would drown the pyramid's other levels.
    return features[4], BatchNormalization(momentum=BN_MOMENTUM, name="encode_16_bn")(features[16])


def _pyramid(x, filters, rates):
    """Atrous spatial pyramid pooling: what lies around each place, near and far, and in the whole image."""
    levels = [_convolution(x, filters, 1, "pyramid_point")]
    levels += [_convolution(x, filters, 3, f"pyramid_{rate}", rate=rate) for rate in rates]
    joined = layers.Concatenate(name="pyramid")(levels)
    # A mean over some hundred places would be summed in half precision.
    whole = layers.GlobalAveragePooling2D(keepdims=True, dtype="float32", name="pyramid_image")(x)
    whole = Conv2D(filters, 1, activation="relu", kernel_initializer="he_normal", name="pyramid_image_conv")(whole)
    # Joining it to the levels at each place would be the same as this sum.
    whole = Conv2D(filters, 1, use_bias=False, kernel_initializer="he_normal", name="pyramid_image_join")(whole)
    x = Conv2D(filters, 1, use_bias=False, kernel_initializer="he_normal", name="pyramid_join")(joined)
    x = layers.Add(name="pyramid_sum")([x, whole])
    x = BatchNormalization(momentum=BN_MOMENTUM, name="pyramid_bn")(x)
    return layers.Activation("relu", name="pyramid_relu")(x)


def _convolution(x, channels, size, name, rate=1):
    x = Conv2D(
        channels,
        size,
        padding="same",
        dilation_rate=rate,
        use_bias=False,
        kernel_initializer="he_normal",
        name=f"{name}_conv",
    )(x)
    x = BatchNormalization(momentum=BN_MOMENTUM, name=f"{name}_bn")(x)
    return layers.Activation("relu", name=f"{name}_relu")(x)
