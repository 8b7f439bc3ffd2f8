"""Does every offset in a .tflite file point into the file?

The schema's accessors trust the file: in one that is damaged, cut short or made to mislead they would read anywhere,
or without end. So one bounded walk over its tables comes first, as flatbuffers' C++ verifier does it.
"""

import io
import struct
import zipfile

# Which fields of each table point elsewhere, by their number in the schema, and to what: a vector ("indices" and
# "text" are read here, the others only measured), a table, or a [vector of tables].
_FIELDS = {
    "Model": {1: ["Code"], 2: ["Graph"], 3: "text", 4: ["Buffer"], 5: "indices", 6: ["Metadata"], 7: ["Signature"]},
    "Code": {1: "text"},
    "Graph": {0: ["Tensor"], 1: "indices", 2: "indices", 3: ["Operator"], 4: "text"},
    "Tensor": {0: "indices", 3: "text", 4: "Quantization", 6: "Opaque", 7: "indices"},
    "Quantization": {0: "floats", 1: "floats", 2: "floats", 3: "longs", 5: "Opaque"},
    "Operator": {1: "indices", 2: "indices", 4: "Opaque", 5: "bytes", 7: "bytes", 8: "indices", 12: "Opaque"},
    "Buffer": {0: "bytes"},
    "Metadata": {0: "text"},
    "Signature": {0: ["Part"], 1: ["Part"], 2: "text"},
    "Part": {0: "text"},
    "Opaque": {},
}
_ITEM_WIDTHS = {"text": 1, "bytes": 1, "indices": 4, "floats": 4, "longs": 8}
# No network comes near it; a damaged file could otherwise ask for work without end.
_MOST_STEPS = 200_000


class DamagedError(Exception):
    """The file is not whole; the message says what is wrong, for who reads the file to say it with its name."""


def check(view):
    """Walk over a flatbuffer of the schema's Model.

    Args:
        view: memoryview of bytes.
    Raises:
        DamagedError: an offset points outside it, its end is missing, or it has more parts than any network.
    """
    _Walk(view).run()


class _Walk:
    """Follows every offset that the accessors may follow, and finds where the flatbuffer ends."""

    def __init__(self, view):
        self._view, self._size, self._steps, self._end = view, view.nbytes, 0, 8

    def run(self):
        self._table(self._number("<I", 0), "Model")
        rest = bytes(self._view[self._end :][:16])
        if rest.lstrip(b"\0")[:2] == b"PK":  # files for the metadata, which tools append as a zip archive
            self._archive()
        elif len(rest) < 16 and self._size % 4:  # a flatbuffer is padded to whole words
            raise DamagedError("it ends within a word")

    def _archive(self):
        try:
            zipfile.ZipFile(io.BytesIO(self._view[self._end :])).close()
        except zipfile.BadZipFile as error:
            raise DamagedError("the archive at its end") from error

    def _number(self, form, at):
        self._reach(at, struct.calcsize(form))
        return struct.unpack_from(form, self._view, at)[0]

    def _reach(self, at, length):
        if at < 0 or at + length > self._size:
            raise DamagedError("it points outside itself")
        self._end = max(self._end, at + length)

    def _spend(self, steps):
        self._steps += steps
        if self._steps > _MOST_STEPS:
            raise DamagedError("too many parts")

    def _table(self, at, kind):
        self._spend(1)
        places = at - self._number("<i", at)
        places_bytes, length = self._number("<H", places), self._number("<H", places + 2)
        self._reach(places, places_bytes)
        self._reach(at, length)
        for number, target in _FIELDS[kind].items():
            if 4 + 2 * number + 2 <= places_bytes and (offset := self._number("<H", places + 4 + 2 * number)):
                self._follow(at + offset + self._number("<I", at + offset), target)

    def _follow(self, at, target):
        if isinstance(target, list):
            length = self._number("<I", at)
            self._reach(at + 4, 4 * length)
            self._spend(length)
            for place in range(at + 4, at + 4 + 4 * length, 4):
                self._table(place + self._number("<I", place), target[0])
        elif target in _FIELDS:
            self._table(at, target)
        else:
            length = self._number("<I", at)
            # A text ends with a zero byte that it does not count.
            self._reach(at + 4, length * _ITEM_WIDTHS[target] + (target == "text"))
            self._spend({"text": length // 64, "indices": length}.get(target, 0))
