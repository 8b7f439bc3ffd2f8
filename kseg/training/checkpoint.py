"""Model files that know their labels, and training states that can be taken up again.

Both are plain `.keras` archives, which Keras itself loads once `kseg.layers` is imported, with members added that it
leaves alone: `labels.json` in each, and `training.json` in a training state (`last.keras`).
"""

import json
import re
import zipfile
from pathlib import Path

import keras
import numpy as np

import kseg.layers  # noqa: F401  registers the classes that a saved model names
from kseg.errors import InputError, one_line
from kseg.files import replacing
from kseg.labels import LabelSet
from kseg.lowering.graph import check_functional, plain_ends
from kseg.training import archive

_LABELS, _STATE = "labels.json", "training.json"


def save_model(model, path, labels, state=None, include_optimizer=False):
    """Write a `.keras` file in one step (see `kseg.files.replacing`).

    Args:
        model: the network.
        labels: LabelSet that goes into the file.
        state: dict for JSON that goes with it, or None.
        include_optimizer: keep the optimizer's variables, to train on.
    Raises:
        InputError: the path is none for such a file, the labels are not as many as the classes, or the disk is full.
        ValueError: the model is neither functional nor sequential.
    """
    check_functional(model)
    if not isinstance(labels, LabelSet):
        raise InputError(f"`labels` must be a kseg.labels.LabelSet, such as source.labels. Received: {labels!r}")
    path = Path(path)
    if path.suffix != ".keras":
        raise InputError(f"{path}: a file of a model must end in .keras")
    if not path.parent.is_dir():
        raise InputError(f"{path}: there is no folder {path.parent}")
    _check_number(model.outputs[0].shape[-1], labels, path)
    if not include_optimizer:
        # The same layers in a model that was never compiled: `.keras` files always hold the optimizer of one that was.
        ends = plain_ends(model) if isinstance(model, keras.Sequential) else (model.input, model.output)
        model = keras.Model(*ends, name=model.name)
    with replacing(path) as temporary:
        model.save(temporary)
        with zipfile.ZipFile(temporary, "a") as members:
            members.writestr(_LABELS, json.dumps(labels.to_dict()))
            if state is not None:
                members.writestr(_STATE, json.dumps(state))


def load_model(path, labels=None, policy="float32"):
    """Read a `.keras` file for prediction.

    Args:
        path: a `.keras` file, by `save_model` or by Keras itself.
        labels: LabelSet for a file that holds none; otherwise its classes are numbered.
        policy: dtype policy in place of a mixed one, because a file trained in `mixed_float16` would otherwise stay so
            on a CPU, where that is unusably slow; None keeps the file's own.
    Returns:
        (keras.Model, LabelSet).
    Raises:
        InputError: missing, no `.keras` archive, damaged, not a segmentation network, or the number of labels
            is not that of the network's classes.
    """
    path = Path(path)
    try:
        with zipfile.ZipFile(path) as members:
            config = json.loads(members.read("config.json")) | {"compile_config": None}
            if _LABELS in members.namelist():
                labels = LabelSet.from_dict(json.loads(members.read(_LABELS)), where=f"{path}: {_LABELS}")
        model = _built(_with_policy(config, policy), path)
        archive.load_weights(model, path)
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file") from error
    except IsADirectoryError as error:
        inside = ", ".join(sorted(file.name for file in path.glob("*.keras"))) or "no .keras file"
        raise InputError(f"{path}: a folder, not a trained network; in it there is {inside}") from error
    except InputError:
        raise
    except Exception as error:  # Keras, zipfile, zlib and HDF5 each raise their own kinds on a damaged file
        if path.suffix != ".keras":
            raise InputError(f"{path}: a trained network is a .keras file, as `keras.Model.save` writes it") from error
        raise InputError(f"{path}: not a readable .keras file ({one_line(error)})") from error
    return model, _matching_labels(model, labels, path)


