"""What rounding does to a filter's results on the average, which its bias can take back.

Each weight is rounded by up to half a unit, and what it is multiplied with is mostly above 0: the errors add up to a
shift of each channel. Over the images for calibration the shift is known, and leaves with the bias (Nagel et al. 2019,
"Data-Free Quantization Through Weight Equalization and Bias Correction", section 4.2).
"""

import numpy as np


def shift(errors, means):
    """How far rounded weights shift each channel on the average.

    Args:
        errors: float [given, taken in a group]: rounded weights less the weights, summed over the filter's window.
        means: float [taken]: of the activation's channels; with g groups, g times as many as `errors` has.
    Returns:
        float [given].
    """
    given, taken = errors.shape
    groups = len(means) // taken
    return (errors * np.reshape(means, (groups, taken)).repeat(given // groups, 0)).sum(1)
