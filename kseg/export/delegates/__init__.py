"""Which operators of a .tflite file the delegates are documented to refuse, and where it is written.

A delegate hands what it refuses back to the CPU's plain kernels, at the cost of copies between the two. The rules are
those that segmentation networks meet, as one table for each delegate; nothing here runs a delegate.
"""

from dataclasses import dataclass

from kseg.export.delegates import edge_tpu, gpu, nnapi, xnnpack

RULES = {"xnnpack": xnnpack.RULES, "gpu": gpu.RULES, "nnapi": nnapi.RULES, "edgetpu": edge_tpu.RULES}


@dataclass(frozen=True)
class Refusal:
    """`place` is the tensor that the operator would give; `source` the document or source file of the rule."""

    operator: str
    place: str
    reason: str
    source: str


def refusals(operators):
    """What each delegate refuses, with the first reason found for each operator.

    Args:
        operators: iterable of kseg.export.tflite.reader.Operator.
    Returns:
        {name of the delegate: tuple of Refusal}.
    """
    operators = list(operators)
    return {
        delegate: tuple(found for operator in operators if (found := _first(operator, rules)))
        for delegate, rules in RULES.items()
    }


def _first(operator, rules):
    # Rules for one kind of operator may count on what every operator of that kind has.
    whole = bool(operator.inputs and operator.inputs[0] and operator.outputs)
    for rule in rules:
        if rule.operators is None or (whole and operator.name in rule.operators):
            reason = rule.check(operator)
            if reason:
                place = operator.outputs[0].name if operator.outputs else ""
                return Refusal(operator.name, place, reason, rule.source)
    return None
