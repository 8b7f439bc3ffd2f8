import pytest

from kseg.errors import InputError
from kseg.evaluation import load_predictor


def test_an_unknown_suffix_is_told():
    with pytest.raises(InputError, match="a model is a .keras, .tflite or .onnx file"):
        load_predictor("network.pb")
