"""Where a network's time goes: the time of each operator of a .tflite or .onnx file."""

import copy
import json
import tempfile
import time
from pathlib import Path

import numpy as np

from kseg.errors import need
from kseg.evaluation.runners import feeds, fill_interpreter, open_runner
from kseg.runtime.chatter import muted
from kseg.runtime.onnx import open_session

_WARMUP = 2
# Integer tensors up to this size are sizes and axes; they must be constants for an operator to be planned.
_LARGEST_ARGUMENT = 64
_LEAST_RUNS = 5


def tflite_operators(tell, path, threads, size_px, runs, seconds):
    """Time each operator of a .tflite file in a file of its own, with the values that it meets in the whole network.

    LiteRT's Python interpreter has no profiler. What a delegate gains by running operators together is missing, and
    each operator finds its input warm in the cache: the sum is near the whole's time, not equal to it. Sizes that the
    network computes while it runs are constants here, so that a delegate may take what it leaves out of the whole.

    Args:
        tell: called with a line about the progress.
        path, threads, size_px: see `kseg.evaluation.runners.open_runner`.
        runs: of each operator.
        seconds: about how long all of it may take.
    Returns:
        {"whole_ms": median, "operators": [{"index", "operator", "output", "ms"}, ...]}. "ms" is None for one that
        does not run alone. Operators on constants, which run once at most, are left out.
    """
    runner = open_runner(path, threads, size_px)
    runs = _affordable(runner, runs, seconds)
    before = _times(runner.run, runs)
    del runner  # its threads and its memory
    cutter = _Cutter(Path(path), _run_and_kept(path, threads, size_px))
    operators = []
    for number, index in enumerate(cutter.running, start=1):
        tell(f"operator {number} of {len(cutter.running)}")
        operator, output = cutter.describe(index)
        single = _alone(*cutter.cut(index), threads)
        milliseconds = None if single is None else float(np.median(_times(single, runs)))
        operators.append({"index": index, "operator": operator, "output": output, "ms": milliseconds})
    # Measured on both sides, because the machine may have become slower or faster meanwhile.
    after = _times(open_runner(path, threads, size_px).run, runs)
    return {"whole_ms": float(np.median([*before, *after])), "operators": operators}


def onnx_operators(tell, path, threads, size_px, runs, seconds):
    """Time each operator of a .onnx file with ONNX Runtime's own profiler, as it was rewritten by its optimiser.

    Args, Returns: as `tflite_operators`.
    """
    with tempfile.TemporaryDirectory(prefix="kseg-") as folder:
        session = open_session(path, threads, profile=Path(folder, "profile"))
        pictures = feeds(path, session, size_px)
        runner = open_runner(path, threads, size_px)
        runs = _affordable(runner, runs, seconds)
        tell(f"{runs} runs with the profiler")
        milliseconds = _times(lambda: session.run(None, pictures), runs)
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    found = {}
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            found.setdefault(event["name"], []).append(event)
    # Everything from the same runs, those near the median: else a disturbance would move the whole but not its parts.
    low, high = np.percentile(milliseconds, (25, 75))
    usual = [low <= whole <= high for whole in milliseconds]
    operators = []
    for index, nodes in enumerate(found.values()):
        described = nodes[0]["args"]
        operators.append(
            {
                "index": index,
                "operator": described["op_name"],
                "output": _onnx_output(described.get("output_type_shape") or [{}]),
                "ms": float(_by_run(nodes, runs + _WARMUP)[_WARMUP:][usual].mean()) / 1e3,
            }
        )
    return {"whole_ms": float(np.median(milliseconds)), "operators": operators}


def _by_run(events, runs):
    """Microseconds of a node in each run; one inside a loop has several events, one in a branch perhaps none."""
    durations = np.array([event["dur"] for event in events], np.float64)
    if len(durations) % runs:
        return np.full(runs, durations.sum() / runs)
    return durations.reshape(runs, -1).sum(axis=1)


def _onnx_output(outputs):
    return next((f"{_by(shape)} {dtype}" for dtype, shape in outputs[0].items()), "")


def _affordable(runner, runs, seconds):
    """How many runs fit: the network runs four times as often as its operators, once on either side of them."""
    longest = float(np.median(_times(runner.run, 1)))
    return max(_LEAST_RUNS, min(runs, int(seconds * 1e3 / (4 * longest))))


def _times(run, runs):
    """Milliseconds of `runs` runs, after _WARMUP others."""
    found = []
    for _ in range(_WARMUP + runs):
        start = time.perf_counter()
        run()
        found.append((time.perf_counter() - start) * 1e3)
    return found[_WARMUP:]


