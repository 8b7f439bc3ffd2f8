"""Predictor + data -> numbers and pictures."""

from kseg.evaluation.evaluate import Scores, evaluate, summarise
from kseg.evaluation.predictors import KerasPredictor, load_predictor

__all__ = ["KerasPredictor", "Scores", "evaluate", "load_predictor", "summarise"]
