"""Initial values."""

import keras
import numpy as np
from keras import ops


@keras.saving.register_keras_serializable("kseg")
class BilinearInitializer(keras.initializers.Initializer):
    """Fills a transposed convolution so that it interpolates each channel bilinearly (Long et al. 2015, section 3.3).

    For a kernel of size k, with f = (k + 1) // 2 and the centre c = (k - 1) / 2, the weight at position i is
    1 - |i - c| / f along each axis, on the diagonal of the channels; all else is zero. A kernel of size 2 f with
    stride f enlarges f times.
    """

    def __call__(self, shape, dtype=None):
        """Return the kernel.

        Args:
            shape: (height, width, output channels, input channels).
        Raises:
            ValueError: the channels differ in number, so that there is no diagonal.
        """
        height, width, outputs, inputs = shape
        if outputs != inputs:
            raise ValueError(f"the input and output channels must be equal in number. Received: shape {tuple(shape)}")
        weights = np.outer(_triangle(height), _triangle(width))
        kernel = weights[:, :, None, None] * np.eye(outputs)[None, None]
        return ops.convert_to_tensor(kernel.astype(np.float32), dtype=dtype or keras.config.floatx())


def _triangle(size):
    factor = (size + 1) // 2
    centre = factor - 1 if size % 2 else factor - 0.5
    return 1 - np.abs(np.arange(size) - centre) / factor
