"""What the first bytes of an image file tell: whether TensorFlow's own decoders read it as people see it.

tf.io turns palette indices into grey, ignores EXIF orientation and transparency, and knows no TIFF. Such files go
through Pillow; the common ones, which tf.io decodes to the very same pixels, take the faster way.
"""

import struct

from PIL import Image

# Routes. GREY is a PNG whose bytes are the mask's indices.
JPEG, PNG, GREY, PILLOW = "jpeg", "png", "grey", "pillow"

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_ORIENTATION = 0x0112  # EXIF 2.32, table 4
# Start-of-frame markers (ITU-T T.81, table B.1): baseline, extended and progressive Huffman coding.
_FRAMES = (0xC0, 0xC1, 0xC2)


def image_route(path):
    """JPEG or PNG if tf.io decodes this image to the same pixels as Pillow, else PILLOW. Never raises."""
    try:
        with open(path, "rb") as file:
            start = file.read(8)
            if start == _PNG_SIGNATURE:
                return PNG if _png_kind(file) in ((8, 0), (8, 2)) else PILLOW
            if start[:2] == b"\xff\xd8":
                file.seek(2)
                return JPEG if _is_plain_jpeg(file) else PILLOW
    except (OSError, struct.error):
        pass  # Pillow's reader will say what is wrong, and name the file
    return PILLOW


def mask_route(path):
    """GREY if the file is an 8-bit grey PNG, else PILLOW. Never raises."""
    try:
        with open(path, "rb") as file:
            if file.read(8) == _PNG_SIGNATURE and _png_kind(file) == (8, 0):
                return GREY
    except (OSError, struct.error):
        pass  # as above
    return PILLOW


def orientation(exif):
    """The EXIF orientation 1..8 in the bytes of an EXIF block; 1 where it has none or is damaged."""
    if not exif:
        return 1
    block = Image.Exif()
    try:
        block.load(exif)
        value = block.get(_ORIENTATION, 1)
    except Exception:  # a damaged EXIF block raises nearly anything, and is no reason to refuse the picture
        return 1
    return value if value in range(1, 9) else 1


def _png_kind(file):
    """(bit depth, colour type) of a PNG, or None if it has transparency or EXIF (PNG 3rd ed., 5.6 and 11)."""
    file.seek(8)
    kind = None
    while True:
        length, name = struct.unpack(">I4s", file.read(8))
        if name == b"IHDR":
            kind = struct.unpack(">8xBB", file.read(10))
            length -= 10
        if name in (b"tRNS", b"eXIf"):
            return None
        if name == b"IDAT":
            return kind
        file.seek(length + 4, 1)


def _is_plain_jpeg(file):
    """Whether a JPEG is upright and grey or YCbCr; `file` stands behind the start-of-image marker."""
    while True:
        mark, marker, length = struct.unpack(">BBH", file.read(4))
        if mark != 0xFF:
            return False
        if marker in _FRAMES:
            precision, _, _, components = struct.unpack(">BHHB", file.read(6))
            return precision == 8 and components in (1, 3)
        if marker == 0xDA:  # pixels before any frame that we know
            return False
        if marker == 0xE1:
            content = file.read(length - 2)
            if content[:6] == b"Exif\0\0" and orientation(content) != 1:
                return False
        else:
            file.seek(length - 2, 1)
