"""Runs MediaPipe's ImageSegmenter on a .tflite file; for the Python of .venv-clients, which knows no kseg.

segment.py MODEL IMAGES.npy RESULT.npz

IMAGES: uint8 [N, H, W, 3]. RESULT: masks uint8 [N, H, W], confidences float32 [N, H, W, classes], labels, and told, the
file's metadata as JSON, read by MediaPipe's own generated classes. Exit code 3: MediaPipe cannot run on this machine;
4: it refuses the file. Either is told in the last line of standard error.
"""

import json
import sys

import numpy as np

CANNOT_RUN, REFUSED = 3, 4


def main(model, images, result):
    try:
        import mediapipe as mp
        from mediapipe.tasks.metadata import metadata_schema_py_generated as metadata_schema
        from mediapipe.tasks.metadata import schema_py_generated as schema
        from mediapipe.tasks.python import BaseOptions, vision
    except (ImportError, OSError) as error:
        return _fail(CANNOT_RUN, error)
    options = vision.ImageSegmenterOptions(
        base_options=BaseOptions(model_asset_path=model), output_category_mask=True, output_confidence_masks=True
    )
    try:
        segmenter = vision.ImageSegmenter.create_from_options(options)
    except OSError as error:
        # What MediaPipe misses in a file are OSErrors too; only the dynamic linker speaks of libraries.
        return _fail(CANNOT_RUN if ".so" in str(error) else REFUSED, error)
    except (ValueError, RuntimeError) as error:
        return _fail(REFUSED, error)
    masks, confidences = [], []
    with segmenter:
        for image in np.load(images):
            found = segmenter.segment(mp.Image(image_format=mp.ImageFormat.SRGB, data=image))
            masks.append(np.squeeze(found.category_mask.numpy_view()).copy())
            confidences.append(np.stack([np.squeeze(mask.numpy_view()) for mask in found.confidence_masks], -1))
        labels = np.array(segmenter.labels)
    told = _told(model, schema, metadata_schema)
    np.savez(result, masks=masks, confidences=confidences, labels=labels, told=json.dumps(told))
    return 0


def _told(path, schema, metadata_schema):
    with open(path, "rb") as file:
        model = schema.ModelT.InitFromPackedBuf(file.read(), 0)
    (entry,) = (entry for entry in model.metadata if entry.name == b"TFLITE_METADATA")
    return _plain(metadata_schema.ModelMetadataT.InitFromPackedBuf(model.buffers[entry.buffer].data.tobytes(), 0))


def _plain(value):
    """An object of generated classes as dicts, lists, strings and numbers, without what is not set."""
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, list):
        return [_plain(part) for part in value]
    if hasattr(value, "__dict__"):
        return {name: _plain(part) for name, part in vars(value).items() if part is not None}
    return value


def _fail(code, error):
    print(str(error).replace("\n", " "), file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
