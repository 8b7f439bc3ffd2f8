"""RGB -> BGR folded into the first convolution: one subtraction stays of the preprocessing of VGG networks.

Not only for speed. TensorFlow 2.21's calibration measures an operation's inputs once more after it ran, when an
operation in place (here the subtraction) has already written its result there (tensorflow issue 127842). The channel
reversal, REVERSE_V2, so gets another scale for its output than for its input, which its 8-bit kernel ignores, and
every colour is wrong: the first convolution of an int8 FCN-32s was off by 67 % (rms), with the flip folded by 1.8 %.
The mean stays: folded into the bias it would be wrong where "same" padding adds zeros.
"""

import keras
import numpy as np

from kseg import layers
from kseg.layers.preprocess import IMAGENET_MEAN

# Layers that treat every channel alike, and so may stand between the flip and the convolution.
_CHANNELWISE = (layers.PadToStride, layers.CropLike, keras.layers.ZeroPadding2D, keras.layers.Cropping2D)


def foldable_flips(model):
    """{Preprocess layer: [the convolutions that see its output]} for those whose channel flip can be folded."""
    found = {}
    for layer in model.layers:
        if isinstance(layer, layers.Preprocess) and layer.mode == "caffe":
            convolutions = _convolutions_behind(layer)
            if convolutions:
                found[layer] = convolutions
    return found


def subtract_mean(images):
    """What is left of the preprocessing: float32 RGB [B, H, W, 3] minus the ImageNet mean."""
    return images - np.array(IMAGENET_MEAN, np.float32)


def flip_kernel(convolution):
    """Let a Conv2D take its three input channels in the opposite order; exact."""
    convolution.kernel.assign(keras.ops.flip(convolution.kernel.value, axis=2))  # [kh, kw, in, out]


def _convolutions_behind(layer):
    """The Conv2D layers that use the output of `layer`; empty when anything else does."""
    convolutions = []
    for node in layer._outbound_nodes:
        user = node.operation
        if type(user) is keras.layers.Conv2D and user.groups == 1:
            convolutions.append(user)
        elif isinstance(user, _CHANNELWISE):
            behind = _convolutions_behind(user)
            if not behind:
                return []
            convolutions += behind
        else:
            return []
    return list(dict.fromkeys(convolutions))
