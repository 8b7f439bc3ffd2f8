"""A run on several devices of one machine, or on several machines: which process this is, and what it computes on.

The batch of the recipe stays the batch of the run: it is divided over the devices, so that learning rate and number of
steps stay right, and with them the result.

    "mirrored"   one process, all devices that it sees. On JAX the step is compiled for all of them as one
                 (keras.distribution.DataParallel): losses, batch normalisation and dropout are those of the whole
                 batch, and the result is that of one device. On TensorFlow (tf.distribute.MirroredStrategy) each
                 device takes them over its own part, and the gradients are averaged. For a mean over pixels, with as
                 many valid ones in each part, that is the same; for soft Dice, batch normalisation, dropout or
                 unevenly ignored pixels it is not.
    "hosts"      several processes, on the JAX backend, each with all devices that it sees: as "mirrored" on JAX, over
                 the devices of all of them. (tf.distribute has no strategy over machines that works with Keras 3.)

Every process of "hosts" runs the same command, and sees the same data and the same run folder. Each reads its own
part of each batch. Process 0, the chief, alone writes files and prints. If a process is lost, the others stop with an
error: at once where a connection breaks, at the latest HEARTBEAT_S after its last sign of life. `--resume` goes on
from the last finished epoch, with any number of processes.

SLURM: `srun` tells each process its place (SLURM_PROCID, SLURM_NTASKS, SLURM_STEP_NODELIST, SLURM_JOB_ID), so a batch
script needs no more than

    #SBATCH --nodes=4 --ntasks-per-node=1 --gpus-per-node=8
    KERAS_BACKEND=jax srun python tools/train.py RECIPE --data DATA --out RUN --distribute hosts

One process a machine with all its GPUs, or one a GPU (`--ntasks-per-node=8 --gpus-per-task=1`): both work. Elsewhere
the arguments, or else Keras's own variables KERAS_DISTRIBUTION_JOB_ADDRESSES, KERAS_DISTRIBUTION_NUM_PROCESSES and
KERAS_DISTRIBUTION_PROCESS_ID, say the same.
"""

import atexit
import contextlib
import hashlib
import os
import re
import sys
from dataclasses import dataclass

import keras
import numpy as np

from kseg.errors import InputError

KINDS = ("mirrored", "hosts")
CONNECT_S = 300  # that the processes wait for each other at the start; some machines scan their images more slowly
HEARTBEAT_S = 30  # of silence after which a process counts as lost
_LOST = re.compile("gloo|nccl|coordination|heartbeat|barrier|connection|socket|unavailable", re.IGNORECASE)


@dataclass(frozen=True)
class Placement:
    """Where a run computes; without arguments: one process, one device.

    Attributes:
        kind: one of KINDS, or None.
        coordinator: "HOST:PORT" at which process 0 listens, for "hosts".
        processes: number of processes.
        process: index of this one.
    """

    kind: str | None = None
    coordinator: str | None = None
    processes: int = 1
    process: int = 0

    @property
    def is_chief(self):
        """Whether this process is the one that writes and prints."""
        return self.process == 0

    @property
    def shard(self):
        """(index, count): the part of the data that this process reads."""
        return self.process, self.processes

    @contextlib.contextmanager
    def scope(self):
        """The context in which a network is built, compiled and trained. Nothing must be computed on JAX before it.

        Raises:
            InputError: the other processes cannot be reached, or one was lost.
        """
        with contextlib.ExitStack() as stack:
            if self.kind == "hosts":
                stack.enter_context(_connected(self))
            if self.kind and keras.backend.backend() == "jax":
                # Not sharded by Keras, which would read the whole batch in each process and throw most of it away.
                stack.enter_context(keras.distribution.DataParallel(auto_shard_dataset=False).scope())
            elif self.kind:
                import tensorflow as tf

                stack.enter_context(tf.distribute.MirroredStrategy().scope())
            yield

    def check(self, batch, run):
        """Within `scope`: whether this run can be divided so, and is the same one in all processes.

        Args:
            batch: crops a step, over all devices.
            run: text that says what is trained on what.
        Returns:
            int, the number of devices of all processes.
        Raises:
            InputError: the devices cannot share the batch evenly, or process 0 trains something else.
        """
        devices = _devices() if self.kind else 1
        if batch % devices:
            raise InputError(
                f"recipe field `batch` must be a multiple of the number of devices, {devices}. Received: {batch}"
            )
        if self.processes > 1:
            digest = np.frombuffer(hashlib.sha256(run.encode()).digest(), np.uint8)
            digests = gathered(digest)
            differing = np.flatnonzero((digests != digests[0]).any(axis=1))
            if differing.size:
                raise InputError(
                    f"process {differing[0]} has another recipe, precision or other images than process 0; "
                    "start all with the same command on the same data"
                )
        return devices


