import json

import pytest
from made_up import facts, make_run, scores

from kseg.errors import InputError
from kseg.evaluation.report import read_entries, tables
from kseg.evaluation.report.commands import clean_command
from kseg.evaluation.report.runs import mean_and_deviation


def test_a_run_and_what_it_is_called(tmp_path):
    (entry,) = read_entries([make_run(tmp_path / "a", scores(0.7), facts(), backbone="mobilenet_v2", alpha=0.35)])
    assert (entry.name, entry.data, entry.images, entry.split) == ("a", "nuclei", 6, "val")
    assert (entry.network, entry.recipe_name, entry.classes) == (
        "UNet, mobilenet_v2 0.35",
        "nuclei_unet",
        ("background", "nucleus"),
    )
    assert entry.first.seconds == 754
    assert entry.state() == ""


def test_an_older_run_leaves_gaps(tmp_path):
    (entry,) = read_entries([make_run(tmp_path / "a", scores(0.7))])
    assert entry.first.seconds == 60  # from its history
    assert entry.data is entry.command is entry.recipe_name is None


def test_a_recipe_is_known_wherever_it_stands_in_the_command(tmp_path):
    told = facts(command="python tools/train.py --data nuclei --out runs/a nuclei_unet", recipe="nuclei_unet")
    (entry,) = read_entries([make_run(tmp_path / "a", None, told)])
    assert entry.recipe_name == "nuclei_unet"


def test_an_unfinished_run_says_how_far_it_is(tmp_path):
    run = make_run(tmp_path / "a", epochs=2)
    assert read_entries([run])[0].state() == "no scores yet: 2 of 3 epochs done"
    (run / "history.csv").unlink()
    (run / "best.keras").unlink()
    (entry,) = read_entries([run])
    assert entry.state() == "no scores yet: 0 of 3 epochs done"
    assert entry.classes is None


def test_seeds_are_one_entry(tmp_path):
    for seed, value in ((10, 0.6), (2, 0.7), (1, 0.8)):
        make_run(tmp_path / "a" / f"seed_{seed}", scores(value), facts(), seed=seed)
    make_run(tmp_path / "a" / "seed_11", seed=11)
    (entry,) = read_entries([tmp_path / "a"])
    assert [training.folder.name for training in entry.trainings] == ["seed_1", "seed_2", "seed_10", "seed_11"]
    assert mean_and_deviation(entry.values("mean_iou")) == (pytest.approx(0.7), pytest.approx(0.1))
    assert entry.state() == "3 of 4 seeds have scores"
    assert entry.first_name == "a, seed_1"
    assert tables.scores_table([entry]).rows[0][1].text == "70.0 ± 10.0"


def test_equal_folder_names_are_told_apart(tmp_path):
    runs = [make_run(tmp_path / "x" / "run"), make_run(tmp_path / "y" / "run")]
    assert [entry.name for entry in read_entries(runs)] == ["x/run", "y/run"]
    assert len({entry.name for entry in read_entries([runs[0], runs[0], runs[0]])}) == 3


def test_pictures_know_their_image_and_its_score(tmp_path):
    (entry,) = read_entries([make_run(tmp_path / "a", scores(0.7))])
    shown = [(end, rank, name, value) for end, rank, name, value, _ in entry.first.pictures]
    assert shown == [
        ("best", 1, "0.png", 0.7),
        ("best", 2, "1.png", pytest.approx(0.65)),
        ("worst", 1, "4.png", pytest.approx(0.5)),
    ]


def test_runs_that_were_scored_alike_stand_in_one_group(tmp_path):
    runs = {
        "a": (scores(0.7), facts()),
        "older": (scores(0.6), None),
        "other_split": (scores(0.6), facts(splits=["train", "kept"])),
        "unfinished": (None, facts()),
        "other_classes": (scores(0.6, classes=("sky", "road")), facts(data="streets")),
    }
    entries = read_entries([make_run(tmp_path / name, result, told) for name, (result, told) in runs.items()])
    found = [[entry.name for entry in group.entries] for group in tables.groups(entries)]
    assert found == [["a", "older", "unfinished"], ["other_split"], ["other_classes"]]
    assert tables.groups(entries)[0].title == "6 images of nuclei (val), 2 classes"


