"""Make a web page that labels pictures with an exported file, in the browser of whoever opens it."""

import shlex
import sys
from pathlib import Path

from kseg import cli

EXAMPLES = """
python tools/web.py exported/nuclei_unet_float16.tflite --out runs/page
python tools/web.py streets_labels.tflite --out runs/page --title Streets --example street.jpg
python tools/web.py unet.onnx --out runs/page

then, with npm for the engine, and any server of static files:
cd runs/page && npm install && python -m http.server     (and open http://localhost:8000)
"""


def _arguments(argv):
    parser = cli.parser(__doc__, EXAMPLES)
    parser.add_argument("model", type=Path, metavar="MODEL", help=".tflite or .onnx file, with its card beside it")
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="folder of the page")
    parser.add_argument("--title", help="default: the file's name")
    parser.add_argument("--example", type=Path, metavar="IMAGE", help="a picture that the page shows at first")
    return parser.parse_args(argv)


@cli.command
def main(argv=None):
    """Write the page beside the network's file; nothing else in the folder is touched."""
    args = _arguments(argv)
    from kseg.runtime.page import write_page

    cli.check_output(args.out)
    write_page(args.model, args.out, args.title, args.example)
    print(f"{args.out / 'index.html'}: a page with {args.model.name}")
    print(f"Next: cd {shlex.quote(str(args.out))} && npm install && python -m http.server")
    print("and open http://localhost:8000")
    return 0


if __name__ == "__main__":
    sys.exit(main())
