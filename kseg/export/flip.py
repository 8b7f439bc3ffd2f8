"""RGB -> BGR folded into the first convolution: one subtraction stays of the preprocessing of VGG networks.

Not only faster. TensorFlow 2.21's calibration reads a tensor after a later operator has written over it in place;
the channel reversal (REVERSE_V2) then gets another scale for its output than for its input, which its 8-bit kernel
ignores, and every colour is wrong: measured on FCN-32s, the first layer of the int8 file was off by 67 %, and by 1 %
with the flip folded. (The mean stays: folded into the bias it would be wrong where "same" padding adds zeros.)
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
