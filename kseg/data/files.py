"""Image and mask files -> NumPy arrays: the reference that the TensorFlow path must equal. NumPy and Pillow only.

Images become RGB of 8 bit as a viewer shows them: turned upright by their EXIF orientation, palette colours looked
up, transparent parts on white. 16-bit grey is divided by 257 (65535 -> 255; a camera that uses only 12 of the 16
bits gives dark pictures: stretch them beforehand); of 16-bit colour the upper byte is kept. Of an animation the
first picture counts. A JPEG that was cut short is refused; one whose pixels are damaged inside an otherwise whole
file cannot be told from a good one, because libjpeg goes on and only fills the gap.
"""

import io
import os
import re
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image

from kseg.data.headers import orientation
from kseg.errors import InputError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".webp", ".gif", ".ppm", ".pgm")
# What Pillow's decoders raise for damaged files; none of them names the file.
_DAMAGE = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    EOFError,
    IndexError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)
# A grey or RGB picture of the PNM family: signature, width, height, greatest value; comments may lie between.
_PGM = re.compile(rb"P[2356](?:\s|#[^\n]*\n)+\d+(?:\s|#[^\n]*\n)+\d+(?:\s|#[^\n]*\n)+(\d+)\s")
_GREY_16 = ("I;16", "I;16L", "I;16B", "I;16N")
_COLOURED = ("RGB", "RGBA", "CMYK", "YCbCr", "LAB", "HSV")
_LOSSY = ("JPEG", "MPO")
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def images_in(folder):
    """Paths of the files in a folder that are images by their names, in order, without hidden ones."""
    return sorted(file for file in folder.iterdir() if is_visible(file, IMAGE_SUFFIXES))


def is_visible(path, suffixes):
    """Whether a file's name has one of these endings and does not begin with a dot."""
    return path.suffix.lower() in suffixes and not path.name.startswith(".")


def image_files(paths):
    """The files that paths stand for: of a folder those in it that are images by their names, in order.

    Raises:
        InputError: a folder without images.
    """
    found = []
    for path in map(Path, paths):
        inside = [path]
        if path.is_dir():
            inside = images_in(path)
        if not inside:
            raise InputError(f"{path}: a folder without images")
        found += inside
    return found


def read_image(path, contents=None):
    """Read an image file.

    Args:
        path: any format that Pillow knows: JPEG, PNG, TIFF, BMP, WebP, ...; 8 or 16 bit; grey, palette, RGB, CMYK,
            with or without transparency.
        contents: the file's bytes, where they are not to be read from `path`, which then only names it in errors.
    Returns:
        uint8 [H, W, 3], RGB.
    Raises:
        InputError: no such file, not an image, damaged, or of 32 bits a channel. Names the file.
    """
    image = _in_8_bits(_decode(path, contents), path)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return np.array(image.convert("RGB"))


def read_mask(path, labels, contents=None):
    """Read a mask file.

    Args:
        path: a grey (1 to 16 bits) or palette file of indices, or an RGB file of colours.
        labels: LabelSet; its `masks` says which of the two ("index" or "colour").
        contents: see `read_image`.
    Returns:
        (int32 [H, W] class indices, number of pixels whose colour was not exactly one of the label set's).
    Raises:
        InputError: no such file, damaged, a JPEG of indices, colours where indices are wanted, colours of 32 bits, or
            a file whose indices Pillow changes, such as a TIFF in which 0 is white. Names the file.
    """
    image = _decode(path, contents)
    if labels.masks == "colour":
        return labels.from_colours(np.asarray(_in_8_bits(image, path).convert("RGB")))
    if image.format in _LOSSY:
        raise InputError(f"{path}: JPEG changes the indices of a mask; save masks as PNG")
    return labels.from_values(_indices(image, path, contents)), 0


def read_contents(path):
    """What a mask file holds, where no label set says how it is meant.

    Returns:
        (int32 [H, W] of indices, or uint8 [H, W, 3] of colours; the palette of indices uint8 [n, 3] or None; whether
        the numbers are those that were saved). A JPEG holds colours, also where they are grey.
    Raises:
        InputError: as `read_mask`.
    """
    image = _decode(path, None)
    if image.format in _LOSSY:
        return np.asarray(image.convert("RGB")), None, False
    if image.mode in ("P", "PA"):
        return _indices(image, path, None), np.array(image.getpalette("RGB"), np.uint8).reshape(-1, 3), True
    if image.mode in _COLOURED:
        colours = np.asarray(image.convert("RGB"))
        if (colours != colours[..., :1]).any():
            return colours, None, True
    return _indices(image, path, None), None, True


