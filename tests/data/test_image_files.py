"""Every kind of image and mask file, read by Pillow and inside tf.data, to the same pixels."""

import struct
from dataclasses import replace

import numpy as np
import pytest
import tensorflow as tf
from handmade import LABELS, cut, encoded, exif, indices, picture, png, save
from PIL import ExifTags, Image, ImageOps

from kseg.data.files import image_size, read_image, read_mask
from kseg.data.headers import GREY, JPEG, PILLOW, PNG, image_route, mask_route
from kseg.data.sources import FileSource
from kseg.errors import InputError
from kseg.labels import LabelSet

IMAGE = picture(37, 41)
GREY_IMAGE = IMAGE[..., 0]
ALPHA = np.concatenate([IMAGE, np.full((37, 41, 1), 128, np.uint8)], axis=2)
WIDE = np.arange(37 * 41, dtype=np.uint16).reshape(37, 41) * 43


def _palette_image():
    return Image.fromarray(IMAGE).quantize(16)


# name -> (write(path), expected pixels or None, route, grey values that an image may be off)
IMAGES = {
    "rgb.png": (lambda p: save(p, IMAGE), IMAGE, PNG, 0),
    "grey.png": (lambda p: save(p, GREY_IMAGE), np.repeat(GREY_IMAGE[..., None], 3, 2), PNG, 0),
    "rgb.jpg": (lambda p: save(p, IMAGE, quality=98), IMAGE, JPEG, 30),
    "subsampled.jpg": (lambda p: save(p, IMAGE, quality=90, subsampling=2), IMAGE, JPEG, 60),
    "progressive.jpg": (lambda p: save(p, IMAGE, quality=98, progressive=True), IMAGE, JPEG, 30),
    "grey.jpg": (lambda p: save(p, GREY_IMAGE, quality=98), np.repeat(GREY_IMAGE[..., None], 3, 2), JPEG, 10),
    "cmyk.jpg": (lambda p: Image.fromarray(IMAGE).convert("CMYK").save(p, quality=98), IMAGE, PILLOW, 40),
    "upright.jpg": (lambda p: save(p, IMAGE, quality=98, exif=exif(1)), IMAGE, JPEG, 30),
    "palette.png": (lambda p: _palette_image().save(p), np.array(_palette_image().convert("RGB")), PILLOW, 0),
    "rgba.png": (lambda p: save(p, ALPHA), (IMAGE.astype(int) + 255) // 2, PILLOW, 1),
    "grey16.png": (lambda p: save(p, WIDE), np.repeat(np.round(WIDE / 257)[..., None], 3, 2), PILLOW, 0),
    "grey16.tif": (lambda p: save(p, WIDE), np.repeat(np.round(WIDE / 257)[..., None], 3, 2), PILLOW, 0),
    "rgb.bmp": (lambda p: save(p, IMAGE), IMAGE, PILLOW, 0),
    "rgb.webp": (lambda p: save(p, IMAGE, lossless=True), IMAGE, PILLOW, 0),
    "rgb.tif": (lambda p: save(p, IMAGE), IMAGE, PILLOW, 0),
}


@pytest.mark.parametrize("name", IMAGES)
def test_every_kind_of_image_is_read_as_it_looks(name, tmp_path):
    write, expected, route, tolerance = IMAGES[name]
    path = tmp_path / name
    write(path)
    image = read_image(path)
    assert image.dtype == np.uint8
    assert image.shape == (37, 41, 3)
    assert np.abs(image.astype(int) - expected).max() <= tolerance
    assert image_route(path) == route
    assert image_size(path) == (37, 41)


def _in_tf(images, masks, labels=LABELS):
    source = FileSource(labels, images, masks)
    return source, list(tf.data.Dataset.range(len(images)).map(source.read).as_numpy_iterator())


def test_tensorflow_reads_the_same_pixels(tmp_path):
    paths = [tmp_path / name for name in IMAGES]
    for path in paths:
        IMAGES[path.name][0](path)
    mask = save(tmp_path / "mask.png", indices(37, 41))
    source, samples = _in_tf(paths, [mask] * len(paths))
    for number, (image, label) in enumerate(samples):
        np.testing.assert_array_equal(image, read_image(paths[number]), err_msg=paths[number].name)
        np.testing.assert_array_equal(label, source.load(number)[1])


@pytest.mark.parametrize("turn", range(1, 9))
def test_exif_orientation(turn, tmp_path):
    path = save(tmp_path / "photo.jpg", IMAGE, quality=98, exif=exif(turn))
    expected = np.array(ImageOps.exif_transpose(Image.open(path)))
    np.testing.assert_array_equal(read_image(path), expected)
    assert image_route(path) == (JPEG if turn == 1 else PILLOW)
    assert image_size(path) == expected.shape[:2]
    mask = save(tmp_path / "mask.png", indices(*expected.shape[:2]))
    _, samples = _in_tf([path], [mask])
    np.testing.assert_array_equal(samples[0][0], expected)


@pytest.mark.parametrize("name", ["photo.png", "photo.webp", "photo.tif"])
def test_exif_orientation_of_other_formats(name, tmp_path):
    options = {"lossless": True} if name.endswith("webp") else {}
    path = save(tmp_path / name, IMAGE, exif=exif(6), **options)
    np.testing.assert_array_equal(read_image(path), np.rot90(IMAGE, -1))
    assert image_route(path) == PILLOW
    assert image_size(path) == (41, 37)


def test_a_turned_mask_of_16_bits(tmp_path):
    mask = indices(6, 9).astype(np.uint16) * 300
    path = save(tmp_path / "mask.png", mask, exif=exif(6))
    np.testing.assert_array_equal(read_mask(path, LABELS)[0], np.rot90(mask, -1))


@pytest.mark.parametrize("turn", range(1, 9))
@pytest.mark.parametrize("masks", ["index", "colour"])
def test_masks_are_turned_as_images_are(masks, turn, tmp_path):
    labels, mask = replace(LABELS, masks=masks), indices(6, 9)
    path = save(tmp_path / "mask.png", mask if masks == "index" else labels.to_colours(mask), exif=exif(turn))
    with Image.open(path) as image:
        expected = np.array(ImageOps.exif_transpose(image))
    if masks == "colour":
        expected = labels.from_colours(expected)[0]
    np.testing.assert_array_equal(read_mask(path, labels)[0], expected)
    image = save(tmp_path / "image.png", picture(*expected.shape))
    np.testing.assert_array_equal(_in_tf([image], [path], labels)[1][0][1], expected)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")  # Pillow says so itself
def test_damaged_exif_does_not_matter(tmp_path):
    path = save(tmp_path / "photo.jpg", IMAGE, quality=98, exif=b"Exif\0\0MM\0*garbage")
    assert read_image(path).shape == IMAGE.shape


def test_png_transparency_chunk(tmp_path):
    path = tmp_path / "see-through.png"
    path.write_bytes(png(8, 0, [bytes([7, 200])], 2, chunks=[(b"tRNS", b"\0\7")]))
    assert image_route(path) == PILLOW
    np.testing.assert_array_equal(read_image(path)[0, :, 0], [255, 200])


def test_transparency_chunk_of_16_bits(tmp_path):
    path = tmp_path / "see-through.png"
    path.write_bytes(png(16, 0, [b"\1\7\xff\0"], 2, chunks=[(b"tRNS", b"\1\7")]))
    np.testing.assert_array_equal(read_image(path)[0, :, 0], [255, 254])


def test_grey_of_16_bits_as_pgm(tmp_path):
    (tmp_path / "wide.pgm").write_bytes(b"P5 41 37 65535\n" + WIDE.astype(">u2").tobytes())
    np.testing.assert_array_equal(read_image(tmp_path / "wide.pgm")[..., 1], (WIDE.astype(int) + 128) // 257)


def test_trailing_bytes_do_no_harm(tmp_path):
    path = save(tmp_path / "phone.jpg", IMAGE, quality=98)
    whole = read_image(path)
    path.write_bytes(path.read_bytes() + b"\0" * 1000)
    _, samples = _in_tf([path], [save(tmp_path / "mask.png", indices(37, 41))])
    np.testing.assert_array_equal(samples[0][0], whole)


def test_palette_masks_give_indices(tmp_path):
    mask = indices(9, 7)
    image = Image.fromarray(mask, mode=None).convert("P")
    image.putpalette([200, 0, 0, 0, 200, 0, 200, 0, 0])  # classes 0 and 2 have the same colour
    image.save(tmp_path / "mask.png")
    label, inexact = read_mask(tmp_path / "mask.png", LABELS)
    assert label.dtype == np.int32
    assert inexact == 0
    np.testing.assert_array_equal(label, mask)
    assert mask_route(tmp_path / "mask.png") == PILLOW


@pytest.mark.parametrize(("depth", "row", "expected"), [(1, b"\x50", [0, 1, 0, 1]), (2, b"\x1b", [0, 1, 2, 3])])
def test_narrow_grey_masks_are_not_stretched(depth, row, expected, tmp_path):
    path = tmp_path / "mask.png"
    path.write_bytes(png(depth, 0, [row], 4))
    np.testing.assert_array_equal(read_mask(path, LABELS)[0], [expected])
    assert mask_route(path) == PILLOW


def test_four_bit_mask(tmp_path):
    path = tmp_path / "mask.png"
    path.write_bytes(png(4, 0, [b"\x01\x23\x4f"], 6))
    np.testing.assert_array_equal(read_mask(path, LABELS)[0], [[0, 1, 2, 3, 4, 15]])


@pytest.mark.parametrize("kind", ["L", "P", "I;16"])
def test_masks_with_numbers_of_their_own(kind, tmp_path):
    """In both readers; only the 8-bit grey ones are TensorFlow's."""
    labels = LabelSet.from_dict({**LabelSet.numbered(2).to_dict(), "values": [3, [7, 9]], "ignore": 0})
    pixels = np.array([[0, 3, 7], [9, 3, 0]], np.uint16 if kind == "I;16" else np.uint8)
    mask = Image.fromarray(pixels)
    if kind == "P":
        mask.putpalette([200, 0, 0] * 256)
    mask.save(tmp_path / "mask.png")
    save(tmp_path / "image.png", picture(2, 3))
    source = FileSource(labels, [tmp_path / "image.png"], [tmp_path / "mask.png"])
    expected = [[255, 0, 1], [1, 0, 255]]
    assert source.load(0)[1].tolist() == expected
    assert tf.function(source.read)(tf.constant(0, tf.int64))[1].numpy().tolist() == expected
    box = tf.constant([0, 1, 2, 2])
    assert tf.function(lambda i: source.open(i)[1](box))(tf.constant(0, tf.int64))[1].numpy().tolist() == [
        [0, 1],
        [0, 255],
    ]


def test_sixteen_bit_masks(tmp_path):
    labels = LabelSet.numbered(3, ignore=65535)
    mask = np.array([[0, 1], [2, 65535]], np.uint16)
    path = save(tmp_path / "mask.png", mask)
    np.testing.assert_array_equal(read_mask(path, labels)[0], mask)


def _tiff(path, mask, **tags):
    Image.fromarray(mask).save(path, tiffinfo={getattr(ExifTags.Base, name): value for name, value in tags.items()})


def _ppm(magic, values, greatest):
    return b"%s # a comment\n2 2\n%d\n%s" % (magic, greatest, bytes(values))


CHANGED = {
    "colour of 16 bits": ("png", lambda p: p.write_bytes(png(16, 2, [b"\0\1" * 3 + b"\0\2" * 3], 2))),
    "grey of 16 bits with alpha": ("png", lambda p: p.write_bytes(png(16, 4, [b"\0\1\xff\xff" * 2], 2))),
    "values up to 1": ("pgm", lambda p: p.write_bytes(_ppm(b"P5", (0, 1, 1, 0), 1))),
    "values up to 20": ("pgm", lambda p: p.write_bytes(_ppm(b"P5", (0, 1, 2, 20), 20))),
    "black is 1": ("pgm", lambda p: p.write_bytes(b"P4\n2 2\n\x40\x80")),
    "0 is white": ("tif", lambda p: _tiff(p, indices(4, 4), PhotometricInterpretation=0)),
}


@pytest.mark.parametrize("kind", CHANGED)
def test_masks_whose_indices_would_change_are_refused(kind, tmp_path):
    suffix, write = CHANGED[kind]
    path = tmp_path / f"mask.{suffix}"
    write(path)
    with pytest.raises(InputError, match=rf"mask\.{suffix}: decoding would change its indices .*save masks as PNG"):
        read_mask(path, LABELS)


def test_masks_of_other_formats(tmp_path):
    mask = indices(5, 6)
    for name in ("mask.tif", "mask.pgm", "mask.bmp"):
        np.testing.assert_array_equal(read_mask(save(tmp_path / name, mask), LABELS)[0], mask)
    wide = mask.astype(np.uint16) * 300
    np.testing.assert_array_equal(read_mask(save(tmp_path / "wide.tif", wide), LABELS)[0], wide)
    (tmp_path / "wide.pgm").write_bytes(b"P5 6 5 65535\n" + wide.astype(">u2").tobytes())
    np.testing.assert_array_equal(read_mask(tmp_path / "wide.pgm", LABELS)[0], wide)
    Image.fromarray(mask == 1).save(tmp_path / "bits.tif")
    np.testing.assert_array_equal(read_mask(tmp_path / "bits.tif", LABELS)[0], mask == 1)


@pytest.mark.parametrize(("bits", "packed"), [(2, b"\x1b"), (4, b"\x01\x23")])
def test_narrow_tiff_masks_are_not_stretched(bits, packed, tmp_path):
    tags = [(256, 4), (257, 1), (258, bits), (259, 1), (262, 1), (273, 8), (277, 1), (278, 1), (279, len(packed))]
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    directory = struct.pack("<H", len(tags)) + entries + bytes(4)
    (tmp_path / "mask.tif").write_bytes(struct.pack("<2sHI", b"II", 42, 16) + packed.ljust(8, b"\0") + directory)
    np.testing.assert_array_equal(read_mask(tmp_path / "mask.tif", LABELS)[0], [[0, 1, 2, 3]])


def test_mask_with_three_equal_channels(tmp_path):
    mask = indices(5, 6)
    path = save(tmp_path / "mask.png", np.repeat(mask[..., None], 3, 2))
    np.testing.assert_array_equal(read_mask(path, LABELS)[0], mask)


def test_colour_masks_of_16_and_32_bits(tmp_path):
    labels = LabelSet(("a", "b", "c"), ((0, 0, 0), (128, 128, 128), (255, 255, 255)), None, "colour")
    grey = np.array([[0, 128, 255]], np.uint8)
    for mask in (grey, grey.astype(np.uint16) * 257):
        label, inexact = read_mask(save(tmp_path / "mask.png", mask), labels)
        np.testing.assert_array_equal(label, [[0, 1, 2]])
        assert inexact == 0
    with pytest.raises(InputError, match=r"mask\.tif: 'F' pixels of 32 bits have no known white"):
        read_mask(save(tmp_path / "mask.tif", grey / np.float32(255)), labels)


def test_colour_masks_take_the_nearest_colour(tmp_path):
    labels = replace(LABELS, masks="colour")
    mask = indices(9, 7)
    colours = labels.to_colours(mask)
    colours[0, 0] += 1
    path = save(tmp_path / "mask.png", colours)
    label, inexact = read_mask(path, labels)
    np.testing.assert_array_equal(label, mask)
    assert inexact == 1
    image = save(tmp_path / "image.png", picture(9, 7))
    _, samples = _in_tf([image], [path], labels)
    np.testing.assert_array_equal(samples[0][1], mask)


def test_colours_where_indices_are_wanted(tmp_path):
    path = save(tmp_path / "mask.png", LABELS.to_colours(indices(9, 7)))
    with pytest.raises(InputError, match=r"mask\.png: holds colours.*\"masks\": \"colour\""):
        read_mask(path, LABELS)


def test_jpeg_masks_of_indices_are_refused(tmp_path):
    path = save(tmp_path / "mask.jpg", indices(9, 7))
    with pytest.raises(InputError, match=r"mask\.jpg: JPEG changes the indices"):
        read_mask(path, LABELS)


DAMAGED = {
    "half.jpg": encoded(picture(64, 64), format="JPEG")[:-300],
    "head.jpg": encoded(picture(64, 64), format="JPEG")[:100],
    "half.png": encoded(picture(64, 64), format="PNG")[:-300],
    "empty.png": b"",
    "one.jpg": b"\xff",
    "text.jpg": b"no picture at all" * 100,
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_images_are_named(name, tmp_path):
    path = tmp_path / name
    path.write_bytes(DAMAGED[name])
    with pytest.raises(InputError, match=rf"{name}: does not decode"):
        read_image(path)
    mask = save(tmp_path / "mask.png", indices(64, 64))
    with pytest.raises(tf.errors.OpError, match=name):
        _in_tf([path], [mask])


def test_the_slices_of_a_tiff_are_not_dropped(tmp_path):
    first, *others = (Image.fromarray(picture(20, 24)) for _ in range(5))
    first.save(tmp_path / "volume.tif", save_all=True, append_images=others)
    with pytest.raises(InputError, match=r"volume.tif: holds 5 pictures, of which one would count"):
        read_image(tmp_path / "volume.tif")
    first.save(tmp_path / "preview.tif", save_all=True, append_images=[first.resize((6, 5))])
    np.testing.assert_array_equal(read_image(tmp_path / "preview.tif"), np.asarray(first))


def test_missing_files_are_named(tmp_path):
    with pytest.raises(InputError, match=r"none\.png: no such file"):
        read_image(tmp_path / "none.png")
    mask = save(tmp_path / "mask.png", indices(64, 64))
    with pytest.raises(tf.errors.OpError, match=r"none\.png: no such file"):
        _in_tf([tmp_path / "none.png"], [mask])


def test_damaged_masks_are_named_in_tensorflow(tmp_path):
    image = save(tmp_path / "image.png", picture(64, 64))
    mask = save(tmp_path / "mask.png", indices(64, 64))
    assert mask_route(mask) == GREY
    cut(mask)
    with pytest.raises(tf.errors.OpError, match=r"mask\.png: does not decode"):
        _in_tf([image], [mask])


def test_masks_of_another_size_are_named_in_tensorflow(tmp_path):
    image = save(tmp_path / "image.png", picture(8, 9))
    mask = save(tmp_path / "mask.png", indices(9, 8))
    with pytest.raises(tf.errors.OpError, match=r"another size than its image(.|\n)*mask\.png"):
        _in_tf([image], [mask])


def test_a_picture_of_one_pixel(tmp_path):
    image = save(tmp_path / "image.png", picture(1, 1))
    mask = save(tmp_path / "mask.png", np.array([[2]], np.uint8))
    _, [(pixels, label)] = _in_tf([image], [mask])
    assert pixels.shape == (1, 1, 3)
    assert label.tolist() == [[2]]


def test_floating_point_images_are_refused(tmp_path):
    path = save(tmp_path / "image.tif", np.ones((3, 3), np.float32))
    with pytest.raises(InputError, match=r"image\.tif: 'F' pixels of 32 bits"):
        read_image(path)


PARTS = {
    "444.jpg": {"quality": 90, "subsampling": 0},
    "422.jpg": {"quality": 90, "subsampling": 1},
    "420.jpg": {"quality": 50, "subsampling": 2},
    "progressive.jpg": {"quality": 90, "subsampling": 2, "progressive": True},
    "cmyk.jpg": {"quality": 90},  # decoded by Pillow
    "plain.png": {},
}


@pytest.mark.parametrize("name", PARTS)
def test_a_part_has_the_pixels_of_the_whole(name, tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (19, 23, 3), np.uint8)
    image = Image.fromarray(noise).resize((93, 75)).convert("CMYK" if "cmyk" in name else "RGB")
    image.save(tmp_path / name, **PARTS[name])
    source = FileSource(LABELS, [tmp_path / name], [save(tmp_path / "mask.png", indices(75, 93))])
    whole, label = source.load(0)
    boxes = [(0, 0, 75, 93), (0, 0, 1, 1), (74, 92, 1, 1), (3, 17, 40, 33), (40, 16, 20, 77), (10, 0, 30, 64)]
    boxes += [(i, i + 7, 20, 30 + i) for i in range(1, 17)]
    boxes += [(i, left, 3, 1) for i in range(20) for left in (0, 1, 91, 92)]

    def part(box):
        size, read = source.open(tf.constant(0, tf.int64))
        return size, *read(box)

    for box, (size, seen, seen_label) in zip(boxes, tf.data.Dataset.from_tensor_slices(boxes).map(part), strict=True):
        top, left, height, width = box
        assert size.numpy().tolist() == [75, 93]
        np.testing.assert_array_equal(seen, whole[top : top + height, left : left + width])
        np.testing.assert_array_equal(seen_label, label[top : top + height, left : left + width])
