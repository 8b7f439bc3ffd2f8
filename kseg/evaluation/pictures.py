"""Pictures that show what numbers hide. Panels need only Pillow; charts need matplotlib (extra `plots`)."""

import math
from collections import Counter
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from kseg.errors import need
from kseg.files import replacing

_WRONG = (220, 30, 30)
_TITLE_PX, _GAP_PX, _SAMPLE_PX = 18, 4, 360
# With hundreds of classes a chart that grew with them would take gigabytes.
_WIDEST_IN, _NAMED_CLASSES = 30.0, 60
_TITLES = ("image", "truth", "prediction", "errors")


def save_index_mask(mask, labels, path):
    """Write an index mask as a palette PNG: viewers show the colours, `np.array(Image.open(path))` the indices.

    Args:
        mask: integers [H, W], 0..65535.
        labels: LabelSet, for the palette. With more than 256 classes, for which a palette has no room, the PNG is grey
            with 16 bits.
    """
    if len(labels) > 256:
        picture = Image.fromarray(np.asarray(mask).astype(np.uint16))
    else:
        picture = Image.fromarray(np.asarray(mask).astype(np.uint8)).convert("P")
        picture.putpalette(labels.colour_table().ravel().tolist())
    with replacing(path) as temporary:
        picture.save(temporary, "PNG")


def save_overlay(image, mask, labels, path, opacity=0.5):
    """Write the image with its mask drawn over it. Arguments as for LabelSet.overlay."""
    with replacing(path) as temporary:
        Image.fromarray(labels.overlay(image, mask, opacity)).save(temporary)


def panel(image, label, prediction, labels):
    """Image, truth, prediction and errors side by side.

    Args:
        image: uint8 [H, W, 3].
        label, prediction: integers [H, W]; unlabelled pixels of `label` are neither right nor wrong.
    Returns:
        uint8 [H + 18, 4 W + 12, 3]; errors are red, correct pixels a dark picture of the image.
    """
    errors = (image * 0.4).astype(np.uint8)
    errors[(label != prediction) & (label < len(labels))] = _WRONG
    return compose([image, labels.to_colours(label), labels.to_colours(prediction), errors])


def compose(pictures):
    """The four pictures of a `panel`, each uint8 [H, W, 3], under their titles: uint8 [H + 18, 4 W + 12, 3]."""
    height, width = pictures[0].shape[:2]
    canvas = Image.new("RGB", (4 * width + 3 * _GAP_PX, height + _TITLE_PX), "white")
    draw = ImageDraw.Draw(canvas)
    for position, (title, picture) in enumerate(zip(_TITLES, pictures, strict=True)):
        left = position * (width + _GAP_PX)
        draw.text((left + 2, 3), title, fill="black")
        canvas.paste(Image.fromarray(picture), (left, _TITLE_PX))
    return np.asarray(canvas)


def panel_tiles(picture):
    """The four pictures of a `panel`, without the titles drawn on it.

    Args:
        picture: PIL.Image of a panel.
    Returns:
        [(title, PIL.Image)].
    Raises:
        ValueError: its size is not that of a panel.
    """
    width, rest = divmod(picture.width - 3 * _GAP_PX, 4)
    if rest or width < 1 or picture.height <= _TITLE_PX:
        raise ValueError(f"a panel is four pictures wide. Received: {picture.width}x{picture.height} pixels")
    lefts = [position * (width + _GAP_PX) for position in range(4)]
    boxes = [(left, _TITLE_PX, left + width, picture.height) for left in lefts]
    return [(title, picture.crop(box)) for title, box in zip(_TITLES, boxes, strict=True)]


def panel_names(names):
    """File names of images -> names for their panels, without suffix and none twice: `train+val` may repeat one."""
    stems = [Path(name).stem for name in names]
    times, found = Counter(stems), {}
    for place, stem in enumerate(stems):
        name = stem if times[stem] == 1 else f"{stem}_{place}"
        while name in found or (name != stem and name in times):
            name += "_"
        found[name] = place
    return list(found)


def save_panel(image, label, prediction, labels, path):
    """Write a `panel`."""
    with replacing(path) as temporary:
        Image.fromarray(panel(image, label, prediction, labels)).save(temporary)


