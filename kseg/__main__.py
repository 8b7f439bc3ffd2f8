"""All tools as one command: `kseg train ...` is `python tools/train.py ...`, in any folder, also without a checkout."""

import ast
import importlib.util
import sys
from pathlib import Path

from kseg import cli
from kseg.errors import InputError

# In the order in which somebody with images meets them.
TOOLS = ("check", "train", "report", "evaluate", "predict", "export", "quantize", "benchmark", "web", "shards")

_HERE = Path(__file__).resolve().parent
# setup.py puts them inside kseg where it is installed; in a checkout they lie beside it.
_FOLDER = _HERE / "tools" if (_HERE / "tools").is_dir() else _HERE.parent / "tools"


@cli.command
def main(argv=None):
    """Run the tool that the first argument names; without one, list them all."""
    name, *arguments = (sys.argv[1:] if argv is None else argv) or ["--help"]
    if name in ("-h", "--help"):
        print("usage: kseg TOOL ...     (kseg TOOL --help: its arguments, with examples)\n")
        for tool in TOOLS:
            text = (_FOLDER / f"{tool}.py").read_text(encoding="utf-8")
            print(f"  {tool:10} {ast.get_docstring(ast.parse(text))}")
        return 0
    if name not in TOOLS:
        raise InputError(f"no tool {name!r}; there are: {', '.join(TOOLS)}")
    sys.argv = [f"kseg {name}", *arguments]  # what its messages call it
    spec = importlib.util.spec_from_file_location(f"kseg_{name}", _FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main()


if __name__ == "__main__":
    sys.exit(main())
