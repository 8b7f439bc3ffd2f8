"""How fast network files are, and what they need: files of any kind, side by side.

Everything is timed in processes of its own (`kseg.evaluation.timing`); this one asks them and does the sums.
"""

import contextlib
import json
import os
import platform
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path

import numpy as np

import kseg
from kseg.errors import CheckError, InputError
from kseg.evaluation.runners import OPENERS
from kseg.runtime import cores

# Cold starts differ more than runs do.
_COLD_STARTS = 3
_PER_OPERATOR = {".tflite": "tflite_operators", ".onnx": "onnx_operators"}


@dataclass(frozen=True)
class Settings:
    """How to time.

    Attributes:
        threads: of the interpreter; None: every core that this process may use.
        runs: of each file, or of each of its operators.
        warmup: runs of each file that do not count.
        seconds: after these no new round begins, as long as there were three.
        size_px: (height, width) for files that leave them open.
    """

    threads: int | None = None
    runs: int = 50
    warmup: int = 3
    seconds: float = 60.0
    size_px: tuple | None = None

    def __post_init__(self):
        """Raises: InputError: a number out of its range."""
        limits = {"threads": 1, "runs": 1, "warmup": 0, "seconds": 0}
        for name, least in limits.items():
            value = getattr(self, name)
            if value is not None and not value >= least:
                raise InputError(f"{name} must be at least {least}. Received: {value}")
        if self.size_px is not None and not min(self.size_px) >= 1:
            raise InputError(f"the size must be at least 1 x 1. Received: {self.size_px[0]} x {self.size_px[1]}")
        if self.threads is None:
            object.__setattr__(self, "threads", cores())


