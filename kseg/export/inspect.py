"""What is in a .tflite file, made by anyone: operators, types, open sizes, and what delegates refuse of it."""

import math
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

from kseg.export.delegates import Refusal, refusals
from kseg.export.delegates.checks import activations, weights
from kseg.export.tflite.reader import read
from kseg.runtime.chatter import muted

__all__ = ["OperatorRow", "Port", "Refusal", "Report", "fully_accelerated", "inspect"]


@dataclass(frozen=True)
class OperatorRow:
    """All operators of one kind: what they compute on, and what their constants are stored as."""

    name: str
    version: int
    count: int
    activations: tuple
    weights: tuple


@dataclass(frozen=True)
class Port:
    """A tensor; `shape` holds None for open edges. Without quantisation `scale` and `zero_point` are None."""

    name: str
    shape: tuple
    dtype: str
    scale: float | None = None
    zero_point: int | None = None

    def __str__(self):
        return f"{self.name} {_shape(self.shape)}"


@dataclass(frozen=True)
class Report:
    """What `inspect` found.

    Attributes:
        file: its path, or "the given bytes".
        size_bytes: of the file.
        weights: how many numbers its float and quantised constants hold.
        operators: tuple of OperatorRow, the most frequent first.
        flex: names of the operators that are not built in: they need TensorFlow (Flex...) or their maker's code.
        dynamic: tuple of Port: tensors with an open size, and inputs of a batch other than 1.
        inputs, outputs: tuples of Port, named as in the signature if there is one.
        signatures: tuple of texts such as "serving_default: image -> logits".
        refusals: {"xnnpack" | "gpu" | "nnapi" | "edgetpu": tuple of Refusal}, what they are documented to refuse.
        fully_accelerated: what `fully_accelerated` says; None also where it was not asked.
    """

    file: str
    size_bytes: int
    weights: int
    operators: tuple
    flex: tuple
    dynamic: tuple
    inputs: tuple
    outputs: tuple
    signatures: tuple
    refusals: dict
    fully_accelerated: bool | None = None

    def to_dict(self):
        """Plain JSON for the card."""
        counts = Counter()
        for row in self.operators:
            counts[row.name] += row.count
        return {
            "operators": dict(counts),
            "flex": [*self.flex],
            "dynamic": self._dynamic(),
            "refusals": {
                delegate: [f"{names}: {reason} ({count})" for names, reason, _, count in _grouped(found)]
                for delegate, found in self.refusals.items()
            },
            "fully_accelerated": self.fully_accelerated,
        }

    def lines(self):
        """Texts to print."""
        sources, found = [], [f"{self.file}: {self.size_bytes / 1e6:.2f} MB, {_amount(self.weights)} weights"]
        found += [f"signature {text}" for text in self.signatures]
        ports = [("input", port) for port in self.inputs] + [("output", port) for port in self.outputs]
        found += _aligned([(kind, port.name, port.dtype, _shape(port.shape), _scaling(port)) for kind, port in ports])
        found += ["", "operators"]
        found += _aligned([_row(row) for row in self.operators], indent="  ")
        found += ["", f"Flex and custom operators: {', '.join(self.flex) or 'none'}"]
        found += [f"open sizes: {', '.join(self._dynamic()) or 'none'}", ""]
        total = sum(row.count for row in self.operators)
        for delegate, refused in self.refusals.items():
            told = f"refuses {len(refused)} of {total} operators" if refused else "no documented refusal"
            found.append(f"{delegate}: {told}")
            rows = []
            for names, reason, source, count in _grouped(refused):
                sources += [] if source in sources else [source]
                rows.append((f"{count} x", names, f"{reason} [{sources.index(source) + 1}]"))
            found += _aligned(rows, indent="  ")
        if self.fully_accelerated is not None:
            answer = "takes the whole network" if self.fully_accelerated else "leaves some operators out"
            found.append(f"LiteRT's delegate on this machine: {answer}")
        return found + [f"[{number}] {source}" for number, source in enumerate(sources, 1)]

    def _dynamic(self):
        outside = {port.name for port in (*self.inputs, *self.outputs)}
        told = [str(port) for port in self.dynamic if port.name in outside]
        inside = len(self.dynamic) - len(told)
        return told + ([f"{inside} tensors inside"] if inside else [])


