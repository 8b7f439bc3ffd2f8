import re
import shutil

import numpy as np
import pytest
from made_up import LABELS, STREETS, facts, make_run, scores
from PIL import Image

from kseg.errors import InputError
from kseg.evaluation import pictures
from kseg.evaluation.pictures import panel_tiles
from kseg.evaluation.report import kept, read_entries, write_markdown


def _write(tmp_path, runs, **options):
    out = tmp_path / "exported"
    out.mkdir(exist_ok=True)
    write_markdown(read_entries(runs), out / "RESULTS.md", **options)
    return (out / "RESULTS.md").read_text(encoding="utf-8"), out / "results"


def _rows(text, heading):
    """Rows of the table whose first heading line holds `heading`, as lists of cells."""
    table = next(part for part in text.split("\n\n") if part.startswith("| run") and heading in part.split("\n")[0])
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in table.strip().split("\n")]


@pytest.fixture
def runs(tmp_path):
    return [
        make_run(tmp_path / "small", scores(0.6), facts()),
        make_run(tmp_path / "big", scores(0.7), facts(parameters=31e6)),
        make_run(tmp_path / "streets", scores(0.65, STREETS), facts(data="/d/camvid")),
        make_run(tmp_path / "slices", scores(0.8, ("cell", "membrane")), facts(data="/d/membranes")),
        make_run(tmp_path / "begun", None, facts(), epochs=1),
    ]


def test_a_table_a_data_set_and_a_command_a_row(tmp_path, runs):
    text, _ = _write(tmp_path, runs)
    assert re.findall(r"^## (.*)$", text, re.MULTILINE) == ["Nuclei", "CamVid", "Membranes", "Data"]
    head, rule, small, big, begun = _rows(text, "command")
    assert head[:7] == ["run", "network", "parameters", "recipe", "mean IoU", "pixel accuracy", "mean Dice"]
    assert head[7:] == ["time", "machine", "seeds", "command or source"]
    assert rule[4] == "--:"
    assert small[:7] == ["small", "UNet", "0.52 M", r"nuclei\_unet", "60.0", "70.0", "65.0"]
    assert big[4:7] == ["**70.0**", "**80.0**", "**75.0**"]
    assert big[-1] == "`python tools/train.py nuclei_unet --data ./nuclei --out runs/big`"
    assert begun[0] == "begun (no scores yet: 1 of 3 epochs done)"
    assert _rows(text, "background")[2:] == [["small", "60.0", "60.0"], ["big", "**70.0**", "**70.0**"]]


def test_published_figures_with_their_source(tmp_path, runs):
    text, _ = _write(tmp_path, runs)
    streets, slices = text.split("## CamVid")[1], text.split("## Membranes")[1]
    published = _rows(streets, "command")[3]
    assert published[:3] == ["*published*", "*FCN-8s*", "*134.5 M*"]
    assert published[4:6] == ["*57.0*", "*88.0*"]
    assert "233 test images" in published[-1]
    head, _, ours, published = _rows(slices, "1 - F-score")
    place = head.index("1 - F-score")
    assert (ours[place], published[place]) == ("–", "*0.0611*")  # this run was scored without --boundaries
    assert "Ronneberger et al. 2015, table 1" in published[-1]


def test_a_large_panel_is_kept_without_its_edges_lost(tmp_path):
    """What is shrunk are the four pictures, not the titles above them, which are cut off by their height."""
    image = np.zeros((384, 512, 3), np.uint8)
    image[:40] = 255, 0, 0
    mask = np.zeros((384, 512), int)
    pictures.save_panel(image, mask, mask, LABELS, tmp_path / "panel.png")
    kept._keep_panel(tmp_path / "panel.png", tmp_path / "pictures" / "panel.jpg")
    with Image.open(tmp_path / "pictures" / "panel.jpg") as panel:
        assert panel.width <= 1000
        tile = np.asarray(panel_tiles(panel)[0][1])
    assert tile.shape[1] / tile.shape[0] == pytest.approx(512 / 384, rel=0.01)
    assert (tile[..., 0] > 128).mean() == pytest.approx(40 / 384, rel=0.1)


def test_pictures_only_of_the_named_data_sets(tmp_path, runs):
    text, folder = _write(tmp_path, runs, pictures_of=["nuclei"])
    names = {path.relative_to(folder).as_posix() for suffix in ("jpg", "png") for path in folder.rglob(f"*.{suffix}")}
    curves = {"nuclei_curves.png", "camvid_curves.png", "membranes_curves.png"}
    assert names == curves | {f"runs/big/pictures/{end}_0.jpg" for end in ("best_1", "best_2", "worst_1")}
    assert set(re.findall(r"\]\(results/(.*?)\)", text)) == names
    assert "Best and worst images of big. Pictures: microscope images" in text
    assert text.count("Best and worst") == 1
    with Image.open(folder / "runs/big/pictures/best_1_0.jpg") as picture:
        assert picture.size == (4 * 16 + 12, 12 + 18)
    # The next page shows none: no picture of the last one stays.
    _, folder = _write(tmp_path, runs)
    assert {path.name for path in folder.rglob("*.*g")} == curves


def test_large_pictures_are_kept_small(tmp_path):
    run = make_run(tmp_path / "a", scores(0.6), facts())
    Image.new("RGB", (4 * 601 + 12, 301)).save(run / "pictures" / "best_1_0.png")
    _, folder = _write(tmp_path, [run], pictures_of=["nuclei"])
    with Image.open(folder / "runs/a/pictures/best_1_0.jpg") as picture:
        assert picture.size == (1000, 134)
        assert [tile.size for _, tile in panel_tiles(picture)] == [(247, 116)] * 4