def place(kind=None, coordinator=None, processes=None, process=None, environment=os.environ):
    """The Placement that arguments and environment describe.

    Args:
        kind: one of KINDS, or None for one process on one device.
        coordinator, processes, process: see Placement; None takes them from `environment` (see this module).
        environment: mapping of variables.
    Raises:
        InputError: they do not fit together, or something is missing.
    """
    if kind not in (None, *KINDS):
        raise InputError(f"--distribute must be one of {', '.join(KINDS)}. Received: {kind}")
    backend = keras.backend.backend()
    if kind != "hosts":
        if any(value is not None for value in (coordinator, processes, process)):
            raise InputError("--coordinator, --processes and --process belong to --distribute hosts")
        if kind and backend not in ("tensorflow", "jax"):
            raise InputError(f"--distribute {kind} needs KERAS_BACKEND=tensorflow or jax. Received: {backend}")
        return Placement(kind)
    if backend != "jax":
        raise InputError(f"--distribute hosts runs on JAX: set KERAS_BACKEND=jax. The backend is {backend}")
    found = _surroundings(environment)
    coordinator = found[0] if coordinator is None else coordinator
    processes = _whole("--processes", found[1] if processes is None else processes)
    process = _whole("--process", found[2] if process is None else process)
    if not coordinator:
        raise InputError("--coordinator HOST:PORT is missing, the address at which process 0 is to listen")
    if not re.fullmatch(r"\S+:\d{1,5}", coordinator) or not 0 < int(coordinator.rpartition(":")[2]) < 65536:
        raise InputError(f"--coordinator must be HOST:PORT. Received: {coordinator}")
    if processes < 1:
        raise InputError(f"--processes must be at least 1. Received: {processes}")
    if not 0 <= process < processes:
        raise InputError(f"--process must be in 0 .. {processes - 1}, one less than --processes. Received: {process}")
    return Placement(kind, coordinator, processes, process)


@contextlib.contextmanager
def alone():
    """A context for what one process does while the others go on: variables that are made in it are its own.

    Otherwise a new variable would be a meeting of all processes on JAX, and Keras makes some where nobody expects it:
    `model.save` makes an optimizer to compare the model's with.
    """
    shared = keras.distribution.distribution()
    keras.distribution.set_distribution(None)
    try:
        yield
    finally:
        keras.distribution.set_distribution(shared)


def gathered(value):
    """The arrays that all processes gave to this call: NumPy [processes, ...]. All must call it."""
    from jax.experimental import multihost_utils

    # With one process JAX leaves out the first axis.
    return np.asarray(multihost_utils.process_allgather(value)).reshape(-1, *np.shape(value))


def _surroundings(environment):
    """(coordinator, processes, process) as the environment has them, each None where it is silent."""
    prefix = "KERAS_DISTRIBUTION_"
    names = [prefix + name for name in ("JOB_ADDRESSES", "NUM_PROCESSES", "PROCESS_ID")]
    addresses, processes, process = (environment.get(name) for name in names)
    coordinator = addresses.split(",")[0] if addresses else _slurm_coordinator(environment)
    return coordinator, processes or environment.get("SLURM_NTASKS"), process or environment.get("SLURM_PROCID")


def _slurm_coordinator(environment):
    """The first host of the job step, with a port that follows from the job's number (as JAX itself chooses it)."""
    hosts = environment.get("SLURM_STEP_NODELIST") or environment.get("SLURM_JOB_NODELIST")
    job = environment.get("SLURM_JOB_ID", "")
    if not hosts or not job.isdigit():
        return None
    # "node7", "node7,other2", "node[007-015,020]" and "node[3,5]-ib,other2": before the first comma or range.
    match = re.match(r"([^\[,]*)(?:\[(\d+)[^\]]*\]([^\[,]*))?", hosts)
    return f"{''.join(part or '' for part in match.groups())}:{61440 + int(job) % 4096}"


def _whole(name, value):
    if value is None:
        raise InputError(f"{name} is missing; --distribute hosts needs --coordinator, --processes and --process")
    try:
        return int(value)
    except ValueError as error:
        raise InputError(f"{name} must be a whole number. Received: {value}") from error


def _devices():
    if keras.backend.backend() == "jax":
        return keras.distribution.get_device_count()
    import tensorflow as tf

    return tf.distribute.get_strategy().num_replicas_in_sync


@contextlib.contextmanager
def _connected(placement):
    """Connection to the other processes."""
    import jax
    from jax.experimental import multihost_utils

    try:
        # Not keras.distribution.initialize, which calls this but does not let one say how long to wait.
        jax.distributed.initialize(
            placement.coordinator,
            placement.processes,
            placement.process,
            cluster_detection_method="deactivate",  # under SLURM it would leave each process one device
            initialization_timeout=CONNECT_S,
            heartbeat_timeout_seconds=HEARTBEAT_S,
        )
    except Exception as error:
        _leave_without_farewell(2)
        raise InputError(
            f"process {placement.process} of {placement.processes} found no connection by {placement.coordinator} "
            f"within {CONNECT_S} s ({_first_line(error)})"
        ) from error
    try:
        yield
        # The chief may still be writing: wait here, where only silence ends it, not in `shutdown`, which has a limit.
        multihost_utils.sync_global_devices("end of training")
    except BaseException as error:
        ours = isinstance(error, InputError)
        lost = not ours and isinstance(error, Exception) and _LOST.search(str(error))
        # As in kseg.cli.command, which these codes stand in for.
        _leave_without_farewell(2 if ours or lost else 130 if isinstance(error, KeyboardInterrupt) else 1)
        if lost:
            raise InputError(
                f"process {placement.process} of {placement.processes} lost a process that it worked with "
                f"({_first_line(error)}); once all can run again, go on with --resume"
            ) from error
        raise
    jax.distributed.shutdown()


def _leave_without_farewell(code):
    """At the end of Python leave with this exit code, before JAX can wait for processes that wait for this one."""

    def leave():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)

    atexit.register(leave)


def _first_line(error):
    return str(error).strip().partition("\n")[0][:200] or type(error).__name__
