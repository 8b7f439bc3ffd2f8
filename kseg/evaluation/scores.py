"""Any predictor + labelled images -> the scores of the whole set."""

from dataclasses import asdict, dataclass

import numpy as np

from kseg.errors import InputError
from kseg.labels import LabelSet
from kseg.metrics import confusion_matrix, scores
from kseg.runtime.windows import finite


@dataclass(frozen=True)
class Scores:
    """Scores over a whole set of images, from one confusion matrix (Long et al. 2015, section 5).

    Attributes:
        images: number of images.
        pixel_accuracy, mean_accuracy, mean_iou, frequency_weighted_iou, mean_dice: in 0..1.
        iou: class name -> IoU, None for a class that neither the truth nor the prediction has.
        confusion_matrix: pixel counts, row = true class, column = predicted class.
    """

    images: int
    pixel_accuracy: float
    mean_accuracy: float
    mean_iou: float
    frequency_weighted_iou: float
    mean_dice: float
    iou: dict
    confusion_matrix: list

    def to_dict(self):
        """Plain numbers, lists and dicts, ready for JSON."""
        return asdict(self)


def summarise(confusion, labels, images):
    """Confusion matrix int64 [classes, classes] -> Scores."""
    numbers = scores(confusion)
    iou = {name: None if np.isnan(v) else float(v) for name, v in zip(labels.names, numbers["iou"], strict=True)}
    return Scores(
        images=images,
        iou=iou,
        confusion_matrix=np.asarray(confusion).tolist(),
        **{
            name: float(numbers[name])
            for name in ("pixel_accuracy", "mean_accuracy", "mean_iou", "frequency_weighted_iou", "mean_dice")
        },
    )


def check_classes(network, data):
    """Whether the classes of a network are those of a data set.

    Args:
        network, data: LabelSet.
    Returns:
        None, or what the user should know: that classes are called otherwise. Numbers, which a network without names
        has, are no names.
    Raises:
        InputError: there are not as many, or they come in another order.
    """
    ours, theirs = ", ".join(network.names), ", ".join(data.names)
    if len(network) != len(data):
        raise InputError(f"the network has {len(network)} classes ({ours}), the data {len(data)} ({theirs})")
    if network.names == data.names or network.names == LabelSet.numbered(len(network)).names:
        return None
    if set(network.names) == set(data.names):
        raise InputError(f"the network has its classes in the order {ours}, the data in the order {theirs}")
    return f"the network's classes are called {ours}, the data's {theirs}"


def evaluate(predictor, batches, labels, on_image=None):
    """Score a predictor over labelled batches.

    Args:
        predictor: callable, images [B, H, W, 3] in 0..255 -> scores float [B, H, W, classes]. One that has `labels`
            and `indices`, as those of kseg, is asked for the classes themselves, which is faster; it then takes large
            images in windows.
        batches: iterable of (images, label indices int [B, H, W]); tf.data or NumPy.
        labels: LabelSet of the label indices; its `ignore` marks pixels that do not count.
        on_image: called after each image as on_image(image, label, prediction), uint8 [H, W, 3] and int [H, W]
            twice: for progress and pictures. What a batch was padded with comes along.
    Returns:
        Scores.
    Raises:
        InputError: no image, or the predictor has another number of classes.
        CheckError: scores that are not finite: the greatest of them would be a class like any other.
    """
    classes = len(labels)
    confusion = np.zeros((classes, classes), np.int64)
    images_seen = 0
    for images, truths in batches:
        images, truths = np.asarray(images), np.asarray(truths)
        predictions = _predict(predictor, images, classes)
        confusion += confusion_matrix(truths, predictions, classes, labels.ignore)
        images_seen += len(images)
        if on_image is not None:
            for image, truth, prediction in zip(images, truths, predictions, strict=True):
                on_image(image.astype(np.uint8), truth, prediction)
    if not images_seen:
        raise InputError("there is no image to evaluate")
    return summarise(confusion, labels, images_seen)


def _predict(predictor, images, classes):
    direct = getattr(predictor, "labels", None) is not None and hasattr(predictor, "indices")
    found = np.asarray(predictor.indices(images) if direct else predictor(images))
    shape = (*found.shape, len(predictor.labels)) if direct else found.shape
    if shape != (*images.shape[:3], classes):
        raise InputError(
            f"the network's scores have the shape {list(shape)}; the data's {classes} classes need "
            f"{[*images.shape[:3], classes]}"
        )
    return found if direct else finite(found).argmax(-1)
