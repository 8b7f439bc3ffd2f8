"""How long conversion takes and how much memory, against the ways that a Keras user would find first.

    python tests/benchmarks/conversion.py                  # what kseg does
    python tests/benchmarks/conversion.py --plain          # and what others do, each stopped at 300 s or 12 GiB

Prints a Markdown table. Each line is a process of its own, from a `.keras` file to the file that it writes. Seconds
are of the wall clock, without the imports; peak memory is that of the whole process.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SIZE = (352, 480)
# Parameters in millions: builder and its arguments.
NETWORKS = {
    1: ("UNet", {"filters": 12}),
    10: ("UNet", {"filters": 36}),
    50: ("FCN8s", {"fc_units": 1300}),
    134: ("FCN8s", {"fc_units": 4096}),
}
CALIBRATION_IMAGES = 8


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", type=int, choices=NETWORKS, default=[*NETWORKS])
    parser.add_argument("--targets", nargs="+", choices=[*TARGETS, *PLAIN], help="instead of all of kseg's own")
    parser.add_argument("--plain", action="store_true", help="measure the plain converters, too")
    parser.add_argument("--seconds", type=float, default=300, help="stop a conversion that takes longer")
    parser.add_argument("--gib", type=float, default=12, help="stop a conversion that takes more memory")
    parser.add_argument("--inside", nargs=3, metavar=("TARGET", "KERAS", "FOLDER"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.inside:
        _inside(*arguments.inside)
        return
    targets = arguments.targets or [*TARGETS, *(PLAIN if arguments.plain else ())]
    print("| million parameters | target | load, s | convert, s | together, s | peak, MiB | file, MB |")
    print("|---|---|---|---|---|---|---|", flush=True)
    for millions in arguments.networks:
        with tempfile.TemporaryDirectory(prefix="conversion-") as folder:
            network = Path(folder, "network.keras")
            _run(["save", millions, network], arguments)
            for target in targets:
                with tempfile.TemporaryDirectory(dir=folder) as own:
                    print(f"| {millions} | {target} | {_run([target, network, own], arguments)} |", flush=True)


def _run(command, limits):
    """Start this script anew for one measurement; returns the cells of the table."""
    # This process stays small and imports nothing large: a child's peak begins with that of its parent.
    command = [sys.executable, __file__, "--inside", *map(str, command)]
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "KERAS_BACKEND": "tensorflow"}
    with tempfile.TemporaryFile("w+") as errors:
        child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment)
        start, why = time.monotonic(), None
        while child.poll() is None:
            time.sleep(0.05)
            if time.monotonic() - start > limits.seconds:
                why = f"stopped after {limits.seconds:g} s"
            elif _resident_bytes(child.pid) > limits.gib * 2**30:
                why = f"stopped at {limits.gib:g} GiB after {time.monotonic() - start:.0f} s"
            if why:
                child.kill()
                child.wait()
        output = child.stdout.read()
        child.stdout.close()
        if why:
            return f"{why} | | | |"
        if child.returncode:
            errors.seek(0)
            return f"failed: {(errors.read().strip().splitlines() or [child.returncode])[-1]} | | | |"
    return output.strip().splitlines()[-1] if output.strip() else ""


def _resident_bytes(pid):
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError):  # it has just ended
        return 0


# ---- in the process of one measurement


def _inside(target, source, folder):
    if target == "save":
        _save(int(source), Path(folder))
        return
    import keras  # noqa: F401
    import tensorflow  # noqa: F401

    import kseg.export  # noqa: F401
    from kseg.training import load_model

    start = time.perf_counter()
    model, labels = load_model(source)
    loaded = time.perf_counter()
    {**TARGETS, **PLAIN}[target](model, labels, Path(folder))
    done = time.perf_counter()
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    size = sum(file.stat().st_size for file in Path(folder).rglob("*") if file.is_file() and file.suffix != ".json")
    print(f"{loaded - start:.1f} | {done - loaded:.1f} | {done - start:.1f} | {peak_mib:.0f} | {size / 1e6:.1f}")


def _save(millions, path):
    import keras
    import numpy as np

    from kseg import applications
    from kseg.labels import LabelSet
    from kseg.training import save_model

    keras.utils.set_random_seed(0)
    builder, options = NETWORKS[millions]
    network = getattr(applications, builder)(**options)
    rng = np.random.default_rng(0)
    for layer in network.layers:
        if layer.name.startswith("score"):  # they begin with zeros; here the classes shall be told apart clearly
            classes = layer.bias.shape[0]
            layer.set_weights([rng.normal(0, 0.01, layer.kernel.shape), np.linspace(-9, 9, classes)])
    save_model(network, path, LabelSet.numbered(network.output_shape[-1]))


def _pictures(count, seed):
    import numpy as np

    from kseg.runtime.resize import resize

    rng = np.random.default_rng(seed)
    return [resize(rng.integers(0, 256, (8, 10, 3)).astype(np.uint8), SIZE).astype(np.uint8) for _ in range(count)]


def _onnx(precision):
    def convert(model, labels, folder):
        from kseg.export import onnx
        from kseg.lowering import lower

        properties = {"labels": json.dumps(labels.to_dict())}
        images = _pictures(CALIBRATION_IMAGES, seed=0)
        onnx.write_onnx(lower(model, SIZE), folder / "net.onnx", precision, properties, calibration=images)

    return convert


def _tflite(precision):
    def convert(model, labels, folder):
        from kseg.export import Calibration, tflite
        from kseg.lowering import lower

        calibration = Calibration(tuple(_pictures(CALIBRATION_IMAGES, seed=0)))
        tflite.write_tflite(lower(model, SIZE), folder / "net.tflite", precision, calibration=calibration)

    return convert


def _export(format, precision):
    def convert(model, labels, folder):
        from kseg.export import export

        verification = [(image, None) for image in _pictures(1, seed=1)]
        images = _pictures(CALIBRATION_IMAGES, seed=0)
        file = folder / f"net.{format}"
        options = {"format": format, "precision": precision, "size_px": SIZE, "calibration": images}
        export(model, labels, file, verification=verification, **options)

    return convert


def _fixed(model):
    """The model at one size and a batch of one, which every converter takes."""
    import keras

    image = keras.Input(batch_shape=(1, *SIZE, 3), name="image")
    return keras.Model(image, model(image))


def _keras_onnx(model, labels, folder):
    import numpy as np

    model = _fixed(model)
    model(np.zeros((1, *SIZE, 3), np.float32))  # it refuses a model that was never called
    model.export(folder / "net.onnx", format="onnx", verbose=False)


def _tf2onnx(model, labels, folder):
    import tensorflow as tf
    import tf2onnx

    spec = [tf.TensorSpec((1, *SIZE, 3), tf.float32, name="image")]
    function = tf.function(lambda image: _call(model, image), input_signature=spec)
    tf2onnx.convert.from_function(function, input_signature=spec, opset=17, output_path=str(folder / "net.onnx"))


def _call(model, image):
    return model(image, training=False)


def _tflite_converter(precision):
    def convert(model, labels, folder):
        import numpy as np
        import tensorflow as tf

        converter = tf.lite.TFLiteConverter.from_keras_model(_fixed(model))
        if precision == "int8":
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
            images = _pictures(CALIBRATION_IMAGES, seed=0)
            converter.representative_dataset = lambda: ([image[None].astype(np.float32)] for image in images)
            converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        (folder / "net.tflite").write_bytes(converter.convert())

    return convert


TARGETS = {
    "kseg ONNX float32": _onnx("float32"),
    "kseg ONNX float16": _onnx("float16"),
    "kseg ONNX int8": _onnx("int8"),
    "kseg TFLite float32": _tflite("float32"),
    "kseg TFLite int8": _tflite("int8"),
    "kseg ONNX float32, with its check": _export("onnx", "float32"),
    "kseg TFLite float32, with its check": _export("tflite", "float32"),
    "kseg TFLite int8, with its check": _export("tflite", "int8"),
}
PLAIN = {
    "model.export ONNX": _keras_onnx,
    "tf2onnx": _tf2onnx,
    "TFLiteConverter float32": _tflite_converter("float32"),
    "TFLiteConverter int8": _tflite_converter("int8"),
}

if __name__ == "__main__":
    main()
