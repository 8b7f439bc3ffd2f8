"""TensorFlow Datasets as a source: the offline mock, and a small builder of the test's own."""

import numpy as np
import pytest
from handmade import indices, picture

from kseg import data
from kseg.errors import InputError
from kseg.labels import LabelSet

tfds = pytest.importorskip("tensorflow_datasets")


def _pets(self, split, **kwargs):
    """What the pets look like; the mock's own random images and masks differ in size."""
    return [
        {"image": picture(30, 40, seed=i), "segmentation_mask": indices(30, 40, seed=i)[..., None] + np.uint8(1)}
        for i in range(4)
    ]


def test_oxford_pets_by_name():
    with tfds.testing.mock_data(as_data_source_fn=_pets):
        source = data.open_source("tfds:oxford_iiit_pet", "train")
    assert source.labels.names == ("pet", "background", "border")
    assert len(source.names) == 4
    image, label = source.load(2)
    np.testing.assert_array_equal(image, picture(30, 40, seed=2))
    np.testing.assert_array_equal(label, indices(30, 40, seed=2))
    assert data.scan(source).problems == ()
    [(_, labels)] = data.training_batches(source, (16, 16), batch=4)
    assert set(np.unique(labels)) <= {0, 1, 2}


def test_parts_of_a_split_share_their_samples():
    with tfds.testing.mock_data(as_data_source_fn=_pets):
        whole, part = (data.open_source("tfds:oxford_iiit_pet", split) for split in ("train", "train[25%:75%]"))
    assert part.names == whole.names[1:3]
    np.testing.assert_array_equal(part.load(0)[0], picture(30, 40, seed=1))
    assert data.shared(whole, part) == 2


def test_the_scan_names_what_is_wrong_with_random_pets():
    with tfds.testing.mock_data(num_examples=2):
        source = data.open_source("tfds:oxford_iiit_pet", "train")
        problems = data.scan(source).problems
    assert any("pixels (height x width), but the image" in message for _, message in problems)
    assert all(file.startswith("tfds:oxford_iiit_pet train ") for file, _ in problems)


class Shapes(tfds.core.GeneratorBasedBuilder):
    """Five pictures with masks."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict(
                {
                    "photo": tfds.features.Image(shape=(None, None, 3)),
                    "segments": tfds.features.LabeledImage(labels=["sky", "sea"], shape=(None, None, 1)),
                }
            ),
        )

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        for i in range(5):
            yield i, {"photo": picture(20, 24 + i, seed=i), "segments": indices(20, 24 + i, 2, seed=i)[..., None]}


@pytest.mark.filterwarnings("default")  # TFDS's writing of files warns of itself
def test_any_builder_with_an_image_and_a_mask(tmp_path):
    builder = Shapes(data_dir=tmp_path, file_format="array_record")
    with pytest.raises(InputError, match="not prepared"):
        data.TFDS(builder, "train")
    source = data.TFDS(builder, "train", download=True)
    assert source.labels.names == ("sky", "sea")
    widths = sorted(source.load(i)[0].shape[1] for i in range(5))
    assert widths == [24, 25, 26, 27, 28]
    assert data.scan(source).problems == ()
    image, label = source.load(3)
    assert image.dtype == np.uint8
    np.testing.assert_array_equal(label, indices(20, image.shape[1], 2, seed=image.shape[1] - 24))
    with pytest.raises(InputError, match="split"):
        data.TFDS(builder, "test")
    shifted = data.TFDS(builder, "train", offset=1, labels=LabelSet.numbered(1, ignore=255))
    assert set(np.unique(shifted.load(0)[1])) == {0, 255}


def test_unclear_features_are_listed():
    with tfds.testing.mock_data(num_examples=2):
        with pytest.raises(InputError, match=r"unclear which feature is the mask.*There are: .*image"):
            data.open_source("tfds:mnist", "train")
        with pytest.raises(InputError, match="no feature 'picture'"):
            data.TFDS("oxford_iiit_pet", "train", image_key="picture")
        with pytest.raises(InputError, match="its mask has no class names"):
            data.TFDS("mnist", "train", mask_key="image", image_key="image")


def test_unknown_data_sets():
    with pytest.raises(InputError, match=r"tfds:no_such_thing: TFDS .* has no data set of this name"):
        data.open_source("tfds:no_such_thing", "train")


def test_a_split_is_needed():
    with tfds.testing.mock_data(num_examples=2), pytest.raises(InputError, match="choose a split"):
        data.open_source("tfds:oxford_iiit_pet")