def image_size(path):
    """(height, width) in pixels as `read_image` would return them, from the header only.

    Raises:
        InputError: no such file, or not an image.
    """
    try:
        with Image.open(path) as image:
            if image.format == "TIFF":
                image.load()  # turns it upright, which Pillow leaves to us for the other formats
            width, height = image.size
            turned = orientation(image.info.get("exif")) >= 5
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file") from error
    except _DAMAGE as error:
        raise InputError(f"{path}: not an image that can be read ({error})") from error
    return (width, height) if turned else (height, width)


def _refuse_stack(image, path):
    """A TIFF may hold all slices of a volume, of which one would count. Those of other sizes are previews."""
    pages = image.n_frames if image.format == "TIFF" else 1
    if pages < 2:
        return
    sizes = []
    for page in range(pages):
        image.seek(page)
        sizes.append(image.size)
    image.seek(0)
    if (alike := sizes.count(sizes[0])) > 1:
        raise InputError(f"{path}: holds {alike} pictures, of which one would count; save each as a file of its own")


def _decode(path, contents):
    """Fully decoded Pillow image, upright."""
    try:
        with Image.open(path if contents is None else io.BytesIO(contents)) as image:
            # Before decoding: Pillow adds what follows the pixels, which the header check does not look at.
            turn = orientation(image.info.get("exif"))
            _refuse_stack(image, path)
            image.load()
            if turn not in _UPRIGHT:
                return image
            upright = image.transpose(_UPRIGHT[turn])
            upright.format = image.format
            return upright
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file") from error
    except PermissionError as error:
        raise InputError(f"{path}: may not be read") from error
    except IsADirectoryError as error:
        raise InputError(f"{path}: is a folder, not an image") from error
    except Image.UnidentifiedImageError as error:
        empty = contents == b"" or (contents is None and os.path.getsize(path) == 0)
        why = "the file is empty" if empty else "it begins like no image format"
        raise InputError(f"{path}: does not decode ({why})") from error
    except _DAMAGE as error:
        raise InputError(f"{path}: does not decode ({error})") from error


def _in_8_bits(image, path):
    """A Pillow image of 16-bit grey as one of 8 bits, others as they are; those of 32 bits are refused."""
    if image.mode in _GREY_16 or (image.mode == "I" and image.format == "PPM"):  # Pillow's mode for a PGM of 16 bits
        grey = np.asarray(image).astype(np.uint32)
        transparent = grey == image.info.get("transparency", -1)
        return Image.fromarray(np.where(transparent, 255, (grey + 128) // 257).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise InputError(f"{path}: {image.mode!r} pixels of 32 bits have no known white; save it with 8 or 16 bits")
    return image


def _indices(image, path, contents):
    """Pillow image of indices -> int32 [H, W]."""
    bits = _stored_bits(image, path, contents)
    if image.mode == "LA":
        image = image.getchannel("L")
    if image.mode == "PA":
        image = image.getchannel("P")
    pixels = np.asarray(image)
    if image.mode in ("RGB", "RGBA"):
        # Some programs write grey as three equal channels; real colours are another thing.
        if (pixels[..., 0] != pixels[..., 1]).any() or (pixels[..., 0] != pixels[..., 2]).any():
            raise InputError(f'{path}: holds colours, not indices; labels.json needs "masks": "colour" for it')
        pixels = pixels[..., 0]
    if pixels.ndim != 2 or image.mode in ("F", "YCbCr", "CMYK", "LAB", "HSV"):
        raise InputError(f"{path}: a mask of indices must be grey or with a palette. Received: {image.mode}")
    if image.mode == "L" and bits < 8:
        # Pillow stretches 2 and 4 bits to 0..255, as a picture needs and a mask does not.
        pixels = pixels // (255 // (2**bits - 1))
    return pixels.astype(np.int32)


def _stored_bits(image, path, contents):
    """Bits a channel of a mask in its file. Raises InputError where Pillow's pixels no longer tell the indices."""
    with open(path, "rb") if contents is None else io.BytesIO(contents) as file:
        start = file.read(1024)
    bits, change = 8, None
    if image.format == "PNG":
        bits = start[24]
    elif image.format == "TIFF":
        bits = image.tag_v2.get(ExifTags.Base.BitsPerSample, (1,))[0]
        if image.tag_v2.get(ExifTags.Base.PhotometricInterpretation) == 0:
            change = "0 is white in it"
    elif image.format == "PPM":
        header = _PGM.match(start)
        bits = {b"255": 8, b"65535": 16}.get(header and header[1])
        if bits is None:
            change = "its values are stretched"
    if bits == 16 and len(image.getbands()) > 1:
        change = "of 16 bits a channel 8 are read"
    if change:
        raise InputError(f"{path}: decoding would change its indices ({change}); save masks as PNG, 8 or 16 bits grey")
    return bits
