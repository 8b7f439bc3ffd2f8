"""Why an export gave no file."""

from kseg.errors import CheckError


class ExportError(CheckError):
    """No file was written, and none that was there before was touched."""


class ConversionError(ExportError):
    """The converter cannot express the network, or gave a file of another form than asked."""


class ParityError(ExportError):
    """The converted file does not say the same as the Keras model."""
