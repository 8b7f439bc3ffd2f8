"""Reading `.keras` archives without doing anything twice: Keras alone takes twice as long and more memory.

It fills every layer with random numbers that the file then replaces, and reads the weights through a zip stream, which
starts anew at each jump backwards and never compares the checksum.
"""

import io
import struct
import zipfile
import zlib

import keras

WEIGHTS = "model.weights.h5"
_LOCAL_HEADER = struct.Struct("<26x2H")  # of a member: 26 bytes that do not matter here, the lengths of two fields
_CHUNK_BYTES = 2**22


def build(config):
    """The model of a configuration, its random weights still zero: for a file to be loaded into.

    Args:
        config: the content of `config.json`.
    """
    with keras.saving.custom_object_scope({"_Later": _Later}):
        model = keras.saving.deserialize_keras_object(_without_random(config))
    for layer in model._flatten_layers():
        for name, value in list(vars(layer).items()):
            if isinstance(value, _Later):
                setattr(layer, name, keras.initializers.deserialize(value.initializer))
    return model


class _Later(keras.initializers.Initializer):
    """Zeros, in the place of a random initializer: nobody is to see its numbers."""

    def __init__(self, initializer):
        """`initializer`: the configuration of the true one."""
        self.initializer = initializer

    def __call__(self, shape, dtype=None):
        return keras.ops.zeros(shape, dtype)

    def get_config(self):
        return {"initializer": self.initializer}


def _without_random(config):
    if isinstance(config, list):
        return [_without_random(part) for part in config]
    if not isinstance(config, dict):
        return config
    if _is_random(config):
        return {"module": None, "class_name": "_Later", "config": {"initializer": config}, "registered_name": "_Later"}
    return {key: _without_random(part) for key, part in config.items()}


def _is_random(config):
    those = keras.initializers
    kind = config.get("module") == "keras.initializers" and getattr(those, str(config.get("class_name")), None)
    random = (those.RandomNormal, those.RandomUniform, those.TruncatedNormal, those.VarianceScaling, those.Orthogonal)
    return isinstance(kind, type) and issubclass(kind, random)


def load_weights(model, path):
    """Load the weights, and the optimizer's if both have one, of a `.keras` file.

    Raises:
        zipfile.BadZipFile: they are damaged.
        ValueError: they are another model's.
    """
    from keras.src.saving import saving_lib

    with zipfile.ZipFile(path) as archive:
        member = archive.getinfo(WEIGHTS)
    if member.compress_type != zipfile.ZIP_STORED:  # some other program has packed it anew
        saving_lib.load_weights_only(model, str(path))
        return
    with _Stored(path, member) as weights:
        store = saving_lib.H5IOStore(WEIGHTS, archive=weights, mode="r")
        saving_lib._load_state(model, store, assets_store=None, inner_path="", visited_saveables=set())
        store.close()


class _Stored(io.RawIOBase):
    """A member of a zip archive that is not compressed, as a file of its own."""

    def __init__(self, path, member):
        super().__init__()
        self._file = open(path, "rb", buffering=0)  # noqa: SIM115  closed by `close`
        try:
            self._file.seek(member.header_offset)
            header = self._file.read(_LOCAL_HEADER.size)
            self._start = member.header_offset + _LOCAL_HEADER.size + sum(_LOCAL_HEADER.unpack(header))
            self._size = member.file_size
            self._check(member.CRC)
        except BaseException:
            self.close()
            raise

    def _check(self, expected):
        found, chunk = 0, memoryview(bytearray(_CHUNK_BYTES))
        self.seek(0)
        while count := self.readinto(chunk):
            found = zlib.crc32(chunk[:count], found)
        if found != expected:
            raise zipfile.BadZipFile(f"{WEIGHTS} is damaged: its checksum is another")

    def open(self, name, mode):
        """What Keras asks of an archive."""
        return self

    def readable(self):
        return True

    def seekable(self):
        return True

    def seek(self, offset, whence=io.SEEK_SET):
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self.tell(), io.SEEK_END: self._size}[whence]
        return self._file.seek(self._start + max(0, base + offset)) - self._start

    def tell(self):
        return self._file.tell() - self._start

    def readinto(self, buffer):
        wanted = memoryview(buffer).cast("B")[: max(0, self._size - self.tell())]
        done = 0
        while done < len(wanted) and (count := self._file.readinto(wanted[done:])):  # at most 2 GB at once
            done += count
        return done

    def close(self):
        self._file.close()
        super().close()
