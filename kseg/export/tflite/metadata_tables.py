"""The tables of TFLite's metadata, and dict <-> flatbuffer after them.

The layout is that of metadata_schema.fbs 1.5.0 and image_segmenter_metadata_schema.fbs 1.0.0 in
https://github.com/google-ai-edge/mediapipe/tree/master/mediapipe/tasks/metadata, of which no Python package that we
need brings the generated classes.
"""

import flatbuffers
import numpy as np
from flatbuffers import number_types
from flatbuffers.table import Table

# {table: ((field, kind), ...)} in the order of the schema, as far as they are needed. A kind is "byte" or "int",
# "string", "floats", "bytes", a table, [a table or "string"], {code in the field before it: table} for a union, or None
# for a field that is never used.
TABLES = {
    "ModelMetadata": (
        ("name", "string"),
        ("description", "string"),
        ("version", "string"),
        ("subgraph_metadata", ["SubGraphMetadata"]),
        ("author", "string"),
        ("license", "string"),
        ("associated_files", ["AssociatedFile"]),
        ("min_parser_version", "string"),
    ),
    "SubGraphMetadata": (
        ("name", "string"),
        ("description", "string"),
        ("input_tensor_metadata", ["TensorMetadata"]),
        ("output_tensor_metadata", ["TensorMetadata"]),
        ("associated_files", ["AssociatedFile"]),
        ("input_process_units", ["ProcessUnit"]),
        ("output_process_units", ["ProcessUnit"]),
        ("input_tensor_groups", None),
        ("output_tensor_groups", None),
        ("custom_metadata", ["CustomMetadata"]),
    ),
    "TensorMetadata": (
        ("name", "string"),
        ("description", "string"),
        ("dimension_names", ["string"]),
        ("content", "Content"),
        ("process_units", ["ProcessUnit"]),
        ("stats", "Stats"),
        ("associated_files", ["AssociatedFile"]),
    ),
    "AssociatedFile": (("name", "string"), ("description", "string"), ("type", "byte")),
    "Content": (
        ("content_properties_type", "byte"),
        ("content_properties", {1: "FeatureProperties", 2: "ImageProperties"}),
        ("range", "ValueRange"),
    ),
    "FeatureProperties": (),
    "ImageProperties": (("color_space", "byte"),),
    "ValueRange": (("min", "int"), ("max", "int")),
    "ProcessUnit": (("options_type", "byte"), ("options", {1: "NormalizationOptions"})),
    "NormalizationOptions": (("mean", "floats"), ("std", "floats")),
    "Stats": (("max", "floats"), ("min", "floats")),
    "CustomMetadata": (("name", "string"), ("data", "bytes")),
    "ImageSegmenterOptions": (("activation", "byte"), ("min_parser_version", "string")),
}


def pack(table, fields, identifier):
    """A flatbuffer with the table as its root.

    Args:
        table: name of one of TABLES.
        fields: {field: value}; a table is a dict itself, a vector a list. Fields may be left out.
        identifier: bytes [4], the schema's file identifier.
    Returns:
        bytes.
    """
    builder = flatbuffers.Builder(1024)
    builder.Finish(_put(builder, table, fields), file_identifier=identifier)
    return bytes(builder.Output())


def _put(builder, kind, value):
    """Write what is no number; returns its offset. Parts come before the whole."""
    if kind == "string":
        return builder.CreateString(value, "utf-8", "replace")
    if kind == "floats":
        return builder.CreateNumpyVector(np.array(value, np.float32))
    if kind == "bytes":
        builder.StartVector(1, len(value), 16)  # force_align
        builder.head = builder.Head() - len(value)
        builder.Bytes[builder.Head() : builder.Head() + len(value)] = value
        return builder.EndVector()
    if isinstance(kind, list):
        parts = [_put(builder, kind[0], part) for part in value]
        builder.StartVector(4, len(parts), 4)
        for part in reversed(parts):
            builder.PrependUOffsetTRelative(part)
        return builder.EndVector()
    return _put_table(builder, kind, value)


def _put_table(builder, table, fields):
    slots = {}
    for slot, (name, kind) in enumerate(TABLES[table]):
        if isinstance(kind, dict):
            kind = kind[fields[TABLES[table][slot - 1][0]]]
        if name in fields:
            slots[slot] = kind, fields[name] if kind in ("byte", "int") else _put(builder, kind, fields[name])
    builder.StartObject(len(TABLES[table]))
    for slot, (kind, value) in slots.items():
        if kind == "byte":
            builder.PrependInt8Slot(slot, value, 0)
        elif kind == "int":
            builder.PrependInt32Slot(slot, value, 0)
        else:
            builder.PrependUOffsetTRelativeSlot(slot, value, 0)
    return builder.EndObject()


def unpack(table, buffer):
    """The fields that a flatbuffer with the table as its root holds, as for `pack`. Numbers are always there.

    Raises:
        Exception: of any kind, where the buffer is damaged.
    """
    start = int.from_bytes(bytes(buffer[:4]), "little")
    return _get_table(table, Table(buffer, start))


def _get_table(table, place):
    fields = {}
    for slot, (name, kind) in enumerate(TABLES[table]):
        offset = place.Offset(4 + 2 * slot)
        if isinstance(kind, dict):
            kind = kind.get(fields.get(TABLES[table][slot - 1][0]))
        if kind in ("byte", "int"):
            flags = number_types.Int8Flags if kind == "byte" else number_types.Int32Flags
            fields[name] = place.Get(flags, place.Pos + offset) if offset else 0
        elif offset and kind is not None:
            fields[name] = _get(kind, place, offset)
    return fields


def _get(kind, place, offset):
    if kind == "string":
        return place.String(place.Pos + offset).decode("utf-8", "replace")
    if kind == "floats":
        return place.GetVectorAsNumpy(number_types.Float32Flags, offset).tolist()
    if kind == "bytes":
        return place.GetVectorAsNumpy(number_types.Uint8Flags, offset).tobytes()
    if not isinstance(kind, list):
        return _get_table(kind, Table(place.Bytes, place.Indirect(place.Pos + offset)))
    places = range(place.Vector(offset), place.Vector(offset) + 4 * place.VectorLen(offset), 4)
    if kind == ["string"]:
        return [place.String(where).decode("utf-8", "replace") for where in places]
    return [_get_table(kind[0], Table(place.Bytes, place.Indirect(where))) for where in places]
