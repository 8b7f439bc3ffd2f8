"""Shards: the files' own bytes in TFRecord files, read in any order; damage is named."""

import json
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from handmade import LABELS, dataset
from tooling import TOOLS, tool

from kseg import data
from kseg.errors import InputError
from kseg.labels import LabelSet

NAMES = tuple("abcdefg")


@pytest.fixture
def files(tmp_path):
    return data.open_source(dataset(tmp_path / "files", NAMES), "train")


@pytest.fixture
def folder(files, tmp_path):
    data.write_shards(files, tmp_path / "packed", "train", 3)
    return tmp_path / "packed"


def test_the_same_samples_in_python_and_in_tf_data(files, folder):
    source = data.open_source(folder, "train")
    assert source.names == files.names
    assert source.labels == files.labels
    assert len(list(folder.glob("train-*-of-00003.tfrecord"))) == 3
    for index in (6, 0, 3):
        read = source.read(tf.constant(index, tf.int64))
        for expected, loaded, tensor in zip(files.load(index), source.load(index), read, strict=True):
            np.testing.assert_array_equal(loaded, expected)
            np.testing.assert_array_equal(tensor, expected)
    assert not data.scan(source, progress=False).problems


def test_the_same_training_stream(files, folder):
    streams = [
        data.training_batches(source, (16, 16), 2, epochs=2) for source in (files, data.open_source(folder, "train"))
    ]
    for (images, labels), (packed_images, packed_labels) in zip(*streams, strict=True):
        np.testing.assert_array_equal(packed_images, images)
        np.testing.assert_array_equal(packed_labels, labels)


def test_tensorflow_reads_the_records_with_the_original_bytes(files, folder):
    records = tf.data.TFRecordDataset(sorted(map(str, folder.glob("*.tfrecord"))))
    keys = ("image/encoded", "image/segmentation/class/encoded")
    features = {key: tf.io.FixedLenFeature([], tf.string) for key in (*keys, "image/filename")}
    parsed = [tf.io.parse_single_example(record, features) for record in records]
    assert [one["image/filename"].numpy().decode() for one in parsed] == list(files.names)
    for index, one in enumerate(parsed):
        for key, file in zip(keys, files.files(index), strict=True):
            with open(file, "rb") as opened:
                assert one[key].numpy() == opened.read()


def test_a_damaged_record_is_named(folder):
    source = data.open_source(folder, "train")
    shard = folder / "train-00001-of-00003.tfrecord"
    content = bytearray(shard.read_bytes())
    content[400] ^= 1
    shard.write_bytes(content)
    with pytest.raises(InputError, match=r"train-00001-of-00003\.tfrecord c\.jpg: damaged"):
        source.load(2)
    source.load(6)
    [(where, message), *_] = data.scan(source, progress=False).problems
    assert where.endswith("c.jpg")
    assert "wrong checksum" in message


def test_a_shard_that_was_cut_or_lost_is_named(folder):
    shard = folder / "train-00002-of-00003.tfrecord"
    shard.write_bytes(shard.read_bytes()[:-5])
    with pytest.raises(InputError, match=r"train-00002-of-00003\.tfrecord: damaged: \d+ bytes instead of"):
        data.open_source(folder, "train")
    shard.unlink()
    with pytest.raises(InputError, match=r"train-00002-of-00003\.tfrecord: missing"):
        data.open_source(folder, "train")


def test_a_damaged_index_and_an_unknown_split(folder):
    with pytest.raises(InputError, match=r"test\.shards\.json: no such split; there are: train"):
        data.open_source(folder, "test")
    index = folder / "train.shards.json"
    fields = json.loads(index.read_text())
    for content in ("{", json.dumps({**fields, "names": ["a"]}), "[]", json.dumps({"names": []})):
        index.write_text(content)
        with pytest.raises(InputError, match=r"train\.shards\.json: damaged"):
            data.open_source(folder, "train")


