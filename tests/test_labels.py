"""Label sets: what is refused, files, and colours."""

import json

import numpy as np
import pytest

from kseg.errors import InputError
from kseg.labels import VOID_COLOUR, LabelSet, voc_colour

LABELS = LabelSet(["sky", "tree"], [[0, 0, 255], [0, 160, 0]], ignore=255)

MISTAKES = {
    "at least one name": ((), ()),
    "different, non-empty": (("a", "a"), ((0, 0, 0), (1, 1, 1))),
    "each name needs a colour": (("a", "b"), ((0, 0, 0),)),
    "three whole numbers": (("a",), ((0, 0, 256),)),
    "`ignore` must be null": (("a", "b"), ((0, 0, 0), (1, 1, 1)), 1),
    "`masks` must be": (("a",), ((0, 0, 0),), None, "palette"),
}


@pytest.mark.parametrize("message", MISTAKES)
def test_contradictions_are_refused(message):
    with pytest.raises(InputError, match=message):
        LabelSet(*MISTAKES[message])


def test_lists_become_tuples_so_that_a_label_set_can_be_a_key():
    assert LABELS.names == ("sky", "tree")
    assert LABELS.colours == ((0, 0, 255), (0, 160, 0))
    assert len({LABELS, LabelSet.from_dict(LABELS.to_dict())}) == 1