def read_state(path):
    """The `state` that `save_model` put into the file.

    Raises:
        InputError: the file is missing or damaged, or it is no training state.
    """
    try:
        with zipfile.ZipFile(path) as members:
            return json.loads(members.read(_STATE))
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file; there is no training to resume") from error
    except (zipfile.BadZipFile, KeyError, json.JSONDecodeError) as error:
        raise InputError(f"{path}: not a training state ({one_line(error)})") from error


def restore(model, path, iterations):
    """Load weights and optimizer of a training state into a compiled model.

    Raises:
        InputError: the file is damaged, or its optimizer was not restored, which Keras itself would not say
            (between precisions the variables differ in number).
    """
    if not model.optimizer.built:  # Keras's LossScaleOptimizer would get a second loss scale, and load neither
        model.optimizer.build(model.trainable_variables)
    try:
        archive.load_weights(model, path)
    except Exception as error:
        raise InputError(f"{path}: damaged ({one_line(error)})") from error
    restored = int(np.asarray(model.optimizer.iterations))
    if restored != iterations:
        raise InputError(
            f"{path}: the optimizer's state was not restored (step {restored} instead of {iterations}); "
            "resume with the precision that the run was started with"
        )


def seed_states(model):
    """The state of each seed generator (dropout has one), in layer order: Keras does not save them."""
    return [np.asarray(variable).tolist() for variable in _seed_variables(model)]


def restore_seed_states(model, states):
    """Set what `seed_states` returned."""
    for variable, state in zip(_seed_variables(model), states, strict=True):
        variable.assign(np.asarray(state, dtype=variable.dtype))


def _seed_variables(model):
    return [v for v in model.variables if "seed_generator" in v.path]


def _with_policy(config, policy):
    """Return the configuration with the mixed dtype policies in it replaced; float32 layers stay as they are."""
    if policy is None:
        return config
    if isinstance(config, list):
        return [_with_policy(item, policy) for item in config]
    if not isinstance(config, dict):
        return config
    if config.get("class_name") == "DTypePolicy" and str(config["config"].get("name")).startswith("mixed_"):
        return {**config, "config": {**config["config"], "name": policy}}
    return {key: _with_policy(value, policy) for key, value in config.items()}


def _built(config, path):
    """The model of a configuration; layers that nobody here knows are named."""
    try:
        return archive.build(config)
    except Exception as error:
        if names := sorted(_foreign(config)):
            raise InputError(
                f"{path}: has layers that neither Keras nor kseg can load: {', '.join(names)}; load it with Keras in "
                "your own program, and call kseg.export.export or kseg.evaluation.evaluate there"
            ) from error
        raise


def _foreign(config):
    """Names of the classes in a configuration that come from elsewhere, or hold Python code."""
    if isinstance(config, list):
        return set().union(*map(_foreign, config))
    if not isinstance(config, dict):
        return set()
    found = set().union(*map(_foreign, config.values()))
    # Registered classes and those of a main program have no module, but a name such as "package>class" or "class".
    known = {"keras", "kseg", "builtins"}
    origin = str(config.get("module") or config.get("registered_name") or "keras")
    if "class_name" in config and (re.split("[.>]", origin)[0] not in known or config["class_name"] == "Lambda"):
        found.add(str(config["class_name"]))
    return found


def _matching_labels(model, labels, path):
    shape = getattr(model, "output_shape", None)
    if not isinstance(shape, tuple) or len(shape) != 4 or shape[-1] is None:
        raise InputError(f"{path}: no segmentation network: its output has the shape {shape}, not [B, H, W, classes]")
    if labels is None:
        return LabelSet.numbered(shape[-1])
    _check_number(shape[-1], labels, path)
    return labels


def _check_number(scores, labels, path):
    if scores != len(labels):
        two = "; of a sigmoid p, keras.layers.Concatenate()([1 - p, p]) makes two scores" if scores == 1 else ""
        raise InputError(f"{path}: the network gives {scores} scores a pixel, its labels have {len(labels)} names{two}")
