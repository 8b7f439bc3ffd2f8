"""How well membranes part cells: the scores of the ISBI 2012 challenge of electron microscopy.

What counts there is not each membrane pixel but whether the regions between the membranes are the right ones: a gap
of one pixel merges two cells. So the membranes' probability is cut at several thresholds, the membranes are thinned to
lines, and the regions in between are compared with those of the truth.

Reference: Arganda-Carreras et al. 2015, "Crowdsourcing the creation of image segmentation algorithms for
connectomics", Frontiers in Neuroanatomy 9:142, and the challenge's program (Fiji's Trainable Segmentation), which
settles what the paper leaves open: thinning by a watershed, regions joined over edges and not over corners, the mean
over images before the maximum over thresholds. The same program calls 1 - F-score of the cells' pixels "pixel error",
and the challenge's page defines it so; published pixel errors of this challenge compare with that figure.
"""

from dataclasses import asdict, dataclass

import numpy as np

from kseg.errors import InputError, need
from kseg.evaluation.augmentation import probabilities

# The challenge also tries 0 and 1, at which the prediction is one region, or nothing but membrane.
THRESHOLDS = tuple(step / 10 for step in range(1, 10))


@dataclass(frozen=True)
class BoundaryScores:
    """Scores over a set of images, one value a threshold.

    Attributes:
        images: number of images.
        thresholds: a pixel is membrane where its probability reaches them.
        pixel_error: share of the pixels on the wrong side, 1 - pixel accuracy of membrane against everything else.
        f_error: 1 - F-score (Dice) of the pixels that are not membrane, over all images together.
        v_rand, v_info: foreground-restricted Rand and information-theoretic score after thinning, in 0..1, 1 is
            perfect; mean over the images whose truth has a region.
    """

    images: int
    thresholds: tuple
    pixel_error: tuple
    f_error: tuple
    v_rand: tuple
    v_info: tuple

    @property
    def best(self):
        """{name: value} of the four scores, each at the threshold that is best for it, as in the challenge."""
        errors = {"pixel_error": min(self.pixel_error), "f_error": min(self.f_error)}
        return errors | {"v_rand": max(self.v_rand), "v_info": max(self.v_info)}

    def to_dict(self):
        """Plain numbers, lists and dicts, ready for JSON."""
        return {**asdict(self), "best": self.best}


def evaluate_boundaries(predictor, batches, labels, boundary, thresholds=THRESHOLDS):
    """Score the regions that a predictor's boundaries make.

    Args:
        predictor: callable, images -> scores float [B, H, W, classes], logits if its `kind` says nothing else.
        batches: iterable of (images, label indices int [B, H, W]); tf.data or NumPy.
        labels: LabelSet of the label indices; its `ignore` marks pixels that do not count.
        boundary: name of the class that parts the regions, such as "membrane".
        thresholds: of its probability, each in 0..1.
    Returns:
        BoundaryScores.
    Raises:
        InputError: no image with a region in its truth, no class of that name, a threshold outside 0..1, or other
            classes than the predictor's.
        ImportError: scikit-image is not installed; the message names the extra.
        CheckError: scores that are not finite.
    """
    check_boundary(boundary, labels)
    thresholds = tuple(float(threshold) for threshold in thresholds)
    if not thresholds or not all(0 <= threshold <= 1 for threshold in thresholds):
        raise InputError(f"thresholds must lie in 0..1. Received: {list(thresholds)}")
    place, images_seen, wrong, right, counted, compared = labels.names.index(boundary), 0, 0, 0, 0, []
    for images, truths in batches:
        images, truths = np.asarray(images), np.asarray(truths)
        found = probabilities(predictor, images)
        if found.shape != (*truths.shape, len(labels)):
            raise InputError(f"the network gives {found.shape[-1]} classes, the data has {len(labels)}")
        for probability, truth in zip(found[..., place], truths, strict=True):
            valid = truth != labels.ignore if labels.ignore is not None else np.ones(truth.shape, bool)
            regions = connected(valid & (truth != place))
            cuts = [probability >= threshold for threshold in thresholds]
            wrong = wrong + np.array([np.count_nonzero(valid & (cut != (truth == place))) for cut in cuts])
            right = right + np.array([np.count_nonzero((regions > 0) & ~cut) for cut in cuts])
            if regions.any():
                compared.append([region_scores(regions, thinned(cut)) for cut in cuts])
            images_seen, counted = images_seen + 1, counted + np.count_nonzero(valid)
    if not compared:
        raise InputError(f"there is no image to evaluate in which {boundary} leaves a region")
    rand, info = np.mean(compared, 0).T
    return BoundaryScores(
        images_seen,
        thresholds,
        tuple((wrong / counted).tolist()),
        tuple((wrong / (2 * right + wrong)).tolist()),
        tuple(rand.tolist()),
        tuple(info.tolist()),
    )


def check_boundary(boundary, labels):
    """Before long work: what `evaluate_boundaries` would raise for this name and this installation."""
    if boundary not in labels.names:
        raise InputError(f"there is no class {boundary!r}; the classes are {', '.join(labels.names)}")
    need("skimage", "boundaries")


def connected(inside):
    """Regions of a mask, bool [H, W]: int [H, W], 0 outside, 1, 2, ... for what hangs together over pixel edges."""
    return need("skimage.measure", "boundaries").label(inside, connectivity=1)


def thinned(membranes):
    """Regions between membranes that are thinned to lines of one pixel, bool [H, W] -> int [H, W], 0 on the lines.

    The regions grow into the membranes until they meet (watershed); a membrane with the same region on both sides
    vanishes.
    """
    segmentation = need("skimage.segmentation", "boundaries")
    seeds = connected(~membranes)
    return segmentation.watershed(membranes.astype(np.uint8), seeds, connectivity=1, watershed_line=True)


def region_scores(truth, found):
    """Compare two ways to part an image into regions.

    With p_ij the share of the pixels that lie in region i of `found` and j of `truth`, s_i and t_j their sums:
    V_rand = sum p_ij^2 / (sum s_i^2 / 2 + sum t_j^2 / 2) and V_info = I(S; T) / (H(S) / 2 + H(T) / 2). Both are the
    harmonic mean of a score that mergers lower and one that splits lower.

    Args:
        truth: int [H, W], regions from 1; pixels of 0 do not count.
        found: int [H, W], regions from 1; each counted pixel of 0 is a region of its own.
    Returns:
        (V_rand, V_info), floats in 0..1. V_info is 1 if both are one and the same region.
    Raises:
        ValueError: no pixel counts.
    Reference: Arganda-Carreras et al. 2015, section "Evaluation metrics", alpha = 1/2.
    """
    counts = truth != 0
    truth, found = truth[counts].astype(np.int64), found[counts].astype(np.int64)
    if not truth.size:
        raise ValueError("`truth` must have a region. Received: zeros only")
    alone = found == 0
    found[alone] = found.max() + 1 + np.arange(np.count_nonzero(alone))
    both = np.unique(found * (truth.max() + 1) + truth, return_counts=True)[1] / truth.size
    ours, theirs = (np.unique(regions, return_counts=True)[1] / truth.size for regions in (found, truth))
    rand = 2 * np.sum(both**2) / (np.sum(ours**2) + np.sum(theirs**2))
    sums = _entropy(ours) + _entropy(theirs)
    return float(rand), float(2 * (sums - _entropy(both)) / sums) if sums > 0 else 1.0


def _entropy(shares):
    return -np.sum(shares * np.log(shares))