@pytest.mark.parametrize("beside", [False, True])
def test_a_call_that_fails_leaves_nothing(files, folder, tmp_path, beside):
    images, masks = zip(*(files.files(i) for i in range(3)), strict=True)
    lost = data.FileSource(files.labels, [*images[:2], "lost.png"], masks)
    where = folder if beside else tmp_path / "new"
    before = sorted(where.iterdir()) if beside else []
    with pytest.raises(InputError, match=r"lost\.png: cannot be read"):
        data.write_shards(lost, where, "val", 3)
    assert sorted(where.iterdir()) == before


def test_nothing_is_overwritten_and_labels_must_agree(files, folder):
    before = {path: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(InputError, match="holds shards of 'train' already"):
        data.write_shards(files, folder, "train", 2)
    other = data.FileSource(LabelSet.numbered(3), *zip(*(files.files(i) for i in range(3)), strict=True))
    with pytest.raises(InputError, match="other labels"):
        data.write_shards(other, folder, "val", 2)
    with pytest.raises(InputError, match=r"cannot have the name 'train\[:2\]'; choose a plain one"):
        data.write_shards(files, folder, "train[:2]", 2)
    assert {path: path.read_bytes() for path in folder.iterdir()} == before
    data.write_shards(files, folder, "val", 2)
    assert len(data.open_source(folder, "val")) == len(NAMES)


def test_no_shards_beside_the_images_that_they_would_hide(files, tmp_path):
    with pytest.raises(InputError, match="files: holds images, which shards beside them would hide"):
        data.write_shards(files, tmp_path / "files", "train", 1)
    assert data.open_source(tmp_path / "files", "train").names == files.names


def test_an_interrupted_run_leaves_nothing(files, tmp_path):
    def until_the_fourth(samples):
        for index in samples:
            if index == 3:
                raise KeyboardInterrupt
            yield index

    with pytest.raises(KeyboardInterrupt):
        data.write_shards(files, tmp_path / "out", "train", 3, until_the_fourth)
    assert not [*(tmp_path / "out").iterdir()]
    data.write_shards(files, tmp_path / "out", "train", 3)


def test_what_has_no_files_or_too_many_shards(files, tmp_path):
    memory = data.arrays([np.zeros((4, 4, 3), np.uint8)], [np.zeros((4, 4), np.uint8)], LABELS)
    with pytest.raises(InputError, match="shards are made of image files"):
        data.write_shards(memory, tmp_path / "out", None, 1)
    for shards in (0, 8):
        with pytest.raises(ValueError, match="`shards` must be in"):
            data.write_shards(files, tmp_path / "out2", "train", shards)


def test_the_tool(files, tmp_path, capsys, fails):
    given = ("--data", tmp_path / "files", "--out", tmp_path / "out")
    assert tool("shards")([*map(str, given), "--shards", "2"]) == 0
    assert "7 images in 2 shards" in capsys.readouterr().out
    assert "holds shards" in fails("shards", *given, "--shards", 2)
    assert "--shards must be in 1 .. 7" in fails("shards", *given, "--shards", 9)


def test_the_tool_packs_no_faulty_files(files, tmp_path, fails):
    (tmp_path / "files/images/train/b.jpg").write_bytes(b"no picture")
    given = ("--data", tmp_path / "files", "--out", tmp_path / "out", "--shards", 2)
    assert "1 problem in the data" in fails("shards", *given)
    assert not (tmp_path / "out").exists()
    assert tool("shards")([*map(str, given), "--skip-bad"]) == 0
    assert data.open_source(tmp_path / "out", "train").names == tuple(f"{name}.jpg" for name in NAMES if name != "b")


def test_a_killed_tool_leaves_nothing_that_opens(files, tmp_path):
    code = (
        "import os, sys; sys.path.insert(0, sys.argv[1]); import shards; from kseg.data import shards as made\n"
        "whole = made._example\n"
        "made._example = lambda source, index: os.kill(os.getpid(), 9) if index == 5 else whole(source, index)\n"
        "shards.main(sys.argv[2:])"
    )
    command = [
        sys.executable,
        "-c",
        code,
        str(TOOLS),
        "--data",
        str(tmp_path / "files"),
        "--out",
        str(tmp_path / "out"),
    ]
    assert subprocess.run([*command, "--shards", "2"], check=False).returncode == -9
    with pytest.raises(InputError):
        data.open_source(tmp_path / "out", "train")
