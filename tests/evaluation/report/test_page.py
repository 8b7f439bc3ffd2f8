import base64
import io
import re
from html.parser import HTMLParser

import pytest
from made_up import STREETS, facts, make_run, scores
from PIL import Image

from kseg.errors import InputError
from kseg.evaluation.report import read_entries, write_html
from kseg.evaluation.report.page import page
from kseg.labels import LabelSet

_VOID = {"meta", "img", "wbr"}


class _Reader(HTMLParser):
    """Text and attributes of a page; fails on tags that are not closed in order."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.attributes, self.open, self.text = [], [], [], ""
        self.feed(html)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes.append((tag, dict(attrs)))
        if tag not in _VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, f"</{tag}> closes something else"

    def handle_data(self, data):
        if not self.open or self.open[-1] != "style":
            self.text += data


def _page(*runs):
    return page(read_entries(runs))


@pytest.fixture
def run(tmp_path):
    return make_run(tmp_path / "first_run", scores(0.7), facts())


def test_one_run_shows_everything(run):
    html = _page(run)
    read = _Reader(html)
    for text in ("first_run", "70.0", "80.0", "75.0", "0.52 M", "13 min", "a machine, 2 cores", "Best 1: 0.png"):
        assert text in read.text, text
    assert "Worst 1: 4.png mean IoU 50.0" in read.text
    assert "python tools/train.py nuclei_unet --data ./nuclei --out runs/first_run" in read.text
    assert "/home/me" not in html
    headings = re.findall(r"<h2>(.*?)</h2>", html)
    assert headings == [
        *("Learning curves", "IoU of each class", "Image by image", "Best and worst images", "Confusion", "Settings"),
        "How it was made",
    ]


def test_a_page_needs_nothing_from_elsewhere(run, tmp_path):
    html = _page(run, make_run(tmp_path / "b", scores(0.6), facts()))
    read = _Reader(html)
    assert not {"script", "link", "iframe", "object"} & set(read.tags)
    for _, attributes in read.attributes:
        assert attributes.get("src", "data:image/").startswith("data:image/")
        assert "href" not in attributes
    assert not re.search(r"url\(|@import|https?://", html)


def test_pictures_are_the_four_parts_of_each_panel(run):
    images = [attributes for tag, attributes in _Reader(_page(run)).attributes if tag == "img"]
    assert [image["alt"] for image in images[:2]] == [
        "image of 0.png, best image number 1 of first_run",
        "truth of 0.png, best image number 1 of first_run",
    ]
    assert len(images) == 3 * 4
    with Image.open(io.BytesIO(base64.b64decode(images[1]["src"].split(",")[1]))) as truth:
        assert (truth.size, truth.format) == ((16, 12), "PNG")
        assert truth.convert("RGB").getpixel((0, 0)) == (0, 0, 0)
        assert truth.convert("RGB").getpixel((15, 11)) == (255, 200, 0)


def test_whoever_cannot_see_it_is_told(run, tmp_path):
    html = _page(run, make_run(tmp_path / "b", scores(0.6), facts()))
    read = _Reader(html)
    for tag, attributes in read.attributes:
        if tag == "img":
            assert attributes["alt"]
        if tag == "th":
            assert attributes["scope"] in ("row", "col")
        if tag == "svg":
            assert (attributes["role"], len(attributes["aria-label"]) > 5) == ("img", True)
    assert '<html lang="en">' in html
    assert 'aria-label="70.0, best"' in html
    assert "Loss. first_run ends at 0.6667; b ends at 0.6667" in html


def test_everything_from_files_is_escaped(tmp_path):
    bad = "<script>alert('x')</script>&\""
    labels = LabelSet((bad, "b"), ((0, 0, 0), (255, 200, 0)))
    result = scores(0.7, classes=(bad, "b"))
    for one in result["per_image"]:
        one["name"] = f"{bad}.png"
    told = facts(command=f"python tools/train.py '{bad}' --data x", machine=bad, precision=bad, data=bad, keras=bad)
    runs = [make_run(tmp_path / name, result, told, labels, weights=bad + name, model=bad) for name in ("a<b>&", "c")]
    for html in (_page(*runs), _page(runs[0])):
        assert "<script" not in html
        assert "alert(" in html
        assert "a<b>" not in html
        _Reader(html)


def test_runs_are_compared(run, tmp_path):
    html = _page(run, make_run(tmp_path / "b", scores(0.6), facts(), learning_rate=0.01))
    assert "2 runs compared" in html
    assert html.count('class="best"') + html.count('class="best room"') == 3 + 2  # three scores, two classes
    differing = html.split("Only what differs")[1].split("<details>")[0]
    assert re.findall(r'<th scope="row">(.*?)</th>', differing) == ["learning_<wbr>rate"]
    assert "do not compare" not in html


def test_runs_of_different_classes_are_not_compared(run, tmp_path):
    labels = LabelSet(("sky", "road", "tree"), ((0, 0, 0), (255, 200, 0), (0, 255, 0)))
    other = make_run(tmp_path / "b", scores(0.6, labels.names), facts(data="streets"), labels)
    html = _page(run, other)
    assert "values of different tables do not compare" in html
    assert "best room" not in html
    assert "Scored on 6 images of nuclei (val), 2 classes" in html
    assert "Scored on 6 images of streets (val), 3 classes" in html


def test_an_unfinished_run_shows_its_curves_and_says_so(run, tmp_path):
    unfinished = make_run(tmp_path / "b", None, facts(), epochs=2)
    alone = _page(unfinished)
    assert "This run is not finished: no scores yet: 2 of 3 epochs done." in alone
    assert alone.count("<polyline") == 5  # loss and mean IoU of crops and images, and the learning rate
    assert "Confusion" not in alone
    assert "no scores yet: 2 of 3 epochs done" in _page(run, unfinished)


def test_a_run_that_has_only_begun(tmp_path):
    html = _page(make_run(tmp_path / "b", epochs=0))
    assert "0 of 3 epochs done" in html
    assert "Loss: nothing recorded." in html
    _Reader(html)


def test_published_figures_and_terms_stand_below(tmp_path):
    html = _page(make_run(tmp_path / "a", scores(0.7, STREETS), facts(data="/d/camvid")))
    assert "CC BY-NC 4.0" in html
    assert "FCN-8s, mean IoU 57.0, pixel accuracy 88.0, on the 233 test images" in html


def test_a_picture_that_is_no_panel_is_named(run):
    Image.new("RGB", (10, 10)).save(run / "pictures" / "best_1_0.png")
    with pytest.raises(InputError, match=r"best_1_0\.png: not a picture of a run"):
        _page(run)
    (run / "pictures" / "best_1_0.png").write_bytes(b"no picture")
    with pytest.raises(InputError, match=r"best_1_0\.png: not a picture of a run"):
        _page(run)


def test_a_page_is_whole_or_not_there(run, tmp_path):
    entries = read_entries([run])
    write_html(entries, tmp_path / "page.html")
    before = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert before.endswith("</html>\n")
    (run / "pictures" / "best_1_0.png").write_bytes(b"no picture")
    with pytest.raises(InputError):
        write_html(entries, tmp_path / "page.html")
    assert (tmp_path / "page.html").read_text(encoding="utf-8") == before
