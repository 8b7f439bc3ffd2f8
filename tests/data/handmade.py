"""Small files of every kind, written by the tests themselves."""

import io
import json
import struct
import zlib

import numpy as np
from PIL import Image

from kseg.labels import LabelSet

LABELS = LabelSet(("sky", "tree", "road"), ((0, 0, 255), (0, 160, 0), (90, 90, 90)), ignore=255)


def picture(height, width, seed=0):
    """uint8 [height, width, 3]: smooth colours, which JPEG keeps well."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (4, 4, 3), np.uint8))
    return np.array(small.resize((width, height), Image.Resampling.BICUBIC))


def indices(height, width, classes=3, seed=0):
    """uint8 [height, width]: blocks of class indices."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, classes, (5, 5), np.uint8))
    return np.array(small.resize((width, height), Image.Resampling.NEAREST))


def save(path, array, **options):
    """Write an array as an image file; the suffix says which kind."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **options)
    return path


def dataset(root, names=("a", "b", "c"), size=(24, 30), labels=LABELS, split="train"):
    """A folder of JPEG images with index masks; returns its path."""
    for number, name in enumerate(names):
        save(root / "images" / split / f"{name}.jpg", picture(*size, seed=number), quality=95)
        save(root / "masks" / split / f"{name}.png", indices(*size, classes=len(labels), seed=number))
    (root / "labels.json").write_text(json.dumps(labels.to_dict()))
    return root


def png(depth, colour_type, rows, width, chunks=()):
    """Bytes of a PNG, for the kinds that Pillow does not write. rows: packed bytes of each row."""

    def chunk(name, content):
        body = name + content
        return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))

    head = struct.pack(">IIBBBBB", width, len(rows), depth, colour_type, 0, 0, 0)
    parts = [(b"IHDR", head), *chunks, (b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows))), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


def cut(path, share=0.5):
    """Keep only the first part of a file."""
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])


def exif(value):
    """EXIF block with an orientation."""
    block = Image.Exif()
    block[0x0112] = value
    return block.tobytes()


def encoded(array, **options):
    """Bytes of an image file."""
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, **options)
    return buffer.getvalue()
