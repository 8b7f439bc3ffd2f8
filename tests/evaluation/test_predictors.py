import pytest

from kseg.errors import InputError
from kseg.evaluation import load_predictor


def test_an_unknown_suffix_is_told():
    with pytest.raises(InputError, match="a model is a .keras, .tflite or .onnx file"):
        load_predictor("network.pb")


def test_threads_are_for_exported_files(tiny_run):
    with pytest.raises(InputError, match="threads can be set for exported files, not for Keras"):
        load_predictor(tiny_run / "best.keras", threads=2)
