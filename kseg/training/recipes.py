"""The recipes: functions, each of which returns one `Recipe`.

A docstring states the command and the score it reached, so that a change which makes it worse can be seen; what else
was run is in exported/RESULTS.md.
"""

from dataclasses import replace

from kseg.errors import InputError
from kseg.training.recipe import Recipe


def nuclei_unet():
    """Cell nuclei, a small U-Net from scratch, in minutes on two cores.

    `tools/train.py nuclei_unet --data nuclei --out runs/nuclei`: on the 20 bundled images kept back mean IoU
    0.879 +- 0.008 in float32 and 0.876 +- 0.008 in bfloat16, twelve seeds each. With learned upsampling
    (`upsampling=transpose`) six seeds had 0.871 +- 0.007 in bfloat16. On all of the data set, 392 images, it has 0.920
    on 111 kept back, a Dice of 0.929 for the nuclei. The zoom is wide because the exported files see large images
    shrunk to their size.
    """
    return Recipe(
        model="UNet",
        filters=8,
        depth=4,
        upsampling="bilinear",
        crop_px=(128, 128),
        batch=8,
        epochs=24,
        repeats=4,
        scales=(0.5, 1.5),
        flips="all",
        loss=("cross_entropy", "soft_dice"),
        learning_rate=1.5e-3,
        warmup_steps=20,
        validate_every=6,
        cache="memory",
    )


def nuclei_unet_mobilenet():
    """Cell nuclei, a U-Net on a narrow MobileNetV2 from scratch: the small network for a phone.

    `tools/train.py nuclei_unet_mobilenet --data nuclei --out runs/nuclei`: 0.870 mean IoU on the 20 bundled images
    kept back, after eleven minutes on two cores. Until the learning rate is low, the score jumps from one validation
    to the next: 0.78, 0.67, 0.81, 0.76, 0.81, 0.67, 0.86, 0.86, 0.87, 0.87.
    """
    return replace(
        nuclei_unet(),
        backbone="mobilenet_v2",
        alpha=0.35,
        filters=4,
        depth=None,
        batch_normalization=True,
        epochs=50,
        repeats=8,
        learning_rate=2e-3,
        warmup_steps=50,
        validate_every=5,
    )


def membranes_unet():
    """Neuronal membranes in electron microscopy (ISBI 2012), U-Net from scratch (Ronneberger et al. 2015).

    Elastic deformation and border weights as in the paper; class 1 is the membrane between the cells.
    `tools/train.py membranes_unet --data membranes --boundaries membrane --out runs/membranes`, 15 minutes on two cores
    with instructions for bfloat16: on the 4 slices of val 0.083 of the pixels are wrong, 1 - F-score is 0.052 (the
    challenge's pixel error, in which the paper has 0.061 on its test slices), V_rand 0.957.
    """
    return Recipe(
        model="UNet",
        filters=32,
        depth=4,
        batch_normalization=True,
        crop_px=(256, 256),
        batch=4,
        epochs=60,
        repeats=4,
        flips="all",
        saturation=0.0,
        elastic_px=10.0,
        border_weight=10.0,
        border_sigma_px=5.0,
        border_background=1,
        learning_rate=1e-3,
        validate_every=5,
        cache="memory",
    )


def camvid_fcn8s():
    """CamVid street scenes, FCN-8s from VGG16 (Long et al. 2015).

    `tools/train.py camvid_fcn8s --data camvid --out runs/camvid --set backbone_weights=vgg16.h5`. Without the drive
    `train[62:163]`, on two cores with instructions for bfloat16 (98 s an epoch of 33 steps): mean IoU 0.724 and pixel
    accuracy 0.942 on val, 0.501 and 0.877 on that drive. Wider zoom with stronger colours lowered both, and so did
    six more epochs with class weights.
    """
    return Recipe(
        model="FCN8s",
        backbone_weights="imagenet",
        fc_units=1024,
        crop_px=(320, 320),
        batch=8,
        epochs=32,
        learning_rate=1.5e-4,
        warmup_steps=50,
        validate_every=8,
    )


def camvid_fcn16s():
    """CamVid, FCN-16s. As the paper trained it, it starts from the coarser network:
    `tools/train.py camvid_fcn16s --data camvid --out runs/fcn16s --set weights=runs/fcn32s/best.keras`.
    """
    return replace(camvid_fcn8s(), model="FCN16s")


def camvid_fcn32s():
    """CamVid, FCN-32s, which the finer networks start from (Long et al. 2015, section 4.2).

    After 462 steps of 224x224 crops with three blocks frozen, each from VGG16's own weights, without the drive
    `train[62:163]`: FCN-32s 0.514, FCN-16s 0.590 and FCN-8s 0.611 mean IoU on val and that drive together (pixel
    accuracy 0.868, 0.892, 0.894).
    """
    return replace(camvid_fcn8s(), model="FCN32s")


