"""tools/train.py, killed by SIGKILL at a chosen moment: `python kill_at.py MOMENT COUNT ARGUMENTS_OF_THE_TOOL...`.

MOMENT: "step" or "validation": within the COUNT-th batch of the training or of a validation; "write": in the middle of
the COUNT-th `.keras` file; "rename": when that file is whole and still has its temporary name.
"""

import itertools
import os
import signal
import sys
import threading
from pathlib import Path

TESTS = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(TESTS.parent), str(TESTS)]

DELAY_S = 0.02  # from the begin of a batch; the first takes seconds, since it compiles


def kill():
    os.kill(os.getpid(), signal.SIGKILL)


def prepare(moment, count):
    import keras

    from kseg.training.callbacks import RunFiles

    numbers = itertools.count(1)

    def on_batch(self, batch, logs=None):
        if next(numbers) == count:
            threading.Timer(DELAY_S, kill).start()

    save = keras.Model.save

    def save_and_die(self, path, *args, **kwargs):
        save(self, path, *args, **kwargs)
        if next(numbers) == count:
            if moment == "write":
                os.truncate(path, Path(path).stat().st_size // 2)
            kill()

    if moment in ("write", "rename"):
        keras.Model.save = save_and_die
    elif moment == "step":
        RunFiles.on_train_batch_begin = on_batch
    else:
        RunFiles.on_test_batch_begin = on_batch


if __name__ == "__main__":
    from tooling import tool

    prepare(sys.argv[1], int(sys.argv[2]))
    sys.exit(tool("train")(sys.argv[3:]))
