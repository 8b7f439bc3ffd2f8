import dataclasses

import keras
import numpy as np
import pytest

from kseg.applications import FCN32s
from kseg.errors import InputError
from kseg.labels import LabelSet
from kseg.training.build import build_loss, build_network
from kseg.training.recipe import Recipe, change, recipe_from_json, recipe_to_json
from kseg.training.recipes import RECIPES, find_recipe


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_survives_json(name):
    recipe = find_recipe(name)
    assert recipe_from_json(recipe_to_json(recipe), "here") == recipe
    with pytest.raises(dataclasses.FrozenInstanceError):
        recipe.batch = 3


def test_values_are_read_by_the_type_of_their_field():
    recipe = change(
        Recipe(model="UNet"),
        [
            "batch=3",
            "learning_rate=1e-5",
            "crop_px=64,96",
            "loss=focal,soft_dice",
            "batch_normalization=true",
            "backbone_weights=a=b.h5",
            "filters=none",
        ],
    )
    assert (recipe.batch, recipe.learning_rate, recipe.crop_px) == (3, 1e-5, (64, 96))
    assert (recipe.loss, recipe.batch_normalization) == (("focal", "soft_dice"), True)
    assert (recipe.backbone_weights, recipe.filters) == ("a=b.h5", None)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("bach=3", r"no recipe field 'bach'; there are: model, backbone.* seed"),
        ("batch", "written field=value"),
        ("batch=three", "`batch` must be a whole number. Received: 'three'"),
        ("batch=0", "`batch` must be at least 1"),
        ("crop_px=64", "`crop_px` must be 2 values"),
        ("batch_normalization=maybe", "`batch_normalization` must be true or false or none"),
        ("schedule=steps", "`schedule` must be one of constant, polynomial, cosine"),
        ("scales=2,1", "smallest,largest"),
        ("scales=1,inf", "smallest,largest"),
        ("auxiliary=a,b,a", "`auxiliary` must name each layer once"),
        ("learning_rate=nan", "`learning_rate` must be positive"),
        ("clip_norm=0", "`clip_norm` must be positive"),
        ("backbone_rate=-1", "`backbone_rate` must be at least 0"),
        ("average=1", "`average` must lie between 0 and 1"),
        ("accumulate=0", "`accumulate` must be at least 1"),
        ("thaw_after=3", "`thaw_after` thaws what is `frozen`, and nothing is"),
        ("weighted_share=0", "`weighted_share` must be above 0 and at most 1"),
        ("weighted_share=1.5", "`weighted_share` must be above 0 and at most 1"),
        ("elastic_px=-1", "`elastic_px` must be at least 0"),
        ("border_weight=nan", "`border_weight` must be at least 0"),
        ("hard_share=0", "`hard_share` must be above 0"),
        ("class_weights=inverse", "`class_weights` must be one of none, median_frequency, inverse_log"),
        ("border_sigma_px=0", "`border_sigma_px` must be positive"),
        ("warmup_steps=-5", "`warmup_steps` must be at least 0"),
        ("weight_decay=nan", "`weight_decay` must be at least 0"),
        ("brightness=1.5", "`brightness` must be in 0..1. Received: 1.5"),
        ("contrast=nan", "`contrast` must be in 0..1"),
        ("label_smoothing=1", "`label_smoothing` must be at least 0 and below 1"),
        ("label_smoothing=-0.1", "`label_smoothing` must be at least 0 and below 1"),
        ("seed=-1", "`seed` must be at least 0"),
        ("seed=4294967296", "`seed` must be below 4294967296"),
        ("loss=", "`loss` must name at least one loss"),
    ],
)
def test_a_bad_setting_is_told_with_the_rule(setting, message):
    with pytest.raises(InputError, match=message):
        change(Recipe(model="UNet"), [setting])


def test_label_smoothing_wants_the_cross_entropy():
    assert Recipe(model="UNet", label_smoothing=0.1, loss=("soft_dice", "cross_entropy")).label_smoothing == 0.1
    with pytest.raises(InputError, match="`label_smoothing` works with cross_entropy. Received: soft_dice"):
        Recipe(model="UNet", label_smoothing=0.1, loss=("soft_dice",))


def test_border_weights_want_a_loss_that_is_a_mean_over_pixels():
    recipe = Recipe(model="UNet", border_weight=10.0)
    assert change(recipe, ["loss=focal"]).border_weight == 10.0
    with pytest.raises(InputError, match="`border_weight` works with cross_entropy, focal, hard_pixels alone"):
        change(recipe, ["loss=cross_entropy,soft_dice"])


def test_class_weights_go_to_the_losses_that_take_them():
    recipe = change(Recipe(model="UNet"), ["class_weights=inverse_log", "loss=hard_pixels,soft_dice", "hard_share=0.5"])
    hard, dice = build_loss(recipe, LabelSet.numbered(2), [1.0, 3.0]).losses
    assert (hard.get_config()["class_weights"], hard.get_config()["share"]) == ([1.0, 3.0], 0.5)
    assert dice.get_config() == {"name": "soft_dice", "ignore": None, "smooth": 0.0}
    with pytest.raises(InputError, match="`class_weights` works with cross_entropy, focal, hard_pixels"):
        change(recipe, ["loss=soft_dice"])


def test_an_unknown_recipe_lists_those_that_exist():
    with pytest.raises(InputError, match="no recipe 'nuclei'; there are: nuclei_unet, .*, camvid_fcn8s, .*mobilenet"):
        find_recipe("nuclei")


def test_alpha_narrows_the_backbone():
    network = build_network(find_recipe("nuclei_unet_mobilenet"), classes=2)
    assert network.get_layer("Conv1").filters == 16  # 32 with alpha 1


def test_a_trained_network_needs_no_backbone_from_elsewhere(tmp_path, monkeypatch):
    """Without a way to ImageNet's weights, the finer network starts from the coarser one."""
    monkeypatch.setattr("kseg.applications.fcn.load_vgg16", pytest.fail)
    small = {"fc_units": 8, "alpha": 0.125}
    FCN32s(classes=2, **small).save(tmp_path / "coarse.keras")
    network = build_network(
        Recipe(model="FCN16s", backbone_weights="imagenet", weights=str(tmp_path / "coarse.keras"), **small), 2
    )
    coarse = keras.saving.load_model(tmp_path / "coarse.keras")
    np.testing.assert_array_equal(network.get_layer("block1_conv1").kernel, coarse.get_layer("block1_conv1").kernel)