def camvid_unet():
    """CamVid, U-Net from scratch: what a network without pre-training makes of 367 images.

    Without class weights a U-Net learns the rare classes last, see `camvid_unet_vgg16`. With 16 filters and 1,980 steps
    of eight 256x256 crops, 32 minutes on two cores: 0.540 mean IoU on val and the drive `train[62:163]`, left out.
    """
    return Recipe(
        model="UNet",
        filters=32,
        depth=4,
        batch_normalization=True,
        crop_px=(320, 320),
        batch=8,
        epochs=90,
        class_weights="inverse_log",
        learning_rate=1e-3,
        warmup_steps=100,
        validate_every=9,
    )


def camvid_unet_vgg16():
    """CamVid, U-Net on VGG16, which learns a tenth as fast as the expanding path.

    On val and the drive `train[62:163]`, which no training image is of, after 462 steps of eight 224x224 crops: 0.569
    mean IoU, and 0.421 without class weights, where it gives hardly a pixel to the five rare classes. After 1,188 steps
    of 320x320 crops with stronger colours, in 48 minutes on two cores: 0.628. Three blocks were frozen in all of these,
    and class weights counted to the end.
    """
    return replace(
        camvid_unet(),
        backbone="vgg16",
        backbone_weights="imagenet",
        backbone_rate=0.1,
        filters=16,
        depth=None,
        epochs=45,
        weighted_share=0.8,
        validate_every=5,
    )


def camvid_unet_mobilenet():
    """CamVid street scenes, U-Net on MobileNetV2: the small network for a phone.

    Its class weights took it from 0.311 to 0.405 mean IoU on val after 273 steps of four 224x224 crops (pixel accuracy
    from 0.788 to 0.774). After 1,056 of eight 320x320 crops, 24 minutes on two cores, without the drive
    `train[62:163]`, it has 0.690 and 0.929 on val, 0.478 and 0.874 on that drive; with class weights to the end 0.669
    and 0.906, 0.463 and 0.849.
    """
    return Recipe(
        model="UNet",
        backbone="mobilenet_v2",
        backbone_weights="imagenet",
        filters=16,
        crop_px=(320, 320),
        batch=8,
        epochs=60,
        batch_normalization=True,
        class_weights="inverse_log",
        weighted_share=0.8,
        learning_rate=1e-3,
        validate_every=5,
    )


def camvid_deeplab_vgg16():
    """CamVid, DeepLabv3+ on VGG16: of one seed each, the best of these networks on streets that it has not seen.

    Without the drive `train[62:163]`, 82 minutes on two busy cores: mean IoU 0.758 and pixel accuracy 0.949 on val,
    0.517 and 0.882 on that drive, 0.692 and 0.916 on both together, 0.705 and 0.922 with flips and scales. Class
    weights bring the rare classes forth, and cost the common ones: after 1,056 steps with them to the end it was 0.709
    and 0.928, 0.494 and 0.863. With none at all it had no bicyclist and no pole after 528 steps.
    """
    return replace(camvid_unet_vgg16(), model="DeepLabV3Plus", batch_normalization=None, filters=128)


def camvid_deeplab_mobilenet():
    """CamVid, DeepLabv3+ on MobileNetV2: the fast network for a phone.

    Without the drive `train[62:163]`, 34 minutes on two cores, three seeds: mean IoU 0.737 to 0.740 on val (pixel
    accuracy 0.943 to 0.945), 0.503 to 0.510 on that drive (0.877 to 0.882). With 32 epochs, 18 minutes: 0.722 and
    0.938, 0.494 and 0.872; with class weights to the end 0.683 and 0.914, 0.465 and 0.842.
    """
    return replace(camvid_unet_mobilenet(), model="DeepLabV3Plus", batch_normalization=None, filters=128)


_ALL = (
    nuclei_unet,
    nuclei_unet_mobilenet,
    membranes_unet,
    camvid_fcn32s,
    camvid_fcn16s,
    camvid_fcn8s,
    camvid_unet,
    camvid_unet_vgg16,
    camvid_unet_mobilenet,
    camvid_deeplab_vgg16,
    camvid_deeplab_mobilenet,
)
RECIPES = {recipe.__name__: recipe for recipe in _ALL}


def find_recipe(name):
    """The recipe called `name`.

    Raises:
        InputError: there is none; the message lists those that exist.
    """
    if name not in RECIPES:
        raise InputError(f"no recipe {name!r}; there are: {', '.join(RECIPES)}")
    return RECIPES[name]()