def save_samples(samples, labels, path):
    """Write images beside themselves with their masks drawn over them, and the classes' colours.

    Args:
        samples: [(image uint8 [H, W, 3], label integers [H, W])].
        labels: LabelSet.
    """
    rows = [[_shrunk(image), _shrunk(labels.overlay(image, label, opacity=0.7))] for image, label in samples]
    legend = _legend(labels)
    wide = max(sum(tile.width + _GAP_PX for tile in row) for row in rows)
    high = sum(row[0].height + _GAP_PX for row in rows)
    canvas = Image.new("RGB", (wide + legend.width, max(high, legend.height)), "white")
    top = 0
    for row in rows:
        left = 0
        for tile in row:
            canvas.paste(tile, (left, top))
            left += tile.width + _GAP_PX
        top += row[0].height + _GAP_PX
    canvas.paste(legend, (wide, 0))
    with replacing(path) as temporary:
        canvas.save(temporary)


def _shrunk(image):
    picture = Image.fromarray(image)
    picture.thumbnail((_SAMPLE_PX, _SAMPLE_PX))
    return picture


def _legend(labels):
    """A line a class: its colour, its index and its name."""
    lines = [f"{index} {name}" for index, name in enumerate(labels.names)]
    draw = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    width = _TITLE_PX + 3 * _GAP_PX + math.ceil(max(draw.textlength(line) for line in lines))
    legend = Image.new("RGB", (width, (_TITLE_PX + _GAP_PX) * len(lines)), "white")
    draw = ImageDraw.Draw(legend)
    for place, (line, colour) in enumerate(zip(lines, labels.colours, strict=True)):
        top = place * (_TITLE_PX + _GAP_PX)
        draw.rectangle([0, top, _TITLE_PX, top + _TITLE_PX], fill=colour, outline="grey")
        draw.text((_TITLE_PX + 2 * _GAP_PX, top + 3), line, fill="black")
    return legend


