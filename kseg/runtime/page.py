"""A web page that runs an exported file in the browser of whoever opens it: `kseg/runtime/web` and the file."""

import json
from importlib import resources
from pathlib import Path

from PIL import Image

from kseg import files
from kseg.errors import InputError
from kseg.runtime.card import Card
from kseg.runtime.tflite import allocate, described, open_interpreter

# The engines that run the files in a browser, as npm packages, in versions that are known to work.
ENGINES = {".tflite": {"@litertjs/core": "2.5.3"}, ".onnx": {"onnxruntime-web": "1.30.0"}}

_OURS = ("index.html", "kseg.mjs")
_READABLE = ("float32", "int32", "uint8")  # the results that LiteRT.js hands out
_PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif")  # what browsers show
_MARK = "page.json"  # written last; a folder with it holds a page of ours


def write_page(model, folder, title=None, example=None):
    """Write a web page that labels pictures with an exported file.

    The page needs its engine beside it (`npm install` in the folder reads package.json) and any server of static files.

    Args:
        model: path of a .tflite or .onnx file that kseg exported, with its card beside it.
        folder: where to; made if missing. A page that is there already is replaced and its network and picture are
            taken away; other files are left alone.
        title: of the page; None: the file's name.
        example: path of a picture that the page shows at first; None: none.
    Raises:
        InputError: the file, its card or the picture is missing or of a kind that no browser runs or shows, or files
            of others are in the way.
        ImportError: ai-edge-litert, which tells what a .tflite file gives, is not installed.
    """
    model, folder = Path(model), Path(folder)
    if model.suffix not in ENGINES:
        raise InputError(f"{model}: must be an exported file, ending in {' or '.join(ENGINES)}")
    if not model.is_file():
        raise InputError(f"{model}: no such file")
    card = Card.load(model)
    _check_runs_in_browsers(model, card)
    contents = {
        model.name: model.read_bytes(),
        Card.path_for(model).name: Card.path_for(model).read_bytes(),
        **{name: resources.files("kseg.runtime").joinpath("web", name).read_bytes() for name in _OURS},
        "package.json": _json({"private": True, "dependencies": ENGINES[model.suffix]}),
    }
    page = {"title": title or model.name, "model": model.name, "example": None}
    if example is not None:
        page["example"] = f"example{Path(example).suffix.lower()}"
        contents[page["example"]] = _read_picture(Path(example))
    earlier = _read_mark(folder)
    if earlier is None and (there := [name for name in (*contents, _MARK) if (folder / name).exists()]):
        raise InputError(f"{folder}: {', '.join(there)} would be overwritten; choose another folder")
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in {**contents, _MARK: _json(page)}.items():
        with files.replacing(folder / name) as temporary:
            temporary.write_bytes(content)
    if earlier:
        for name in {earlier["model"], Card.path_for(earlier["model"]).name, earlier["example"]} - {None, *contents}:
            (folder / Path(name).name).unlink(missing_ok=True)


def _read_mark(folder):
    """What the page in a folder shows, or None where there is none of ours."""
    try:
        page = json.loads((folder / _MARK).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return page if isinstance(page, dict) and set(page) == {"title", "model", "example"} else None


def _check_runs_in_browsers(model, card):
    if len(card.labels) == 1:
        raise InputError(f"{model}: gives one score a pixel, which tells no classes")
    if card.external_data:
        raise InputError(f"{model}: its weights lie in a second file of more than 2 GB, which no browser loads")
    if model.suffix != ".tflite":
        return
    if card.size_px is None:
        raise InputError(f"{model}: LiteRT.js runs no .tflite file of any size; export it with --size, or as .onnx")
    interpreter = open_interpreter(model, threads=1)
    allocate(model, interpreter)
    (output,) = interpreter.get_output_details()
    _, dtype = described(output)
    if dtype not in _READABLE:
        raise InputError(
            f"{model}: gives {dtype} scores, which LiteRT.js does not hand out; export it with --output labels "
            "or probabilities"
        )


def _read_picture(path):
    if path.suffix.lower() not in _PICTURES:
        raise InputError(f"{path}: browsers show {', '.join(_PICTURES)}")
    try:
        with Image.open(path) as image:
            image.load()
        return path.read_bytes()
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file") from error
    except (OSError, SyntaxError) as error:  # of a broken PNG
        raise InputError(f"{path}: not a picture that can be read ({error})") from error


def _json(value):
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()
