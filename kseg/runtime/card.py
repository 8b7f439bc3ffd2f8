"""The card: what an exported file is, kept beside it as JSON, so that the file can be used without its maker."""

import hashlib
import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from kseg.errors import InputError
from kseg.labels import LabelSet

_CURE = "export the model again with tools/export.py"


@dataclass(frozen=True)
class Card:
    """The description of one exported file.

    Attributes:
        file: the file's name, without a folder.
        sha256: of the file's content, in hexadecimal.
        network: the name of the Keras model.
        labels: LabelSet, one class an output channel.
        input: {"shape": [1, H, W, 3], "dtype": "float32" | "uint8", "range": [0, 255]}; RGB. H and W are null in a
            resizable file, here and in the output.
        output: {"kind": "logits" | "probabilities", "shape": [1, H, W, classes]}, or {"kind": "labels", "shape":
            [1, H, W]}.
        precision: "float32", "float16", "dynamic", "int8" or "int16x8".
        versions: {package: version} that made the file.
        parity: {"data", "images", "max_abs_error", "relative_rms_error", "argmax_agreement", "mean_iou_keras",
            "mean_iou_file"}, measured on this very file; the two mean IoUs are null when the images came without
            labels or with another label set's. None only while the file is being checked.
        external_data: {"file", "sha256"} of the second file that holds an ONNX model's weights, or None.
        conversion: {"seconds": how long it took, "converter": "structure" or "plain", "because": why the plain one}.
        calibration: {"data", "images", "sha256"} of the images that set the scales of an 8-bit file, or None.
        check: what `kseg.export.inspect` found in a .tflite file, or None.
    """

    file: str
    sha256: str
    network: str
    labels: LabelSet
    input: dict
    output: dict
    precision: str
    versions: dict
    parity: dict | None = None
    external_data: dict | None = None
    conversion: dict | None = None
    calibration: dict | None = None
    check: dict | None = None

    @property
    def size_px(self):
        """(height, width) of the images that the file takes; None: it takes every size."""
        height, width = self.input["shape"][1:3]
        return None if height is None else (height, width)

    @staticmethod
    def path_for(path):
        """Where the card of the file `path` lies: the full file name + ".json" (unet.tflite.json)."""
        path = Path(path)
        return path.with_name(path.name + ".json")

    @classmethod
    def load(cls, path):
        """Read the card of the exported file `path`, and check that it is this file's.

        Raises:
            InputError: there is no card, it cannot be read, or the file is not the one that the card describes.
        """
        where = cls.path_for(path)
        try:
            card = cls._from_fields(json.loads(where.read_text(encoding="utf-8")), where)
        except FileNotFoundError as error:
            raise InputError(
                f"{path}: its card {where.name} is missing. Copy it along with the file; "
                f"a file that kseg did not export has none: {_CURE}"
            ) from error
        except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
            raise InputError(f"{where}: the card cannot be read ({error}); {_CURE}") from error
        _check_content(path, card.sha256)
        if card.external_data:
            _check_content(Path(path).with_name(card.external_data["file"]), card.external_data["sha256"])
        return card

    @classmethod
    def _from_fields(cls, content, where):
        # Fields that this version does not know are passed over: a later kseg may tell more about a file.
        names = [field.name for field in fields(cls)]
        lacking = [name for name in names[:8] if name not in (content if isinstance(content, dict) else {})]
        if lacking:
            raise InputError(f"{where}: the card lacks the fields {lacking}; {_CURE}")
        labels = LabelSet.from_dict(content["labels"], where=str(where))
        card = cls(**{**{name: content[name] for name in names if name in content}, "labels": labels})
        card._check(where)
        return card

    def _check(self, where):
        try:
            batch, height, width, channels = self.input["shape"]
            kind, classes = self.output["kind"], len(self.labels)
            right = batch == 1 and channels == 3 and self.input["dtype"] in ("float32", "uint8")
            right = right and (height is width is None or min(height, width) > 0)
            right = right and kind in ("logits", "probabilities", "labels")
            scores = [1, height, width] if kind == "labels" else [1, height, width, classes]
            right = right and list(self.output["shape"]) == scores
            right = right and (not self.external_data or _names_a_file(self.external_data))
            details = (self.parity, self.conversion, self.calibration, self.check)
            right = right and all(detail is None or isinstance(detail, dict) for detail in details)
        except (KeyError, TypeError, ValueError):
            right = False
        if not right:
            raise InputError(f"{where}: the card's input, output and labels do not fit together; {_CURE}")

    def save(self, path):
        """Write the card of the exported file `path`; returns the card's own path.

        Raises:
            ValueError: a number in it is NaN or infinite.
        """
        where = self.path_for(path)
        content = {**asdict(self), "labels": self.labels.to_dict()}
        where.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n", encoding="utf-8")
        return where


def sha256_of(path):
    """sha256 of a file's content, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check_content(path, expected):
    try:
        found = sha256_of(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); its card names it") from error
    if found != expected:
        raise InputError(
            f"{path}: is not the file that its card describes (sha256 {found[:12]}, card {str(expected)[:12]}): "
            f"it was cut short or changed. Copy both again, or {_CURE}"
        )


def _names_a_file(external):
    """Whether a card's `external_data` names a file beside the card, and that file's sha256."""
    file, digest = external["file"], external["sha256"]
    return isinstance(file, str) and isinstance(digest, str) and Path(file).name == file not in ("", "..")
