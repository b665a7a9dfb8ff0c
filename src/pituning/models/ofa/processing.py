"""Texts and pictures together, as the arguments of OFA's `forward`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, final

import numpy as np
from PIL import Image
from transformers import BatchFeature, ProcessorMixin

from pituning.errors import BackboneError
from pituning.models.ofa.image_processing import OfaImageProcessor
from pituning.models.ofa.tokenization import OfaTokenizer


@final
class OfaProcessor(ProcessorMixin):  # type: ignore[misc]
    """A tokenizer and an image processor; `decode` and `batch_decode` are the tokenizer's.

    Args:
        image_processor: of the pictures.
        tokenizer: of the texts.

    Example:
        >>> from tokenizers.pre_tokenizers import ByteLevel
        >>> tokenizer = OfaTokenizer.of_pieces(sorted(ByteLevel.alphabet()), [], codes=0, bins=10)
        >>> processor = OfaProcessor(OfaImageProcessor(size=32), tokenizer)
        >>> batch = processor(text=[" what is it?", " ok"], images=[Image.new("RGB", (8, 8)), None])
        >>> {name: tuple(tensor.shape) for name, tensor in batch.items()}
        {'input_ids': (2, 14), 'attention_mask': (2, 14), 'patch_images': (2, 3, 32, 32), 'patch_masks': (2,)}
        >>> batch["patch_masks"].tolist()
        [True, False]
    """

    def __init__(self, image_processor: OfaImageProcessor, tokenizer: OfaTokenizer) -> None:
        super().__init__(image_processor, tokenizer)

    def __call__(
        self,
        text: str | Sequence[str] | None = None,
        images: Image.Image | Sequence[Image.Image | None] | None = None,
        *,
        return_tensors: str | None = "pt",
        size: int | None = None,
        padding: bool | str = True,
        truncation: bool = False,
        max_length: int | None = None,
    ) -> BatchFeature:
        """One text, or several padded to the longest; one picture each, or None where a text has none.

        `size` is the side of the pictures in this call, instead of the image processor's. `padding`,
        `truncation` and `max_length` are the tokenizer's.

        Returns:
            Of texts `input_ids` and `attention_mask` `[batch, tokens]`; of pictures `patch_images` float32
            `[batch, 3, size, size]` and `patch_masks` bool `[batch]`, False where there is no picture.

        Raises:
            BackboneError: neither texts nor pictures, not as many of both, or as the image processor.
        """
        texts = [text] if isinstance(text, str) else text
        pictures = [images] if isinstance(images, Image.Image) else images
        if texts is None and pictures is None:
            raise BackboneError("there is a text or a picture", "neither", "Pass text=, images= or both.")
        if texts is not None and pictures is not None and len(texts) != len(pictures):
            given = f"{len(texts)} texts and {len(pictures)} pictures"
            fix = "Put None into the list where a text has no picture."
            raise BackboneError("each text has one picture", given, fix)
        data: dict[str, Any] = {}
        if texts is not None:
            options = {"padding": padding, "truncation": truncation, "max_length": max_length}
            data |= self.tokenizer(list(texts), **options)
        if pictures is not None:
            data |= self._patches(pictures, size)
        return BatchFeature(data, tensor_type=return_tensors)

    @property
    def model_input_names(self) -> list[str]:
        """The names in a batch that has all."""
        return [*self.tokenizer.model_input_names, *self.image_processor.model_input_names, "patch_masks"]

    def _patches(self, pictures: Sequence[Image.Image | None], size: int | None) -> dict[str, Any]:
        """A missing picture is black: its patches are masked."""
        blank = Image.new("RGB", (1, 1))
        present = [picture is not None for picture in pictures]
        shown = [blank if picture is None else picture for picture in pictures]
        found = self.image_processor(shown, size=size, return_tensors="np")
        return {"patch_images": found["patch_images"], "patch_masks": np.array(present)}