def test_a_file_there_and_back(tmp_path):
    LABELS.save(tmp_path / "labels.json")
    assert LabelSet.load(tmp_path / "labels.json") == LABELS
    fields = json.loads((tmp_path / "labels.json").read_text())
    assert set(fields) == {"names", "colours", "ignore", "masks"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not a JSON file"),
        ("[]", 'needs the fields "names" and "colours"'),
        ('{"names": ["a"], "colours": [[0, 0, 0]], "color": 1}', r"unknown fields \['color'\]"),
        ('{"names": ["a"], "colours": [[0, 0]]}', "three whole numbers"),
        ('{"names": 3, "colours": [[0, 0, 0]]}', r"labels\.json"),
        ('{"names": ["a"], "colours": [0]}', "three whole numbers from 0 to 255. Received: 0"),
        ('{"names": "ab", "colours": [[0, 0, 0], [1, 1, 1]]}', "`names` must be a list. Received: 'ab'"),
        ('{"names": ["a"], "colors": [[0, 0, 0]]}', "Received: names, colors"),
        ('{"names": ["a"], "colours": [[0, 0, 0]], "ignore": [9, 9, 9]}', "may be a colour where `masks` is"),
        ('{"names": ["a"], "colours": [[0, 0, 0]], "ignore": [0, 0, 0], "masks": "colour"}', "colour of a class, too"),
        ('{"names": ["a"], "colours": [[0, 0, 0]], "ignore": [0, 0], "masks": "colour"}', "three whole numbers"),
        ('{"names": 3, "colours": [[0, 0, 0]], "ignore": [9, 9, 9]}', r"labels\.json"),
        (
            '{"names": ["a"], "colours": [[0, 0, 0]], "ignore": 0}',
            "classes, 0 to 0; masks with other numbers need .values",
        ),
        ('{"names": ["a"], "colours": [[0, 0, 0]], "values": [0, 1]}', "Received: 1 names, 2 values"),
        ('{"names": ["a"], "colours": [[0, 0, 0]], "values": [0], "ignore": 0}', r"Received twice: \[0\]"),
        (
            '{"names": ["a"], "colours": [[0, 0, 0]], "values": [65536]}',
            "from 0 to 65535, or lists of them. Received: 65536",
        ),
        ('{"names": ["a"], "colours": [[0, 0, 0]], "values": ["a"]}', "from 0 to 65535, or lists of them. Received: a"),
        ('{"names": ["a"], "colours": [[0, 0, 0]], "values": 3}', "`values` must be a list. Received: 3"),
        (
            '{"names": ["a"], "colours": [[0, 0, 0]], "values": [1], "ignore": []}',
            "`ignore` and `ignore_values` go together",
        ),
        ('{"names": ["a"], "colours": [[0, 0, 0]], "values": [1], "masks": "colour"}', "are those of index masks"),
        ("\xff", "not a text file in UTF-8"),
    ],
)
def test_bad_files_are_named(content, message, tmp_path):
    path = tmp_path / "labels.json"
    path.write_bytes(content.encode("latin-1"))
    with pytest.raises(InputError, match=message) as caught:
        LabelSet.load(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("ignore", [None, 0, [0, 255]])
def test_masks_with_other_numbers(ignore, tmp_path):
    """As in ADE20K, where 0 is not labelled, and in Cityscapes, whose numbers have gaps; one class may have several."""
    fields = {"names": ["sky", "tree"], "colours": [[0, 0, 255], [0, 160, 0]], "ignore": ignore, "masks": "index"}
    fields["values"] = [3, [7, 1000]]
    (tmp_path / "labels.json").write_text(json.dumps(fields))
    labels = LabelSet.load(tmp_path / "labels.json")
    unlabelled = -1 if ignore is None else 255
    found = labels.from_values(np.array([[0, 3, 7], [1000, 4, 70000]], np.int32))
    assert found.tolist() == [[unlabelled, 0, 1], [1, -5, -70001]]
    assert labels.to_dict() == fields
    labels.save(tmp_path / "again.json")
    assert LabelSet.load(tmp_path / "again.json") == labels


def test_a_colour_may_mark_what_is_not_labelled(tmp_path):
    fields = {"names": ["sky", "tree"], "colours": [[0, 0, 255], [0, 160, 0]], "ignore": [0, 0, 0], "masks": "colour"}
    (tmp_path / "labels.json").write_text(json.dumps(fields), encoding="utf-8-sig")  # as some editors save it
    labels = LabelSet.load(tmp_path / "labels.json")
    mask, inexact = labels.from_colours(np.array([[(0, 0, 255), (0, 0, 0), (0, 150, 0)]], np.uint8))
    assert (labels.ignore, mask.tolist(), inexact) == (255, [[0, 255, 1]], 1)
    assert labels.to_dict() == fields
    labels.save(tmp_path / "again.json")
    assert LabelSet.load(tmp_path / "again.json") == labels
    many = {"names": [str(i) for i in range(256)], "colours": [[i, i, i] for i in range(256)], "masks": "colour"}
    assert LabelSet.from_dict(many | {"ignore": [1, 0, 0]}).ignore == 65535


def test_a_missing_file(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        LabelSet.load(tmp_path / "none.json")


def test_a_folder(tmp_path):
    with pytest.raises(InputError, match="a folder, not a file"):
        LabelSet.load(tmp_path)


def test_an_overlay_leaves_what_is_black_or_unlabelled():
    labels = LabelSet(("background", "nucleus"), ((0, 0, 0), (200, 100, 0)), ignore=255)
    image = np.full((1, 3, 3), 100, np.uint8)
    found = labels.overlay(image, np.array([[0, 1, 255]]))
    assert found.tolist() == [[[100, 100, 100], [150, 100, 50], [100, 100, 100]]]


def test_an_overlay_in_strips_is_that_of_the_whole(monkeypatch):
    generator = np.random.default_rng(0)
    labels = LabelSet(("a", "b"), ((10, 0, 0), (200, 100, 0)))
    image, mask = generator.integers(0, 256, (7, 5, 3), np.uint8), generator.integers(0, 3, (7, 5))
    whole = labels.overlay(image, mask)
    for pixels in (1, 10, 23):
        monkeypatch.setattr("kseg.labels._STRIP_PIXELS", pixels)
        np.testing.assert_array_equal(labels.overlay(image, mask), whole)


def test_indices_and_colours():
    mask = np.array([[0, 1], [255, 7]])
    colours = LABELS.to_colours(mask)
    assert colours.dtype == np.uint8
    assert colours.tolist() == [[[0, 0, 255], [0, 160, 0]], [list(VOID_COLOUR)] * 2]
    back, inexact = LABELS.from_colours(colours)
    assert back.dtype == np.int32
    assert back.tolist() == [[0, 1], [255, 255]]
    assert inexact == 0


def test_nearest_colours_are_counted():
    back, inexact = LABELS.from_colours(np.array([[[0, 1, 255], [0, 160, 0], [10, 150, 3]]], np.uint8))
    assert back.tolist() == [[0, 1, 1]]
    assert inexact == 2
    # Without an ignore index the colour of unlabelled pixels is a colour like any other.
    back, inexact = LabelSet(LABELS.names, LABELS.colours).from_colours(np.array([[VOID_COLOUR]], np.uint8))
    assert back[0, 0] in (0, 1)
    assert inexact == 1


def test_nearest_colours_against_one_pixel_at_a_time():
    colours = np.random.default_rng(0).integers(0, 256, (9, 11, 3), np.uint8)
    labels = LabelSet.numbered(7)
    known = np.array(labels.colours, float)
    expected = [[((pixel - known) ** 2).sum(1).argmin() for pixel in row] for row in colours.astype(float)]
    np.testing.assert_array_equal(labels.from_colours(colours)[0], expected)


def test_the_colour_map_of_pascal_voc():
    known = [(0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0), (0, 0, 128)]
    assert [voc_colour(i) for i in range(5)] == known
    assert voc_colour(20) == (0, 64, 128)
    assert voc_colour(255) == VOID_COLOUR
    assert len({voc_colour(i) for i in range(256)}) == 256


def test_a_table_for_palettes():
    table = LABELS.colour_table()
    assert table.shape == (256, 3)
    assert table[1].tolist() == [0, 160, 0]
    assert table[2].tolist() == list(VOID_COLOUR)


def test_colour_masks_need_a_colour_for_each_class():
    twins = ("a", "b"), ((1, 2, 3), (1, 2, 3))
    LabelSet(*twins)
    with pytest.raises(InputError, match="two classes share one"):
        LabelSet(*twins, masks="colour")