def _run_and_kept(path, threads, size_px):
    """An interpreter that has run once and holds what every operator gave."""
    interpreter, pictures = fill_interpreter(path, threads, size_px, keep_tensors=True)
    for index, values in pictures.items():
        interpreter.set_tensor(index, values)
    interpreter.invoke()
    return interpreter


class _Cutter:
    """Cuts the operators of a .tflite file out of it, each into a file of its own."""

    def __init__(self, path, kept):
        """`kept`: an interpreter of the file that has run, and holds every tensor."""
        self._schema = need("ai_edge_litert.schema_py_generated", "tflite")
        self._content = path.read_bytes()
        self._model = self._schema.ModelT.InitFromPackedBuf(self._content, 0)
        self._graph = self._model.subgraphs[0]
        self._kept = kept
        self._details = {tensor["index"]: tensor for tensor in kept.get_tensor_details()}
        self._constants = self._find_constants()
        names = vars(self._schema.BuiltinOperator).items()
        self._names = {value: name for name, value in names if not name.startswith("_")}
        self._fixed = set(self._constants)
        self.running = []  # the operators that depend on the picture
        for index, op in enumerate(self._graph.operators):
            if all(int(tensor) in self._fixed or tensor < 0 for tensor in op.inputs):
                self._fixed.update(map(int, op.outputs))
            else:
                self.running.append(index)

    def describe(self, index):
        """(name of the operator, shape and dtype of its first output)."""
        op = self._graph.operators[index]
        code = self._model.operatorCodes[op.opcodeIndex]
        number = max(code.builtinCode, code.deprecatedBuiltinCode)
        name = code.customCode.decode() if code.customCode else self._names.get(number, str(number))
        tensor = self._details[int(op.outputs[0])]
        return name, f"{_by(tensor['shape'])} {np.dtype(tensor['dtype']).name}"

    def cut(self, index):
        """(bytes of a file with this one operator, {index of its input: values})."""
        schema, op = self._schema, copy.copy(self._graph.operators[index])
        places, tensors, buffers, inputs = {-1: -1}, [], [schema.BufferT()], {}
        for old in dict.fromkeys(int(tensor) for tensor in [*op.inputs, *op.outputs] if tensor >= 0):
            places[old] = len(tensors)
            tensor = copy.copy(self._graph.tensors[old])
            tensor.shape, tensor.shapeSignature = [*map(int, self._details[old]["shape"])], None
            tensor.buffer, data = 0, self._constants.get(old)
            if data is None and old not in op.outputs:
                values = self._kept.get_tensor(old)
                if old in self._fixed or _is_argument(values):
                    data = np.frombuffer(values.tobytes(), np.uint8)
                else:
                    inputs[places[old]] = values
            if data is not None:
                tensor.buffer = len(buffers)
                buffers.append(schema.BufferT(data=data))
            tensors.append(tensor)
        code = self._model.operatorCodes[op.opcodeIndex]
        op.opcodeIndex, op.intermediates = 0, None
        op.inputs, op.outputs = [places[int(t)] for t in op.inputs], [places[int(t)] for t in op.outputs]
        graph = schema.SubGraphT(tensors=tensors, inputs=[*inputs], outputs=op.outputs, operators=[op])
        model = schema.ModelT(version=3, operatorCodes=[code], subgraphs=[graph], buffers=buffers)
        return _packed(model, sum(len(buffer.data) for buffer in buffers[1:])), inputs

    def _find_constants(self):
        found = {}
        for index, tensor in enumerate(self._graph.tensors):
            buffer = self._model.buffers[tensor.buffer]
            if buffer.data is not None and len(buffer.data):
                found[index] = np.asarray(buffer.data, np.uint8)
            elif buffer.size > 1:  # large files keep their weights behind the flatbuffer
                found[index] = np.frombuffer(self._content, np.uint8, buffer.size, buffer.offset)
        return found


def _packed(model, size):
    flatbuffers = need("flatbuffers", "tflite")
    builder = flatbuffers.Builder(size + 65536)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())


def _alone(content, inputs, threads):
    """A function that runs the one operator, or None if it does not run alone."""
    litert = need("ai_edge_litert.interpreter", "tflite")
    try:
        with muted():
            interpreter = litert.Interpreter(model_content=content, num_threads=threads)
            interpreter.allocate_tensors()
            for index, values in inputs.items():
                interpreter.set_tensor(index, values)
            interpreter.invoke()
    except (ValueError, RuntimeError):
        return None
    return interpreter.invoke


def _is_argument(values):
    return values.dtype in (np.int32, np.int64) and values.size <= _LARGEST_ARGUMENT


def _by(shape):
    return "x".join(str(int(edge)) for edge in shape) or "scalar"
