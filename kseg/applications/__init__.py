"""Networks: images -> logits, in the manner of keras.applications."""

from kseg.applications.deeplab import DeepLabV3Plus
from kseg.applications.fcn import FCN8s, FCN16s, FCN32s
from kseg.applications.transplant import Transplant, transplant
from kseg.applications.unet import UNet

__all__ = ["DeepLabV3Plus", "FCN8s", "FCN16s", "FCN32s", "Transplant", "UNet", "transplant"]