def test_the_page_is_made_again_from_what_is_kept(tmp_path, runs):
    seeds = tmp_path / "three"
    for seed in (0, 1):
        make_run(seeds / f"seed_{seed}", scores(0.5 + 0.1 * seed), facts(), seed=seed, weights="/home/me/w.h5")
    old = make_run(tmp_path / "old", scores(0.1))  # before run.json
    text, folder = _write(tmp_path, [*runs, seeds, old], pictures_of=["nuclei"])
    before = {path: path.read_bytes() for path in folder.rglob("*.*") if path.suffix != ".png"}
    for run in (*runs, seeds, old):
        shutil.rmtree(run)
    assert not [path for path, content in before.items() if b"/home" in content or b"/opt" in content]
    kept = [folder / "runs" / name for name in ("small", "big", "streets", "slices", "begun", "three", "old")]
    again, _ = _write(tmp_path, kept, pictures_of=["nuclei"])
    assert again == text
    assert {path: path.read_bytes() for path in before} == before
    shutil.rmtree(folder / "runs/three/seed_0")
    _write(tmp_path, kept)
    assert (folder / "runs/three/seed_1/scores.json").is_file()


def test_two_runs_are_not_kept_in_one_folder(tmp_path):
    runs = [make_run(tmp_path / name, scores(0.6), facts()) for name in ("a b", "a_b")]
    _, folder = _write(tmp_path, runs[1:])
    kept = (folder / "runs/a_b/scores.json").read_bytes()
    for again in (runs, [runs[0], folder / "runs/a_b"]):
        with pytest.raises(InputError, match="a b and a_b: would be kept in one folder"):
            _write(tmp_path, again)
    assert (folder / "runs/a_b/scores.json").read_bytes() == kept


def test_what_is_kept_is_replaced_whole(tmp_path):
    """Of a run that became one of seeds, and of seeds that are no longer there, nothing is left."""
    run = make_run(tmp_path / "run", scores(0.6), facts())
    _, folder = _write(tmp_path, [run])
    shutil.rmtree(run)
    for seeds in ((0, 1, 2), (0, 1)):
        for seed in seeds:
            make_run(run / f"seed_{seed}", scores(0.6), facts(), seed=seed)
        text, _ = _write(tmp_path, [run])
        assert sorted(path.name for path in (folder / "runs/run").iterdir()) == [f"seed_{seed}" for seed in seeds]
        again, _ = _write(tmp_path, [folder / "runs/run"])
        assert again == text
        shutil.rmtree(run)


def test_terms_stand_below_and_beside_the_pictures(tmp_path, runs):
    text, _ = _write(tmp_path, runs, pictures_of=["camvid"])
    assert "terms: CC BY-NC 4.0." in text.split("## CamVid")[1].split("## Membranes")[0]
    assert re.search(r"- \*\*CamVid\*\*: .* Terms: CC BY-NC 4\.0\.", text)
    assert re.search(r"- \*\*Membranes\*\*: .* Terms: not stated\.", text)


def test_data_of_the_same_name_with_other_classes_are_somebodys_own(tmp_path):
    own = make_run(tmp_path / "own", scores(0.6, ("road", "rest")), facts(data="/home/me/camvid"))
    text, _ = _write(tmp_path, [own], pictures_of=["camvid"])
    assert re.findall(r"^## (.*)$", text, re.MULTILINE) == ["camvid"]
    assert "Best and worst images of own." in text
    assert not any(word in text for word in ("published", "Brostow", "CC BY-NC"))


def test_nothing_of_the_machine_is_told(tmp_path, runs):
    text, _ = _write(tmp_path, runs, pictures_of=["nuclei"])
    assert "/home" not in text
    assert "/opt" not in text
    assert str(tmp_path) not in text


def test_command_and_notes(tmp_path, runs):
    text, _ = _write(
        tmp_path, runs[:1], command="python tools/report.py runs/small", notes="## What did not help\n\nX.\n"
    )
    assert "```sh\npython tools/report.py runs/small\n```" in text
    assert text.index("## What did not help") < text.index("## Nuclei")


def test_the_same_data_in_two_splits(tmp_path):
    runs = [make_run(tmp_path / split, scores(0.6), facts(splits=["train", split])) for split in ("val", "kept")]
    text, folder = _write(tmp_path, runs)
    assert re.findall(r"^## (.*)$", text, re.MULTILINE) == ["Nuclei (val)", "Nuclei (kept)", "Data"]
    assert {path.name for path in folder.glob("*.png")} == {"nuclei_curves.png", "nuclei_2_curves.png"}


def test_a_split_of_two_sizes(tmp_path):
    runs = [make_run(tmp_path / str(images), scores(0.6, images=images), facts()) for images in (6, 20)]
    text, _ = _write(tmp_path, runs)
    assert re.findall(r"^## (.*)$", text, re.MULTILINE) == ["Nuclei (val, 6 images)", "Nuclei (val, 20 images)", "Data"]


def test_text_from_files_is_taken_literally(tmp_path):
    result = scores(0.6, classes=("a|b", "*c*<img>"))
    told = facts(command="python tools/train.py x --data 'a|b'", machine="[x](y)")
    text, _ = _write(tmp_path, [make_run(tmp_path / "a", result, told, LABELS)])
    _, _, row = _rows(text, "command")
    assert row[-1] == r"`python tools/train.py x --data 'a\|b'`"
    assert r"\[x\](y)" in row[8]
    assert _rows(text, "img")[0] == ["run", r"a\|b", r"\*c\*\<img\>"]


def test_a_data_set_that_no_run_is_of(tmp_path, runs):
    with pytest.raises(InputError, match="no run is of the data pets; there are: nuclei, camvid, membranes"):
        _write(tmp_path, runs, pictures_of=["pets"])