def inspect(path_or_bytes, run=False):
    """Read a file, without its weights: a large one costs no more than a small one.

    Args:
        path_or_bytes: path of a .tflite file, or its bytes.
        run: also ask LiteRT, see `fully_accelerated`; this loads the weights.
    Returns:
        Report.
    Raises:
        InputError: it cannot be read, is no TFLite file, is damaged or cut short.
    """
    content = read(path_or_bytes)
    inputs = tuple(_port(tensor, name) for name, tensor in content.inputs.items())
    names = {tensor: name for name, tensor in (content.outputs | content.inputs).items()}
    batched = [tensor for tensor in content.inputs.values() if tensor.shape[:1] not in ((), (1,))]
    dynamic = [tensor for tensor in content.tensors if None in tensor.shape or tensor in batched]
    report = Report(
        file=content.name,
        size_bytes=content.size_bytes,
        weights=content.weights,
        operators=_rows(content.operators),
        flex=tuple(sorted({operator.name for operator in content.operators if operator.custom})),
        dynamic=tuple(_port(tensor, names.get(tensor, tensor.name)) for tensor in dynamic),
        inputs=inputs,
        outputs=tuple(_port(tensor, name) for name, tensor in content.outputs.items()),
        signatures=content.signatures,
        refusals=refusals(content.operators),
    )
    return replace(report, fully_accelerated=_ask(path_or_bytes)) if run else report


def fully_accelerated(path_or_bytes):
    """Whether LiteRT's CPU delegate (XNNPACK) on this machine takes every operator of a file, by its own account.

    Open sizes count as 1, as LiteRT takes them.

    Args:
        path_or_bytes: path of a .tflite file, or its bytes.
    Returns:
        bool; None where LiteRT cannot say, because it cannot load the file or is too old for the question.
    Raises:
        InputError: as `inspect`.
    """
    read(path_or_bytes)  # LiteRT may crash on what is damaged
    return _ask(path_or_bytes)


def _ask(path_or_bytes):
    with muted():  # it tells of its accelerators, also when it lets go of them
        try:
            from ai_edge_litert.compiled_model import CompiledModel  # here, for older versions lack it

            if isinstance(path_or_bytes, (bytes, bytearray, memoryview)):
                compiled = CompiledModel.from_buffer(bytes(path_or_bytes))
            else:
                compiled = CompiledModel.from_file(str(Path(path_or_bytes)))
            answer = compiled.is_fully_accelerated()
            del compiled
        except (ImportError, RuntimeError, ValueError):
            return None
    return answer


def _port(tensor, name):
    # One scale for each channel cannot be told in one number.
    scale, zero_point = (tensor.scale, tensor.zero_point) if tensor.scales == 1 else (None, None)
    return Port(name, tensor.shape, tensor.dtype, scale, zero_point)


def _rows(operators):
    counts = Counter(
        (operator.name, operator.version, _dtypes(activations(operator)), _dtypes(weights(operator)))
        for operator in operators
    )
    return tuple(
        OperatorRow(name, version, count, works_on, stored)
        for (name, version, works_on, stored), count in counts.most_common()
    )


def _dtypes(tensors):
    return tuple(dict.fromkeys(tensor.dtype for tensor in tensors))


def _grouped(refused):
    """[(names of the operators, reason, source, count)], the most frequent reason first."""
    groups = {}
    for found in refused:
        groups.setdefault((found.reason, found.source), []).append(found.operator)
    return [
        (_some(list(dict.fromkeys(names))), *reason, len(names))
        for reason, names in sorted(groups.items(), key=lambda group: -len(group[1]))
    ]


def _some(names):
    return ", ".join(names) if len(names) < 4 else f"{', '.join(names[:2])} and {len(names) - 2} other kinds"


def _row(row):
    stored = f"weights {', '.join(row.weights)}" if row.weights else ""
    return (f"{row.count} x", row.name, f"v{row.version}", ", ".join(row.activations), stored)


def _shape(shape):
    return f"[{', '.join('?' if edge is None else str(edge) for edge in shape)}]"


def _scaling(port):
    return "" if port.scale is None else f"scale {port.scale:.6g}, zero point {port.zero_point}"


def _amount(count):
    if count < 1000:
        return str(count)
    power = min(int(math.log10(count)) // 3, 3)
    return f"{count / 1000**power:.1f} {('', 'k', 'M', 'G')[power]}"


def _aligned(rows, indent=""):
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        (indent + "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True))).rstrip()
        for row in rows
    ]
