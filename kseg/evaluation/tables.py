"""What `kseg.evaluation.benchmark` measured, as text: (headings, rows) for a table, the first column a name."""

_UNKNOWN = "-"


def describe(one):
    """A Measurement's file in a line: what it takes, how large it is, and whether one delegate takes all of it."""
    inputs = ", ".join(f"{'x'.join(map(str, shape[1:]))} {dtype}" for shape, dtype in one.inputs)
    accelerated = {True: ", fully accelerated", False: ", not fully accelerated", None: ""}[one.fully_accelerated]
    return f"{one.file}: {inputs}, {one.size_mb:.2f} MB{accelerated}"


def times(measured):
    """Table of a list of Measurement; the files are [1], [2], ..., because their names would fill the terminal."""
    rows = []
    for number, one in enumerate(measured, start=1):
        ratio = f"{one.ratio:.2f} ({one.ratio_low:.2f}-{one.ratio_high:.2f})"
        milliseconds = (f"{one.median_ms:.2f}", f"{one.p90_ms:.2f}", ratio, f"{one.cold_start_ms:.0f}")
        rows.append((f"[{number}]", *milliseconds, f"{one.peak_mib:.0f}", f"{one.own_mib:.0f}"))
    return ("", "median ms", "p90 ms", "time / [1]", "cold ms", "peak MiB", "own MiB"), rows


def describe_operators(found):
    """What an Operators' sum is worth, in a line."""
    part = f"{found.sum_ms:.2f} ms, {found.sum_ms / found.whole_ms:.0%} of the whole's {found.whole_ms:.2f} ms"
    return f"{found.file}: its operators take {part}"


def operators(found):
    """Table of an Operators' operators, those that take longest first."""
    rows = [(one["operator"], str(one["index"]), one["output"], *_part(one)) for one in found.rows]
    return ("operator", "place", "output", "ms", "share"), rows


def groups(found):
    """Table of the kinds of operators, those that take longest first."""
    rows = [(one["operator"], str(one["count"]), *_part(one)) for one in found.groups()]
    return ("kind", "count", "ms", "share"), rows


def _part(one):
    return (_UNKNOWN, _UNKNOWN) if one["ms"] is None else (f"{one['ms']:.3f}", f"{one['share']:.1%}")