def test_the_best_of_each_column_is_marked(tmp_path):
    one = scores(0.7, pixel_error=0.05, pixel_accuracy=0.95, per_image=[])
    two = scores(0.8, pixel_error=0.07, pixel_accuracy=None, per_image=[])
    content = tables.scores_table(read_entries([make_run(tmp_path / "a", one), make_run(tmp_path / "b", two)]))
    assert content.headings[:5] == ("run", "mean IoU", "pixel accuracy", "mean Dice", "pixel error")
    texts = [[cell.text for cell in row[1:5]] for row in content.rows]
    assert texts == [["70.0", "95.0", "75.0", "0.0500"], ["80.0", "–", "85.0", "0.0700"]]
    assert [[cell.best for cell in row[1:5]] for row in content.rows] == [
        [False, False, False, True],  # an accuracy without a rival is not the best; of errors the smaller one is
        [True, False, True, False],
    ]


def test_only_settings_that_differ(tmp_path):
    entries = read_entries(
        [make_run(tmp_path / "a", None, facts(), weights="/x/y/w.h5"), make_run(tmp_path / "b", learning_rate=0.01)]
    )
    assert tables.settings_table(entries[:1], differing=False).rows[-1][0].text == "kseg"
    rows = {row[0].text: [cell.text for cell in row[1:]] for row in tables.settings_table(entries, differing=True).rows}
    assert rows["learning_rate"] == ["0.001", "0.01"]
    assert rows["weights"] == ["w.h5", "–"]
    assert "model" not in rows
    assert "model" in {row[0].text for row in tables.settings_table(entries, differing=False).rows}


@pytest.mark.parametrize(
    ("seconds", "text"), [(None, "–"), (45, "45 s"), (750, "12 min"), (3599, "1 h 0 min"), (5100, "1 h 25 min")]
)
def test_durations(seconds, text):
    assert tables.duration(seconds) == text


@pytest.mark.parametrize(
    ("typed", "shown"),
    [
        (
            "/v/python /w/tools/train.py fcn --data /d/camvid/ --out /tmp/x --set weights=/s/vgg.h5 --set scales=1,2",
            "python tools/train.py fcn --data camvid/ --out runs/NAME --set weights=vgg.h5 --set scales=1,2",
        ),
        (
            "python tools/train.py fcn --data nuclei --out runs/mine",
            "python tools/train.py fcn --data nuclei --out runs/mine",
        ),
        (
            "python tools/train.py fcn --data ../d/pets --out=../x",
            "python tools/train.py fcn --data pets --out=runs/NAME",
        ),
        (
            "python tools/train.py fcn --data nuclei --set weights=runs/coarse/best.keras",
            "python tools/train.py fcn --data nuclei --set weights=runs/coarse/best.keras",
        ),
        ("KERAS_BACKEND=jax python tools/train.py fcn", "KERAS_BACKEND=jax python tools/train.py fcn"),
        ("python tools/train.py 'a b' --data '/my disk/my pets'", "python tools/train.py 'a b' --data 'my pets'"),
        ('python tools/train.py --data tfds:pets "open', "python tools/train.py --data tfds:pets '\"open'"),
    ],
)
def test_commands_tell_nothing_of_the_machine(typed, shown):
    assert clean_command(typed, "NAME") == shown


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("recipe.json", "{", "recipe.json: not a JSON file"),
        ("recipe.json", '{"epochs": 3}', "recipe.json: not what a run writes"),
        ("scores.json", '{"mean_iou": 1}', "scores.json: not what a run writes"),
        ("scores.json", json.dumps(scores(0.5, mean_dice="high")), "scores.json: not the scores of a run"),
        ("scores.json", json.dumps(scores(0.5, confusion_matrix=[[1]])), "a row and a column for each class"),
        ("run.json", '{"seconds": "long"}', "run.json: not the facts of a run"),
        ("run.json", '{"images": 3}', "run.json: not the facts of a run"),
        ("history.csv", "epoch,loss\n1,low\n", "history.csv: not the history of a run"),
        ("history.csv", "loss\n1\n", "history.csv: not the history of a run"),
    ],
)
def test_damaged_files_are_named(tmp_path, file, content, message):
    run = make_run(tmp_path / "a")
    (run / file).write_text(content)
    with pytest.raises(InputError, match=message):
        read_entries([run])


def test_a_score_that_is_not_finite_is_no_score(tmp_path):
    (entry,) = read_entries([make_run(tmp_path / "a", scores(0.5, mean_dice=float("nan")))])
    assert entry.values("mean_dice") == []
    assert tables.scores_table([entry]).rows[0][3].text == "–"


def test_folders_that_are_no_runs(tmp_path):
    with pytest.raises(InputError, match="no such folder"):
        read_entries([tmp_path / "missing"])
    with pytest.raises(InputError, match=r"neither recipe\.json nor seed_0"):
        read_entries([tmp_path])
