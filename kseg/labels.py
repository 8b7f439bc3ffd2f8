"""Label sets: what the classes are called, how they are drawn, and which index means "not labelled"."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from kseg.errors import InputError
from kseg.files import read_text

# The colour that Pascal VOC gives to unlabelled pixels, and ours for every index that has no colour of its own.
VOID_COLOUR = (224, 224, 192)
# An overlay is drawn in strips of so many pixels: each takes about 60 bytes while it is drawn.
_STRIP_PIXELS = 2**20


@dataclass(frozen=True)
class LabelSet:
    """The classes of a data set or of a network.

    Attributes:
        names: one name a class; the position is the class index.
        colours: one (red, green, blue) a class, each 0..255.
        ignore: the index in a mask that marks unlabelled pixels, or None. It is no class: it lies outside
            0..len(names) - 1.
        masks: how mask files hold the classes: "index" (grey or palette PNG) or "colour" (RGB, nearest colour).
        ignore_colour: the colour that marks unlabelled pixels in colour masks; None: VOID_COLOUR. In a labels.json it
            is written as `ignore`, and the index is 255.
        values: for index masks, the numbers that the files hold for each class, a tuple a class; None: its index.
        ignore_values: with `values`, the numbers that mark unlabelled pixels. In a labels.json they are written as
            `ignore`, and the index is 255.
    Raises:
        InputError: the fields contradict each other.
    """

    names: tuple
    colours: tuple
    ignore: int | None = None
    masks: str = "index"
    ignore_colour: tuple | None = None
    values: tuple | None = None
    ignore_values: tuple = ()

    def __post_init__(self):
        for name in ("names", "colours"):
            if not isinstance(getattr(self, name), list | tuple):
                raise InputError(f"`{name}` must be a list. Received: {getattr(self, name)!r}")
            object.__setattr__(self, name, tuple(getattr(self, name)))
        object.__setattr__(self, "colours", tuple(_checked_colour(colour) for colour in self.colours))
        if not self.names:
            raise InputError("a label set needs at least one name")
        if len(set(self.names)) != len(self.names) or not all(isinstance(n, str) and n for n in self.names):
            raise InputError(f"`names` must be different, non-empty strings. Received: {list(self.names)}")
        if len(self.colours) != len(self.names):
            raise InputError(
                f"each name needs a colour. Received: {len(self.names)} names, {len(self.colours)} colours"
            )
        if self.ignore is not None and not (isinstance(self.ignore, int) and len(self.names) <= self.ignore <= 65535):
            raise InputError(
                f"`ignore` must be null or an index beyond the {len(self.names)} classes, 0 to {len(self.names) - 1}; "
                f'masks with other numbers need "values", the number of each class. Received: {self.ignore}'
            )
        if self.masks not in ("index", "colour"):
            raise InputError(f'`masks` must be "index" or "colour". Received: {self.masks!r}')
        if self.ignore_colour is not None:
            self._check_ignore_colour()
        if self.values is not None or self.ignore_values:
            self._check_values()
        if self.masks == "colour" and len(set(self.colours)) < len(self.colours):
            raise InputError("in colour masks each class needs a colour of its own, but two classes share one")

    def _check_ignore_colour(self):
        object.__setattr__(self, "ignore_colour", _checked_colour(self.ignore_colour))
        if self.masks != "colour" or self.ignore is None:
            raise InputError(
                f'`ignore` may be a colour where `masks` is "colour"; else it is an index or null. '
                f"Received: {list(self.ignore_colour)}"
            )
        if self.ignore_colour in self.colours:
            raise InputError(f"`ignore` is the colour of a class, too. Received: {list(self.ignore_colour)}")

    def _check_values(self):
        if not isinstance(self.values, list | tuple | None):
            raise InputError(f"`values` must be a list. Received: {self.values!r}")
        if self.masks != "index" or self.values is None:
            raise InputError(
                '`values` are those of index masks; in colour masks the `colours` count ("masks": "index")'
            )
        values, ignored = [_numbers(value) for value in self.values], _numbers(self.ignore_values)
        if (self.ignore is None) != (not ignored):
            raise InputError("with `values`, `ignore` and `ignore_values` go together")
        if len(values) != len(self.names):
            raise InputError(f"each name needs its value. Received: {len(self.names)} names, {len(values)} values")
        used = [number for value in (*values, ignored) for number in value]
        if twice := sorted({number for number in used if used.count(number) > 1}):
            raise InputError(f"each of `values` and `ignore` stands for one class. Received twice: {twice}")
        object.__setattr__(self, "values", tuple(values))
        object.__setattr__(self, "ignore_values", ignored)

    def __len__(self):
        """The number of classes."""
        return len(self.names)

    @classmethod
    def numbered(cls, classes, ignore=None):
        """Label set for classes without names: "0", "1", ... in the colours of Pascal VOC's colour map."""
        return cls(tuple(str(i) for i in range(classes)), tuple(voc_colour(i) for i in range(classes)), ignore)

    @classmethod
    def from_dict(cls, fields, where="labels"):
        """Build from the fields of a labels.json; `where` names the source in errors.

        Raises:
            InputError: a field is missing, unknown or wrong.
        """
        if not isinstance(fields, dict) or not {"names", "colours"} <= set(fields):
            given = f"Received: {', '.join(fields)}" if isinstance(fields, dict) else "Received no object"
            raise InputError(f'{where}: a label set needs the fields "names" and "colours". {given}')
        known = ("names", "colours", "ignore", "masks", "values")
        if unknown := sorted(set(fields) - set(known)):
            raise InputError(f"{where}: unknown fields {unknown}; known: {', '.join(known)}")
        try:
            ignore = fields.get("ignore")
            in_files = "ignore_values" if fields.get("values") is not None else "ignore_colour"
            if isinstance(ignore, list) or (in_files == "ignore_values" and ignore is not None):
                index = 255 if len(fields["names"]) <= 255 else 65535
                fields = {**fields, "ignore": index, in_files: ignore}
            return cls(**fields)
        except (InputError, TypeError) as error:
            raise InputError(f"{where}: {error}") from error

    @classmethod
    def load(cls, path):
        """Read a labels.json.

        Raises:
            InputError: the file is missing, is not JSON, or its fields contradict each other.
        """
        try:
            return cls.from_dict(json.loads(read_text(path)), where=str(path))
        except json.JSONDecodeError as error:
            raise InputError(f"{path}: not a JSON file ({error})") from error

    def to_dict(self):
        """The fields of a labels.json, as plain lists."""
        fields = asdict(self)
        colour, values, ignored = (fields.pop(name) for name in ("ignore_colour", "values", "ignore_values"))
        if values is not None:
            fields |= {"values": [_plain(value) for value in values], "ignore": _plain(ignored) if ignored else None}
        return json.loads(json.dumps(fields | ({"ignore": colour} if colour else {})))

    def save(self, path):
        """Write a labels.json, a field a line, so that it can be changed by hand."""
        fields = ",\n".join(
            f'  "{name}": {json.dumps(value, ensure_ascii=False)}' for name, value in self.to_dict().items()
        )
        Path(path).write_text(f"{{\n{fields}\n}}\n", encoding="utf-8")

    def colour_table(self):
        """uint8 [256, 3]: the colour of every 8-bit index; indices without a class get VOID_COLOUR."""
        table = np.tile(np.array(VOID_COLOUR, np.uint8), (256, 1))
        colours = np.array(self.colours[:256], np.uint8)
        table[: len(colours)] = colours
        return table

    def to_colours(self, mask):
        """Index mask, integers [H, W] -> uint8 [H, W, 3]."""
        table = np.array([*self.colours, VOID_COLOUR], np.uint8)
        mask = np.asarray(mask).astype(np.int64)
        known = (mask >= 0) & (mask < len(self))
        return table[np.where(known, mask, len(self))]

    def overlay(self, image, mask, opacity=0.5):
        """Draw an index mask over its image, which shows alone where pixels are unlabelled or their class is black, as
        backgrounds are.

        Args:
            image: [H, W, 3], 0..255.
            mask: integers [H, W].
            opacity: 0 shows the image, 1 the colours.
        Returns:
            uint8 [H, W, 3].
        """
        image, mask = np.asarray(image), np.asarray(mask)
        overlay = np.empty(image.shape, np.uint8)
        rows = max(1, _STRIP_PIXELS // max(1, mask.shape[1]))
        for top in range(0, len(mask), rows):
            strip = slice(top, top + rows)
            overlay[strip] = self._overlay(image[strip].astype(np.float32), mask[strip], opacity)
        return overlay

    def _overlay(self, image, mask, opacity):
        colours = self.to_colours(mask)
        drawn = (mask < len(self)) & colours.any(-1)
        mixed = image + opacity * (colours - image)
        return np.where(drawn[..., None], mixed, image).clip(0, 255)

    def from_values(self, pixels):
        """The numbers in an index mask -> class indices.

        Args:
            pixels: integers [...], 0 and more.
        Returns:
            int32 [...]: a number v that is neither among `values` nor among `ignore_values` becomes -1 - v.
        """
        pixels = np.asarray(pixels).astype(np.int32)
        if self.values is None:
            return pixels
        table = -1 - np.arange(1 + max(65535, int(pixels.max(initial=0))), dtype=np.int32)
        for index, numbers in enumerate(self.values):
            table[list(numbers)] = index
        if self.ignore is not None:
            table[list(self.ignore_values)] = self.ignore
        return table[pixels]

    def from_colours(self, colours):
        """Colour mask -> class indices, by the nearest colour of the set (squared distance in RGB).

        Args:
            colours: uint8 [H, W, 3]. With `ignore`, `ignore_colour` stands for it.
        Returns:
            (int32 [H, W], number of pixels whose colour was not exactly one of the set's).
        """
        colours = np.asarray(colours, np.int64)
        packed = colours @ np.array([65536, 256, 1])
        # A mask of a million pixels has few different colours: measure each of those once.
        unique, inverse = np.unique(packed, return_inverse=True)
        rgb = np.stack([unique >> 16, (unique >> 8) & 255, unique & 255], axis=-1)
        known = [*self.colours, *([self.ignore_colour or VOID_COLOUR] if self.ignore is not None else [])]
        indices = np.array([*range(len(self)), *([self.ignore] if self.ignore is not None else [])], np.int32)
        distance = ((rgb[:, None, :] - np.array(known, np.int64)[None]) ** 2).sum(-1)  # [unique, known]
        nearest = distance.argmin(1)
        inexact = distance[np.arange(len(unique)), nearest] > 0
        inverse = inverse.reshape(packed.shape)
        return indices[nearest][inverse], int(inexact[inverse].sum())


def _checked_colour(colour):
    whole = isinstance(colour, list | tuple) and all(isinstance(part, int) and 0 <= part <= 255 for part in colour)
    if not whole or len(colour) != 3:
        raise InputError(f"a colour is three whole numbers from 0 to 255. Received: {colour!r}")
    return tuple(colour)


def _numbers(value):
    """The numbers that stand for one class in index masks, one or several, as a tuple."""
    numbers = tuple(value) if isinstance(value, list | tuple) else (value,)
    if not all(isinstance(number, int) and 0 <= number <= 65535 for number in numbers):
        raise InputError(
            f"`values` and `ignore` are whole numbers from 0 to 65535, or lists of them. Received: {value}"
        )
    return numbers


def _plain(numbers):
    return numbers[0] if len(numbers) == 1 else numbers


def voc_colour(index):
    """The colour that Pascal VOC's colour map gives to `index` (0..255): the bits of the index, spread over RGB."""
    red = green = blue = 0
    for shift in range(7, -1, -1):
        red |= (index & 1) << shift
        green |= ((index >> 1) & 1) << shift
        blue |= ((index >> 2) & 1) << shift
        index >>= 3
    return red, green, blue
