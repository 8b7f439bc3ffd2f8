"""The HTML report in a real browser: headless Chromium draws it, and the picture is looked at."""

import shutil
import subprocess

import numpy as np
import pytest
from made_up import facts, make_run, scores
from PIL import Image

from kseg.evaluation.report import read_entries, write_html

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(BROWSER is None, reason="no Chromium here (apt-get install chromium)"),
]

# A frame as narrow as a phone, because Chromium's own window is at least 500 pixels wide. Its title tells how much
# wider than the frame the page is, which would let it scroll sideways.
_FRAME = """<style>body {{ margin: 0; background: white }} iframe {{ border: 0; display: block }}</style>
<iframe src="{url}" width="{width}" height="{height}"></iframe>
<script>addEventListener("load", () => {{
  const page = document.querySelector("iframe").contentDocument.documentElement;
  document.title = "overflow " + (page.scrollWidth - page.clientWidth) + " broken " +
    [...page.querySelectorAll("img")].filter(i => i.loading != "lazy" && !i.naturalWidth).length;
}});</script>"""


def _browse(*arguments):
    common = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--allow-file-access-from-files"]
    done = subprocess.run([BROWSER, *common, *arguments], capture_output=True, text=True, timeout=120, check=True)
    return done.stdout


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    names = ("a_run_with_quite_a_long_name_and_no_spaces", "b", "c")
    runs = [
        make_run(folder / name, scores(0.6 + 0.1 * i), facts(), learning_rate=0.001 * (1 + i))
        for i, name in enumerate(names)
    ]
    write_html(read_entries(runs), folder / "page.html")
    return folder / "page.html"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_a_page_is_drawn(page, tmp_path, width, scheme):
    frame, shot = tmp_path / "frame.html", tmp_path / "shot.png"
    height = 1600
    frame.write_text(_FRAME.format(url=page.as_uri(), width=width, height=height))
    colours = f"--blink-settings=preferredColorScheme={0 if scheme == 'dark' else 1}"
    _browse(colours, f"--window-size={max(width, 500)},{height}", f"--screenshot={shot}", frame.as_uri())
    with Image.open(shot) as picture:
        pixels = np.array(picture.convert("RGB"))[:, :width].astype(int)
    assert pixels.shape == (height, width, 3)
    ground = (252, 252, 250) if scheme == "light" else (21, 24, 28)
    near = np.abs(pixels - ground).max(-1) < 16  # the page and the panels on it
    assert 0.5 < near.mean() < 0.97, "an empty page, or another colour scheme"
    for colour in ((31, 95, 158), (200, 87, 12)) if scheme == "light" else ((108, 171, 230), (240, 147, 77)):
        assert (np.abs(pixels - colour).max(-1) < 8).sum() > 100, "the curves are not there"


@pytest.mark.parametrize("width", [360, 390, 768, 1280])
def test_no_page_is_wider_than_its_window(page, tmp_path, width):
    frame = tmp_path / "frame.html"
    frame.write_text(_FRAME.format(url=page.as_uri(), width=width, height=1600))
    html = _browse("--dump-dom", "--virtual-time-budget=5000", f"--window-size={max(width, 500)},1600", frame.as_uri())
    assert "<title>overflow 0 broken 0</title>" in html