def save_iou_chart(scores, labels, path):
    """Write a bar chart of IoU per class, in the classes' colours, with the mean as a line."""
    figure, axes = _figure(width=min(max(4.0, 1.6 + 0.6 * len(labels)), _WIDEST_IN), height=3.6)
    values = [scores.iou[name] for name in labels.names]
    colours = [tuple(v / 255 for v in colour) for colour in labels.colours]
    axes.bar(list(map(_as_text, labels.names)), [v or 0.0 for v in values], color=colours, edgecolor="0.3")
    for position, value in enumerate(values):
        text = "absent" if value is None else f"{value:.2f}"
        if len(labels) <= _NAMED_CLASSES:
            axes.text(position, (value or 0.0) + 0.01, text, ha="center", fontsize=8)
    axes.axhline(scores.mean_iou, color="0.4", linestyle="--", linewidth=1)
    axes.set(ylim=(0, 1.08), ylabel="IoU", title=f"mean IoU {scores.mean_iou:.3f} over {scores.images} images")
    axes.tick_params(axis="x", rotation=45 if len(labels) > 4 else 0)
    if len(labels) > _NAMED_CLASSES:
        axes.tick_params(axis="x", rotation=90, labelsize=max(2, 600 // len(labels)))
    _save(figure, path)


def save_confusion_chart(scores, labels, path):
    """Write the confusion matrix, each row as shares of its true class."""
    side = min(max(4.0, 1.8 + 0.5 * len(labels)), _WIDEST_IN / 2)
    figure, axes = _figure(width=side, height=side)
    counts = np.array(scores.confusion_matrix, np.float64)
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    axes.imshow(shares, vmin=0, vmax=1, cmap="Blues")
    if len(labels) <= 25:
        for (row, column), share in np.ndenumerate(shares):
            colour = "white" if share > 0.5 else "black"
            axes.text(column, row, f"{share:.2f}", ha="center", va="center", fontsize=7, color=colour)
    if len(labels) <= _NAMED_CLASSES:  # beyond it, matplotlib's own choice of numbers
        ticks = range(len(labels))
        names = list(map(_as_text, labels.names))
        axes.set_xticks(ticks, names, rotation=90)
        axes.set_yticks(ticks, names)
    axes.set(xlabel="predicted", ylabel="true", title="share of each true class")
    _save(figure, path)


def save_training_curve(history, path):
    """Write loss and mean IoU over the epochs, training and validation.

    Args:
        history: dicts with `epoch`, `loss`, `mean_iou` and, where it was validated, `val_loss`, `val_mean_iou`.
    """
    figure, (left, right) = _figure(width=9.0, height=3.4, columns=2)
    for axes, name, title in ((left, "loss", "loss"), (right, "mean_iou", "mean IoU")):
        for key, label in ((name, "training crops"), (f"val_{name}", "validation images")):
            points = [(entry["epoch"], entry[key]) for entry in history if key in entry]
            if points:
                axes.plot(*zip(*points, strict=True), marker=".", label=label)
        axes.set(xlabel="epoch", title=title)
        axes.grid(alpha=0.3)
        axes.legend()
    right.set_ylim(0, 1)
    _save(figure, path)


def save_comparison_curves(runs, path):
    """Write loss, mean IoU and learning rate of several runs over their epochs.

    Args:
        runs: [(name, histories)], the histories of a run's seeds as in `save_training_curve`. Validation is drawn
            with points, training crops thin.
    """
    figure, panes = _figure(width=12.0, height=3.6, columns=3)
    titles = {"loss": "loss", "mean_iou": "mean IoU", "learning_rate": "learning rate"}
    for axes, (name, title) in zip(panes, titles.items(), strict=True):
        for place, (run, histories) in enumerate(runs):
            look = {"color": f"C{place % 10}", "linestyle": ("-", "--", ":")[place // 10 % 3]}  # there are ten colours
            for history in histories:
                for key, style in ((name, {"linewidth": 0.8}), (f"val_{name}", {"marker": ".", "linewidth": 1.6})):
                    points = [(entry["epoch"], entry[key]) for entry in history if key in entry]
                    if points:
                        label = _as_text(run) if history is histories[0] and key == name else None
                        axes.plot(*zip(*points, strict=True), label=label, **look, **style)
        axes.set(xlabel="epoch", title=title)
        axes.grid(alpha=0.3)
    panes[1].set_ylim(0, 1)
    handles = panes[0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower center", ncols=min(4, max(1, len(runs))), fontsize=8, frameon=False)
    _save(figure, path)


def save_trade_off_chart(candidates, mean_iou, max_drop, path):
    """Write mean IoU against size and against latency, with the budget as a line.

    Args:
        candidates: objects with `name`, `size_mb`, `latency_ms`, `mean_iou`, `best_in_kind` (drawn filled).
        mean_iou: of the Keras model.
        max_drop: the most that may be lost.
    """
    figure, both = _figure(width=11.0, height=4.2, columns=2)
    for axes, attribute, label in zip(both, ("size_mb", "latency_ms"), ("size in MB", "latency in ms"), strict=True):
        for place, one in enumerate(candidates):
            colour = f"C{place % 10}"
            inside = colour if one.best_in_kind else "none"
            point = [getattr(one, attribute)], [one.mean_iou]
            axes.scatter(*point, s=60, edgecolors=colour, facecolors=inside, label=one.name, zorder=3)
        axes.axhline(mean_iou, color="0.4", linewidth=1, label="Keras")
        axes.axhline(mean_iou - max_drop, color="tab:red", linestyle="--", linewidth=1, label="budget")
        axes.set(xlabel=label, ylabel="mean IoU", xscale="log")
        axes.grid(alpha=0.3, which="both")
    figure.legend(*both[0].get_legend_handles_labels(), loc="outside right upper", fontsize=8)
    _save(figure, path)


def save_sensitivity_chart(costs, path):
    """Write what each layer alone in 8 bits costs, as bars, the dearest at the top.

    Args:
        costs: objects with `layer`, `mean_iou_drop`, `relative_rms_error`.
    """
    figure, both = _figure(width=9.0, height=max(2.4, 1.0 + 0.18 * len(costs)), columns=2)
    names = [cost.layer for cost in costs][::-1]
    for axes, attribute, label in zip(
        both, ("mean_iou_drop", "relative_rms_error"), ("mean IoU lost", "change of the scores (rms)"), strict=True
    ):
        axes.barh(names, [getattr(cost, attribute) for cost in costs][::-1], color="tab:blue")
        axes.set(xlabel=label)
        axes.tick_params(axis="y", labelsize=7)
        axes.grid(alpha=0.3, axis="x")
    both[1].set_yticklabels([])
    _save(figure, path)


def _figure(width, height, columns=1):
    """Figure and axes that draw to files only: no window, and no state shared between figures."""
    figure = need("matplotlib.figure", "plots").Figure(figsize=(width, height), dpi=120, layout="constrained")
    return figure, figure.subplots(1, columns)


def _as_text(name):
    """A name as Matplotlib shows it: $ would begin a formula, and what begins with _ is left out of legends."""
    return (" " if name.startswith("_") else "") + name.replace("$", r"\$")


def _save(figure, path):
    with replacing(path) as temporary:
        figure.savefig(temporary)
