"""Charts as inline SVG: their colours are the page's style sheet's, so that they follow light and dark."""

import math
import statistics
from dataclasses import dataclass
from html import escape

COLOURS = 8  # .s0 to .s7 in style.py
_WIDTH, _HEIGHT = 380, 240
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 12, 12, 34


@dataclass(frozen=True)
class Line:
    """A line of a chart.

    Attributes:
        name: for the tooltip of its points.
        points: [(x, y)], finite numbers.
        colour: number of its entry.
        faint: thin and without points, for what is there to compare with.
    """

    name: str
    points: tuple
    colour: int
    faint: bool = False


def line_chart(title, lines, x_title="epoch", linear=False):
    """Lines over epochs.

    Args:
        title: for those who cannot see it.
        lines: list of Line; without any point the chart says so.
        x_title: below the axis.
        linear: never a logarithmic axis. Otherwise it is one where all values are positive and span a factor of more
            than 40.
    Returns:
        str, an <svg> element.
    """
    points = [point for line in lines for point in line.points]
    if not points:
        return f'<p class="none">{escape(title)}: nothing recorded.</p>'
    lowest, highest = min(y for _, y in points), max(y for _, y in points)
    logarithmic = not linear and lowest > 0 and highest > 40 * lowest
    y_ticks = _log_ticks(lowest, highest) if logarithmic else _ticks(lowest, highest, 5)
    lowest, highest = min(lowest, y_ticks[0]), max(highest, y_ticks[-1])
    last = max(x for x, _ in points)
    first = min(x for x, _ in points)
    place = _Scale((first, max(last, first + 1)), (lowest, highest), logarithmic)
    x_ticks = [tick for tick in _ticks(first, last, 6) if tick == int(tick) and first <= tick <= last] or [first]
    parts = [_grid(place, x_ticks, y_ticks, x_title)]
    parts += [_line(line, place) for line in sorted(lines, key=lambda line: not line.faint)]
    return _svg(title, "; ".join(_ends(lines)), _HEIGHT, parts)


def strip_chart(title, rows):
    """One row an entry: a mark for the score of every image, and one for their median.

    Args:
        title: for those who cannot see it.
        rows: [(name, values in 0..1, not empty, colour)].
    """
    top, step = 4, 42
    height = top + step * len(rows) + 26
    ticks = _ticks(min(value for _, values, _ in rows for value in values), 1.0, 5)
    place = _Scale((ticks[0], ticks[-1]), (0, 1), logarithmic=False)
    parts, told = [], []
    for tick in ticks:
        parts.append(f'<path class="grid" d="M{place.x(tick):.1f} {top}V{height - 24}"/>')
        text = f"{100 * tick:g}"
        parts.append(f'<text class="tick" x="{place.x(tick):.1f}" y="{height - 8}" text-anchor="middle">{text}</text>')
    for number, (name, values, colour) in enumerate(rows):
        y = top + step * number + 22
        marks = "".join(f"M{place.x(value):.1f} {y}v13" for value in values)
        median = statistics.median(values)
        parts.append(f'<text class="name" x="{_LEFT}" y="{y - 6}">{escape(name)}</text>')
        parts.append(f'<path class="mark s{colour % COLOURS}" d="{marks}"/>')
        line = f'<path class="median" d="M{place.x(median):.1f} {y - 3}v19">'
        parts.append(f"{line}<title>{escape(name)}: median {100 * median:.1f}</title></path>")
        told.append(f"{name}: {100 * min(values):.1f} to {100 * max(values):.1f}, median {100 * median:.1f}")
    return _svg(title, "; ".join(told), height, parts)


class _Scale:
    """Data -> places in the picture."""

    def __init__(self, x_limits, y_limits, logarithmic):
        self.x_limits, self.logarithmic = x_limits, logarithmic
        self.y_limits = tuple(map(math.log10, y_limits)) if logarithmic else y_limits

    def x(self, value):
        return _LEFT + (value - self.x_limits[0]) / (self.x_limits[1] - self.x_limits[0]) * (_WIDTH - _LEFT - _RIGHT)

    def y(self, value):
        value = math.log10(value) if self.logarithmic else value
        low, high = self.y_limits
        return _HEIGHT - _BOTTOM - (value - low) / ((high - low) or 1) * (_HEIGHT - _TOP - _BOTTOM)


def _line(line, place):
    if not line.points:
        return ""
    kind = f"s{line.colour % COLOURS}{' faint' if line.faint else ''}"
    if line.colour >= COLOURS:
        kind += " dashed"
    path = " ".join(f"{place.x(x):.1f},{place.y(y):.1f}" for x, y in line.points)
    drawn = f'<polyline class="line {kind}" points="{path}"/>'
    if line.faint or len(line.points) > 60:
        return drawn
    for x, y in line.points:
        told = f"{escape(line.name)}, epoch {x:g}: {y:.4g}"
        drawn += (
            f'<circle class="{kind}" cx="{place.x(x):.1f}" cy="{place.y(y):.1f}" r="3"><title>{told}</title></circle>'
        )
    return drawn


def _grid(place, x_ticks, y_ticks, x_title):
    parts = []
    for tick, text in zip(y_ticks, _tick_texts(y_ticks), strict=True):
        y = place.y(tick)
        parts.append(f'<path class="grid" d="M{_LEFT} {y:.1f}H{_WIDTH - _RIGHT}"/>')
        parts.append(f'<text class="tick" x="{_LEFT - 7}" y="{y + 4:.1f}" text-anchor="end">{text}</text>')
    for tick in x_ticks:
        parts.append(
            f'<text class="tick" x="{place.x(tick):.1f}" y="{_HEIGHT - 15}" text-anchor="middle">{tick:g}</text>'
        )
    x = (_WIDTH + _LEFT - _RIGHT) / 2
    parts.append(f'<text class="tick" x="{x}" y="{_HEIGHT - 1}" text-anchor="middle">{escape(x_title)}</text>')
    return "".join(parts)


def _tick_texts(ticks):
    """All in one notation: powers of ten where plain numbers would be long."""
    if max(map(abs, ticks)) >= 0.01:
        return [f"{tick:g}" for tick in ticks]
    digits = [f"{tick:.6e}".split("e") for tick in ticks]
    return [f"{float(number):g}e{int(power)}" if float(number) else "0" for number, power in digits]


def _ticks(low, high, most):
    """Round numbers that reach from at or below `low` to at or above `high`."""
    span = (high - low) or abs(high) or 1.0
    step = 10.0 ** math.floor(math.log10(span / most))
    step *= next(factor for factor in (1, 2, 2.5, 5, 10) if span / (step * factor) <= most)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [float(f"{step * place:.12g}") for place in range(first, max(last, first + 1) + 1)]


def _log_ticks(low, high):
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    every = (1, 2, 5) if high < 200 * low else (1,)
    ticks = [float(f"{factor}e{power}") for power in powers for factor in every]
    below = [tick for tick in ticks if tick <= low] or ticks[:1]
    above = [tick for tick in ticks if tick >= high] or ticks[-1:]
    return [tick for tick in ticks if below[-1] <= tick <= above[0]]


def _ends(lines):
    for line in lines:
        if line.points and not line.faint:
            yield f"{line.name} ends at {line.points[-1][1]:.4g}"


def _svg(title, description, height, parts):
    return (
        f'<svg viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="{escape(title)}. {escape(description)}">'
        f"{''.join(parts)}</svg>"
    )
