"""What pre-training minimises: the loss of the answers, and of what lies under each patch of a picture."""

from __future__ import annotations

from typing import final

from torch import Tensor, nn

from pituning.mini20.scenes import ATTRIBUTES, Scene, Thing
from pituning.models.ofa import OfaForConditionalGeneration
from pituning.models.ofa.modeling import IGNORED
from pituning.pretrain.samples import Mark


def marks_of(scene: Scene, about: Thing | None = None) -> list[Mark]:
    """Everything in a scene, with its shape, colour, pattern and size; `about` is what the text means."""
    return [
        Mark(
            box=thing.box,
            kinds=tuple(values.index(getattr(thing.look, name)) for name, values in ATTRIBUTES.items()),
            meant=None if about is None else thing is about,
        )
        for thing in scene.things
    ]


@final
class Lesson(nn.Module):
    """The model, and a layer that names what each patch shows, from the encoder's last state.

    Answers alone teach where things are too slowly: they say one thing about a picture, this says it of every
    patch (OFA has a dense task too, the codes of hidden patches). The layer is not kept.
    """

    def __init__(self, model: OfaForConditionalGeneration, bins: int) -> None:
        super().__init__()
        self.model = model
        self.sizes = [2, 2, *map(len, ATTRIBUTES.values()), *[bins] * 4]
        self.patches = nn.Linear(model.config.d_model, sum(self.sizes))

    def forward(self, labels: Tensor, patch_labels: Tensor | None = None, **inputs: Tensor) -> Tensor:
        """The mean loss over the answers' tokens, and the patches' mean losses, averaged over the attributes.

        Most places of a batch's labels are padding, whose logits nobody needs.

        Args:
            labels: int64 [b, t], -100 counts for nothing.
            patch_labels: int64 [b, p, 10], as `pituning.pretrain.samples.patch_labels` has them.
            inputs: the model's.
        """
        wanted = labels != IGNORED
        found = self.model(**inputs, labels=labels[wanted][None], logits_at=wanted)
        loss: Tensor = found.loss
        if patch_labels is None or not (patch_labels != IGNORED).any():
            return loss
        features = found.encoder_last_hidden_state[:, : patch_labels.shape[1]]
        parts = self.patches(features).float().split(self.sizes, dim=-1)
        for part, truth in zip(parts, patch_labels.unbind(-1), strict=True):
            if (truth != IGNORED).any():
                dense = nn.functional.cross_entropy(part.flatten(0, 1), truth.flatten(), ignore_index=IGNORED)
                loss = loss + dense / len(parts)
        return loss
