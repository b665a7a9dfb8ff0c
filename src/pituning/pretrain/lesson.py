"""What pre-training minimises: the loss of the answers, and of what is known of each patch and each word."""

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
    """The model, and layers that name what each patch shows and each word is, from the encoder's last state.

    Answers alone teach where things are, and which words of two texts belong together, too slowly: they say
    one thing about a picture, this says it of every patch (OFA has a dense task too, the codes of hidden
    patches). The layers are not kept.
    """

    def __init__(self, model: OfaForConditionalGeneration, bins: int) -> None:
        super().__init__()
        self.model = model
        self.sizes = [2, 2, *map(len, ATTRIBUTES.values()), *[bins] * 4]
        self.patches = nn.Linear(model.config.d_model, sum(self.sizes))
        self.words = nn.Linear(model.config.d_model, 2)

    def forward(
        self,
        labels: Tensor,
        patch_labels: Tensor | None = None,
        word_labels: Tensor | None = None,
        **inputs: Tensor,
    ) -> Tensor:
        """The mean loss of the answers' tokens, plus that of the patches (over their attributes) and words.

        Most places of a batch's labels are padding, whose logits nobody needs.

        Args:
            labels: int64 [b, t], -100 counts for nothing.
            patch_labels: int64 [b, p, 10], as `pituning.pretrain.samples.patch_labels` has them.
            word_labels: int64 [b, s], of the source's tokens, -100 for none.
            inputs: the model's.
        """
        wanted = labels != IGNORED
        found = self.model(**inputs, labels=labels[wanted][None], logits_at=wanted)
        loss: Tensor = found.loss
        features = found.encoder_last_hidden_state  # patches, then tokens
        if patch_labels is not None:
            parts = self.patches(features[:, : patch_labels.shape[1]]).split(self.sizes, dim=-1)
            for part, truth in zip(parts, patch_labels.unbind(-1), strict=True):
                loss = loss + dense_loss(part, truth) / len(parts)
        if word_labels is not None:
            loss = loss + dense_loss(self.words(features[:, -word_labels.shape[1] :]), word_labels)
        return loss


def dense_loss(logits: Tensor, truth: Tensor) -> Tensor:
    """Mean loss over the places that have a label: zero where none has."""
    if not (truth != IGNORED).any():
        return logits.new_zeros(())
    return nn.functional.cross_entropy(logits.flatten(0, 1).float(), truth.flatten(), ignore_index=IGNORED)
