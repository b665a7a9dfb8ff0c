"""Pictures as OFA reads them: squares of one size, pixels centred on zero."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, final

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from transformers import BatchFeature
from transformers.image_processing_utils import BaseImageProcessor

from pituning.errors import BackboneError

OFA_MEAN = OFA_STD = (0.5, 0.5, 0.5)
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@final
class OfaImageProcessor(BaseImageProcessor):  # type: ignore[misc]
    """Resizes to a square without keeping the aspect ratio (PIL's bicubic), then (pixel / 255 - mean) / std.

    Args:
        size: side of the square in pixels; the model sees one patch every 16 px.
        image_mean: of red, green and blue, in [0, 1]. OFA uses 0.5 except for ImageNet (`IMAGENET_MEAN`).
        image_std: likewise (`IMAGENET_STD`).
        options: what else a saved processor holds.

    Raises:
        BackboneError: a size below 1, or a mean or deviation that is not three numbers.

    Example:
        >>> white = Image.new("RGB", (30, 20), "white")
        >>> pixels = OfaImageProcessor(size=32)([white, white])["patch_images"]
        >>> pixels.shape, pixels.max().item()
        (torch.Size([2, 3, 32, 32]), 1.0)
    """

    model_input_names = ["patch_images"]  # noqa: RUF012

    def __init__(
        self,
        size: int = 480,
        image_mean: Sequence[float] = OFA_MEAN,
        image_std: Sequence[float] = OFA_STD,
        **options: Any,
    ) -> None:
        options.pop("image_processor_type", None)
        super().__init__(**options)
        faults = []
        for name, value in (("image_mean", image_mean), ("image_std", image_std)):
            if len(value) != 3 or (name == "image_std" and not min(value) > 0):
                above = " above 0" if name == "image_std" else ""
                fix = "Give one for red, green and blue."
                faults.append(BackboneError(f"{name} is three numbers{above}", str(value), fix))
        BackboneError.collect(faults)
        self.size = _side(size)
        self.image_mean = [float(value) for value in image_mean]
        self.image_std = [float(value) for value in image_std]

    def preprocess(
        self,
        images: Image.Image | Sequence[Image.Image],
        size: int | None = None,
        return_tensors: str | None = "pt",
    ) -> BatchFeature:
        """Pixels of one picture or several; `size` for this call instead of the processor's.

        Returns:
            `patch_images`: float32 `[pictures, 3, size, size]`, red, green, blue.

        Raises:
            BackboneError: not a PIL image or a list of them, or a size below 1.
        """
        several = [images] if isinstance(images, Image.Image) else images
        if not isinstance(several, Sequence) or isinstance(several, str) or not several:
            must = "pictures are a PIL image or a list of at least one"
            raise BackboneError(must, _kind(images), "Open files with PIL.Image.open.")
        side = self.size if size is None else _side(size)
        pixels = np.stack([self._pixels(image, side) for image in several])
        return BatchFeature({"patch_images": pixels}, tensor_type=return_tensors)

    def _pixels(self, image: Image.Image, side: int) -> NDArray[np.float32]:
        """`[3, side, side]`, in float32 throughout as the official transform."""
        if not isinstance(image, Image.Image):
            raise BackboneError("a picture is a PIL image", _kind(image), "Open files with PIL.Image.open.")
        square = image.convert("RGB").resize((side, side), Image.Resampling.BICUBIC)
        pixels = np.asarray(square, dtype=np.float32) / np.float32(255)
        mean, deviation = np.array([self.image_mean, self.image_std], dtype=np.float32)
        return np.ascontiguousarray(((pixels - mean) / deviation).transpose(2, 0, 1))


def _side(size: object) -> int:
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
        must = "size is the side of a square in pixels, 1 or more"
        raise BackboneError(must, repr(size), "Give one whole number, such as 480.")
    return size


def _kind(thing: object) -> str:
    return "an empty list" if isinstance(thing, Sequence) and not thing else f"{type(thing).__name__}"
