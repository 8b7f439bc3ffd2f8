"""What the README says works."""

import re
import shlex
from pathlib import Path

import pytest
from tooling import module_of

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_every_path_in_the_readme_exists():
    for path in re.findall(r"`((?:kseg|tools|tests|exported)/[\w./]*)`|\]\(([\w./]+)\)", README):
        named = path[0] or path[1]
        assert (ROOT / named).exists(), named


def test_every_command_is_one_that_its_tool_knows():
    blocks = [block.replace("\\\n", " ") for block in re.findall(r"```sh\n(.*?)```", README, re.DOTALL)]
    lines = [*"".join(blocks).splitlines(), *re.findall(r"`(python tools/[^`]+)`", README)]
    commands = [shlex.split(line, comments=True) for line in lines if "tools/" in line]
    assert len(commands) > 15
    for command in commands:
        place = next(place for place, word in enumerate(command) if word.startswith("tools/"))
        module_of(Path(command[place]).stem)._arguments(command[place + 1 :])


@pytest.mark.slow
def test_the_python_example_trains():
    example = re.search(r"```python\n(import keras\n.*?)```", README, re.DOTALL).group(1)
    scope = {}
    exec(example.replace("epochs=10", "epochs=1"), scope)
    logs = scope["model"].history.history
    assert logs["loss"][0] < 5
    assert 0 <= logs["val_mean_iou"][0] <= 1