@dataclass(frozen=True)
class Measurement:
    """One file.

    Attributes:
        file: as it was given.
        size_mb: 10^6 bytes, with the second file of a large ONNX model.
        inputs: ((shape, dtype), ...).
        runs: how many count.
        median_ms, p90_ms: of a run, interleaved with those of the other files.
        ratio: median over the rounds of this file's time / the first file's in the same round.
        ratio_low, ratio_high: the quartiles of the same.
        cold_start_ms: median of load_ms + first_run_ms in fresh processes. The import of the interpreter is not in
            it, nor is a cold disk: the file was read before.
        load_ms, first_run_ms: its parts.
        peak_mib: the most memory that a process held which loaded the file and ran it once.
        own_mib: what of it came after the import of the interpreter.
        fully_accelerated: whether one delegate takes the whole network; None: not known. It is not found here.
    """

    file: str
    size_mb: float
    inputs: tuple
    runs: int
    median_ms: float
    p90_ms: float
    ratio: float
    ratio_low: float
    ratio_high: float
    cold_start_ms: float
    load_ms: float
    first_run_ms: float
    peak_mib: float
    own_mib: float
    fully_accelerated: bool | None = None

    def to_dict(self):
        """Plain numbers, lists and dicts, ready for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Operators:
    """The operators of one file, those that take longest first.

    Attributes:
        file: as it was given.
        whole_ms: median of the whole network.
        rows: list of {"index", "operator", "output", "ms", "share"}: the place in the file, the kind, shape and dtype
            of the result, the median, and the share in the sum of all; the last two are None for an operator that
            does not run alone.
    """

    file: str
    whole_ms: float
    rows: list

    @property
    def sum_ms(self):
        """Of all operators."""
        return sum(row["ms"] or 0.0 for row in self.rows)

    def groups(self):
        """[{"operator", "count", "ms", "share"}, ...], the kind that takes longest first."""
        found = {}
        for row in self.rows:
            group = found.setdefault(
                row["operator"], {"operator": row["operator"], "count": 0, "ms": 0.0, "share": 0.0}
            )
            group["count"] += 1
            group["ms"] += row["ms"] or 0.0
            group["share"] += row["share"] or 0.0
        return sorted(found.values(), key=lambda group: -group["ms"])

    def to_dict(self):
        """Plain numbers, lists and dicts, ready for JSON."""
        return {**asdict(self), "sum_ms": self.sum_ms, "groups": self.groups()}


def measure(paths, settings, tell=lambda text: None):
    """Time files.

    Args:
        paths: .tflite and .onnx files, with or without a card, and .keras files; the first is what the others are
            compared with.
        settings: Settings.
        tell: called with a line of text when something long begins or goes on.
    Returns:
        list of Measurement, in the order of `paths`.
    Raises:
        InputError: a file is missing, damaged, of another suffix, or leaves its size open without `settings.size_px`.
        ImportError: what runs a file is not installed; the message names the extra.
        CheckError: a process was killed, most likely for want of memory.
    """
    paths = [checked(path) for path in paths]
    if not paths:
        raise InputError("there is no file to time")
    given = {"threads": settings.threads, "size_px": settings.size_px}
    alone = []
    for number, path in enumerate(paths, start=1):
        tell(f"{path.name}: cold start and memory ({number} of {len(paths)})")
        alone.append([_ask("alone", tell, path=str(path.absolute()), **given) for _ in range(_COLD_STARTS)])
    tell(f"{len(paths)} files in turn, at most {settings.runs} rounds or {settings.seconds:g} s")
    names = [str(path.absolute()) for path in paths]
    limits = {"runs": settings.runs, "warmup": settings.warmup, "seconds": settings.seconds}
    rounds = np.array(_ask("together", tell, paths=names, **given, **limits))  # [round, file]
    return [_summed_up(*each, rounds[:, :1]) for each in zip(paths, alone, rounds.T, strict=True)]


def per_operator(path, settings, tell=lambda text: None):
    """Time the operators of one .tflite or .onnx file, see `kseg.evaluation.operators`.

    Returns:
        Operators.
    Raises:
        InputError: as `measure`; or a file whose operators cannot be timed.
    """
    path = check_per_operator(path)
    tell(f"{path.name}: operator by operator")
    found = _ask(
        _PER_OPERATOR[path.suffix],
        tell,
        path=str(path.absolute()),
        threads=settings.threads,
        size_px=settings.size_px,
        runs=settings.runs,
        seconds=settings.seconds,
    )
    total = sum(row["ms"] or 0.0 for row in found["operators"]) or 1.0
    rows = [{**row, "share": None if row["ms"] is None else row["ms"] / total} for row in found["operators"]]
    return Operators(str(path), found["whole_ms"], sorted(rows, key=lambda row: -(row["ms"] or 0.0)))


def checked(path):
    """The path of a file that can be timed.

    Raises:
        InputError: another suffix, or no such file.
    """
    path = Path(path)
    if path.suffix not in OPENERS:
        raise InputError(f"{path}: only {', '.join(OPENERS)} files can be timed")
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    return path


def check_per_operator(path):
    """The path of a file whose operators can be timed.

    Raises:
        InputError: as `checked`, and for .keras: what TensorFlow runs there has little to do with the layers.
    """
    path = checked(path)
    if path.suffix not in _PER_OPERATOR:
        raise InputError(f"{path}: only the operators of {' and '.join(_PER_OPERATOR)} files can be timed")
    return path


def environment(settings):
    """What the numbers hold for: dict for JSON."""
    versions = {}
    for name in ("ai-edge-litert", "onnxruntime", "tensorflow-cpu", "tensorflow", "keras", "numpy"):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return {
        "machine": platform.machine(),
        "system": platform.system(),
        "cores": cores(),
        "settings": asdict(settings),
        "versions": {"kseg": kseg.__version__, **versions},
    }


def _summed_up(path, cold, milliseconds, first):
    ratios = milliseconds / first[:, 0]
    low, middle, high = np.percentile(ratios, (25, 50, 75))
    data = path.with_name(f"{path.name}.data")
    # The middle one of the cold starts, whole, so that its parts sum up.
    start = sorted(cold, key=lambda one: one["load_ms"] + one["first_run_ms"])[len(cold) // 2]
    return Measurement(
        file=str(path),
        size_mb=(path.stat().st_size + (data.stat().st_size if data.is_file() else 0)) / 1e6,
        inputs=tuple((tuple(shape), dtype) for shape, dtype in cold[0]["inputs"]),
        runs=len(milliseconds),
        median_ms=float(np.median(milliseconds)),
        p90_ms=float(np.percentile(milliseconds, 90)),
        ratio=float(middle),
        ratio_low=float(low),
        ratio_high=float(high),
        cold_start_ms=start["load_ms"] + start["first_run_ms"],
        load_ms=start["load_ms"],
        first_run_ms=start["first_run_ms"],
        peak_mib=max(one["peak_mib"] for one in cold),
        own_mib=max(one["own_mib"] for one in cold),
    )


def _ask(task, tell, **request):
    """Have `kseg.evaluation.timing` do a task in a fresh process; returns its result."""
    root = str(Path(kseg.__file__).resolve().parent.parent)
    path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    # -P: files in the current folder must not stand in for modules.
    command = [sys.executable, "-P", "-m", "kseg.evaluation.timing"]
    streams = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "encoding": "utf-8"}
    with (
        tempfile.TemporaryFile("w+", errors="replace") as log,
        subprocess.Popen(command, stderr=log, env={**os.environ, "PYTHONPATH": path}, **streams) as process,
    ):
        answer = {}
        try:
            with contextlib.suppress(BrokenPipeError), process.stdin:  # it may have died before it read
                json.dump({"task": task, **request}, process.stdin)
            for line in process.stdout:
                answer = json.loads(line)
                if "progress" in answer:
                    tell(f"  {answer['progress']}")
        except BaseException:
            process.kill()
            raise
        status = process.wait()
        log.seek(0)
        said = log.read()
    if "result" in answer:
        return answer["result"]
    if "error" in answer:
        raise {"InputError": InputError, "ImportError": ImportError}[answer["error"]](answer["text"])
    files = ", ".join(Path(name).name for name in request.get("paths", [request.get("path", "")]))
    if status < 0:
        raise CheckError(f"{files}: the process that ran it was killed by signal {-status}; is there enough memory?")
    raise RuntimeError(f"{files}: the process that ran it failed with status {status}:\n{said.strip()[-4000:]}")
