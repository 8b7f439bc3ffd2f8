"""Package kseg. Exact versions that are known to work together stand in .ci/constraints.txt."""

from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).resolve().parent

# Not in install_requires: exported files need no Keras, neither on a device nor in tools/predict.py.
_KERAS = "keras>=3.14"  # before, layers that inherit from Keras's normalisation cannot be trained
# TensorFlow without GPU has a package of its own, which there is not for every machine.
_PC = "sys_platform != 'darwin' and platform_machine in 'x86_64 AMD64'"
_OTHERS = "sys_platform == 'darwin' or platform_machine not in 'x86_64 AMD64'"
EXTRAS = {
    "cpu": [_KERAS, f"tensorflow-cpu>=2.18; {_PC}", f"tensorflow>=2.18; {_OTHERS}"],
    "gpu": [_KERAS, "tensorflow[and-cuda]>=2.18"],
    "jax": [_KERAS, "jax>=0.7"],
    "data": ["tensorflow-datasets>=4.9.7", "albumentations>=2.0", "opencv-python-headless"],
    "tflite": ["ai-edge-litert>=2.0"],
    "onnx": ["onnx", "tf2onnx>=1.16", "onnxruntime"],
    "plots": ["matplotlib"],
    "boundaries": ["scikit-image>=0.22"],
    "tensorboard": ["tensorboard"],
}
EXTRAS["all"] = sorted({package for extra, packages in EXTRAS.items() if extra != "gpu" for package in packages})
EXTRAS["dev"] = ["pytest", "pytest-xdist", "ruff", "pre-commit"]


def _version():
    line = next(line for line in (ROOT / "kseg/__init__.py").read_text().splitlines() if line.startswith("__version__"))
    return line.split('"')[1]


setup(
    name="kseg",
    version=_version(),
    description="Semantic segmentation for Keras: from a folder of images to a verified TFLite or ONNX file",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=[*find_packages(include=["kseg", "kseg.*"]), "kseg.tools"],
    package_dir={"kseg.tools": "tools"},  # they lie beside kseg in its folder, and inside it where it is installed
    entry_points={"console_scripts": ["kseg=kseg.__main__:main"]},
    package_data={"kseg.data": ["bundled/*/*", "bundled/*/*/*/*"], "kseg.runtime": ["web/*"]},
    install_requires=["numpy", "pillow", "rich"],  # rich: what the tools print with
    extras_require=EXTRAS,
    classifiers=[
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Topic :: Scientific/Engineering :: Image Recognition",
    ],
)
