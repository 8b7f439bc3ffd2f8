"""What is timed in a process of its own: `python -m kseg.evaluation.timing` answers one request and ends.

A fresh process is the only one that can tell a cold start and what a file alone needs of memory, and TensorFlow takes
its number of threads only once. `kseg.evaluation.benchmark` asks; request and answers are lines of JSON.
"""

import json
import os
import sys
import time

from kseg.errors import InputError
from kseg.evaluation.operators import onnx_operators, tflite_operators
from kseg.evaluation.runners import open_runner, warm_up_imports

# Rounds that are run however little time there is: fewer have no median.
LEAST_ROUNDS = 3
_TOLD_EVERY_S = 5.0


def alone(tell, path, threads, size_px):
    """Load a file and run it once, with nothing else in the process.

    Returns:
        dict: "load_ms", "first_run_ms", "peak_mib" of the whole process, "own_mib" of it that came after the import
        of the interpreter, "inputs".
    """
    warm_up_imports(path)
    before = _peak_mib()
    start = time.perf_counter()
    runner = open_runner(path, threads, size_px)
    loaded = time.perf_counter()
    runner.run()
    end = time.perf_counter()
    peak = _peak_mib()
    return {
        "load_ms": (loaded - start) * 1e3,
        "first_run_ms": (end - loaded) * 1e3,
        "peak_mib": peak,
        "own_mib": peak - before,
        "inputs": runner.inputs,
    }


def together(tell, paths, threads, size_px, runs, warmup, seconds):
    """Run several files in turn, one run of each in a round.

    Whatever else the machine does then falls on all of them alike. Every second round goes backwards, and every second
    begins with another file, so that no file always follows the same other one.

    Returns:
        list of rounds, each a list of milliseconds in the order of `paths`.
    """
    runners = [open_runner(path, threads, size_px) for path in paths]
    for _ in range(warmup):
        for runner in runners:
            runner.run()
    rounds, start = [], time.perf_counter()
    while len(rounds) < runs:
        if time.perf_counter() - start > seconds and len(rounds) >= LEAST_ROUNDS:
            break
        tell(f"round {len(rounds) + 1} of {runs}")
        milliseconds = [0.0] * len(runners)
        order = [(place + len(rounds) // 2) % len(runners) for place in range(len(runners))]
        for place in order[:: -1 if len(rounds) % 2 else 1]:
            begin = time.perf_counter()
            runners[place].run()
            milliseconds[place] = (time.perf_counter() - begin) * 1e3
        rounds.append(milliseconds)
    return rounds


def _peak_mib():
    """The most memory that this process ever held."""
    try:
        # Not `getrusage` where there is something better: on Linux that also counts the process which started this
        # one, whose memory it shared for a moment.
        with open("/proc/self/status", encoding="ascii") as status:
            return next(int(line.split()[1]) for line in status if line.startswith("VmHWM:")) / 1024
    except (OSError, StopIteration):
        import resource  # not on Windows

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak / (2**20 if sys.platform == "darwin" else 1024)


TASKS = {"alone": alone, "together": together, "tflite_operators": tflite_operators, "onnx_operators": onnx_operators}


def main():
    """Read the request from stdin, answer on stdout."""
    # Whatever the native libraries print goes to stderr: stdout is for the answers.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def say(**message):
        print(json.dumps(message), file=answers, flush=True)

    told = time.monotonic()

    def tell(text):
        nonlocal told
        if time.monotonic() - told > _TOLD_EVERY_S:
            told = time.monotonic()
            say(progress=text)

    request = json.load(sys.stdin)
    try:
        result = TASKS[request.pop("task")](tell, **request)
    except InputError as error:
        say(error="InputError", text=str(error))
    except ImportError as error:
        say(error="ImportError", text=str(error))
    else:
        say(result=result)


if __name__ == "__main__":
    main()
