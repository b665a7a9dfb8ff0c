"""OFA (Wang et al., ICML 2022): one encoder-decoder for pictures and text, as a Hugging Face model."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import EncoderDecoderCache, GenerationMixin
from transformers.modeling_outputs import BaseModelOutput, Seq2SeqLMOutput, Seq2SeqModelOutput

from pituning.models.ofa.base import OfaPreTrainedModel
from pituning.models.ofa.beam_search import ofa_search
from pituning.models.ofa.configuration import OfaConfig
from pituning.models.ofa.decoder import OfaDecoder
from pituning.models.ofa.encoder import OfaEncoder
from pituning.models.ofa.outputs import OfaEncoderOutput

FEW = 8
"""Rows up to which a CPU multiplies a large matrix by them several times as fast as them by the matrix."""

IGNORED = -100
"""Labels that count for nothing, as everywhere in transformers."""


class _EncoderDecoder(OfaPreTrainedModel):
    """Encoder and decoder side by side, under the names of official checkpoints; abstract."""

    def __init__(self, config: OfaConfig, *, with_projection: bool) -> None:
        super().__init__(config)
        self.encoder = OfaEncoder(config)
        self.decoder = OfaDecoder(config, with_projection=with_projection)
        tied = {}
        if config.share_all_embeddings:
            tied["decoder.embed_tokens.weight"] = "encoder.embed_tokens.weight"
        if with_projection and config.share_decoder_input_output_embed:
            source = "encoder" if config.share_all_embeddings else "decoder"
            tied["decoder.output_projection.weight"] = f"{source}.embed_tokens.weight"
        self._tied_weights_keys = tied
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """The encoder's token embeddings (the decoder's too, where they are shared)."""
        return self.encoder.embed_tokens

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        """Replace the token embeddings."""
        self.encoder.embed_tokens = value
        if self.config.share_all_embeddings:
            self.decoder.embed_tokens = value

    def _encode_decode(
        self,
        input_ids: Tensor | None,
        decoder_input_ids: Tensor | None,
        decoder_inputs_embeds: Tensor | None,
        attention_mask: Tensor | None,
        decoder_attention_mask: Tensor | None,
        encoder_outputs: OfaEncoderOutput | None,
        code_masks: Tensor | None,
        past_key_values: EncoderDecoderCache | None,
        use_cache: bool | None,
        output_hidden_states: bool | None,
        output_attentions: bool | None,
        **encoder_inputs: Any,
    ) -> Seq2SeqModelOutput:
        shown = {
            "output_hidden_states": bool(output_hidden_states),
            "output_attentions": bool(output_attentions),
        }
        if encoder_outputs is None:
            encoder_outputs = self.encoder(input_ids, attention_mask, **encoder_inputs, **shown)
        decoded = self.decoder(
            decoder_input_ids,
            encoder_outputs,
            attention_mask=decoder_attention_mask,
            inputs_embeds=decoder_inputs_embeds,
            code_masks=code_masks,
            past_key_values=past_key_values,
            use_cache=self.config.use_cache and not self.training if use_cache is None else use_cache,
            **shown,
        )
        return Seq2SeqModelOutput(
            last_hidden_state=decoded.last_hidden_state,
            past_key_values=decoded.past_key_values,
            decoder_hidden_states=decoded.hidden_states,
            decoder_attentions=decoded.attentions,
            cross_attentions=decoded.cross_attentions,
            encoder_last_hidden_state=encoder_outputs.last_hidden_state,
            encoder_hidden_states=encoder_outputs.hidden_states,
            encoder_attentions=encoder_outputs.attentions,
        )


class OfaModel(_EncoderDecoder):
    """Encoder and decoder without the output projection: features of the next tokens.

    Example:
        >>> sizes = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "vocab_size": 32}
        >>> sizes |= {"encoder_attention_heads": 2, "decoder_attention_heads": 2}
        >>> model = OfaModel(OfaConfig(**sizes, image_bucket_size=4, resnet_layers=(1, 1, 1))).eval()
        >>> tokens = torch.tensor([[0, 5, 6, 2]])
        >>> model(input_ids=tokens, decoder_input_ids=tokens[:, :2]).last_hidden_state.shape
        torch.Size([1, 2, 16])
    """

    def __init__(self, config: OfaConfig) -> None:
        super().__init__(config, with_projection=False)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        patch_images: Tensor | None = None,
        patch_masks: Tensor | None = None,
        decoder_input_ids: Tensor | None = None,
        decoder_attention_mask: Tensor | None = None,
        code_masks: Tensor | None = None,
        encoder_outputs: OfaEncoderOutput | None = None,
        past_key_values: EncoderDecoderCache | None = None,
        inputs_embeds: Tensor | None = None,
        decoder_inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> Seq2SeqModelOutput:
        """See `OfaEncoder.forward` and `OfaDecoder.forward` for the arguments."""
        return self._encode_decode(
            input_ids,
            decoder_input_ids,
            decoder_inputs_embeds,
            attention_mask,
            decoder_attention_mask,
            encoder_outputs,
            code_masks,
            past_key_values,
            use_cache,
            output_hidden_states,
            output_attentions,
            patch_images=patch_images,
            patch_masks=patch_masks,
            inputs_embeds=inputs_embeds,
        )


class OfaForConditionalGeneration(_EncoderDecoder, GenerationMixin):  # type: ignore[misc]
    """OFA with its output projection: what the official checkpoints hold, key for key.

    Example:
        >>> sizes = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "vocab_size": 32}
        >>> sizes |= {"encoder_attention_heads": 2, "decoder_attention_heads": 2}
        >>> config = OfaConfig(**sizes, image_bucket_size=4, resnet_layers=(1, 1, 1))
        >>> model = OfaForConditionalGeneration(config).eval()
        >>> picture, text = torch.zeros(1, 3, 64, 64), torch.tensor([[0, 5, 6, 2]])
        >>> model(input_ids=text, patch_images=picture, labels=torch.tensor([[7, 2]])).logits.shape
        torch.Size([1, 2, 32])
    """

    def __init__(self, config: OfaConfig) -> None:
        super().__init__(config, with_projection=True)

    def get_output_embeddings(self) -> nn.Module:
        """The output projection."""
        return self.decoder.output_projection

    def set_output_embeddings(self, value: nn.Linear) -> None:
        """Replace the output projection."""
        self.decoder.output_projection = value

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        patch_images: Tensor | None = None,
        patch_masks: Tensor | None = None,
        decoder_input_ids: Tensor | None = None,
        decoder_attention_mask: Tensor | None = None,
        code_masks: Tensor | None = None,
        labels: Tensor | None = None,
        logits_at: Tensor | None = None,
        encoder_outputs: OfaEncoderOutput | BaseModelOutput | None = None,
        past_key_values: EncoderDecoderCache | None = None,
        inputs_embeds: Tensor | None = None,
        decoder_inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> Seq2SeqLMOutput:
        """Logits [b, t, vocabulary]; with `labels` (int64 [b, t], -100 counts for nothing) the mean loss too.

        Without `decoder_input_ids` the decoder reads the labels, shifted right behind `<s>`. With `logits_at`
        only the logits of some places are computed, and `labels` are theirs: of int64 [b, m], the places of
        each row; of bool [b, t] with n of them true, these n, as [1, n, vocabulary]. See `OfaEncoder.forward`
        and `OfaDecoder.forward` for the other arguments.
        """
        if decoder_input_ids is None and labels is not None:
            decoder_input_ids = self.prepare_decoder_input_ids_from_labels(labels)
        found = self._encode_decode(
            input_ids,
            decoder_input_ids,
            decoder_inputs_embeds,
            attention_mask,
            decoder_attention_mask,
            encoder_outputs,
            code_masks,
            past_key_values,
            False if labels is not None else use_cache,
            output_hidden_states,
            output_attentions,
            patch_images=patch_images,
            patch_masks=patch_masks,
            inputs_embeds=inputs_embeds,
        )
        features = found.last_hidden_state
        if logits_at is not None:
            features = _features_at(features, logits_at)
        logits = self._project(features, step=past_key_values is not None)
        loss = None
        if labels is not None:
            loss = nn.functional.cross_entropy(
                logits.flatten(0, 1).float(), labels.flatten(), ignore_index=IGNORED
            )
        states = {name: value for name, value in found.items() if name != "last_hidden_state"}
        return Seq2SeqLMOutput(loss=loss, logits=logits, **states)

    def _project(self, features: Tensor, *, step: bool) -> Tensor:
        """Features [b, t, d] to logits [b, t, vocabulary].

        The quick way for a step of decoding rounds by where the weights lie in memory, so no other takes it.
        """
        projection = self.decoder.output_projection
        few = features.shape[0] * features.shape[1] <= FEW and features.device.type == "cpu"
        if not (step and few and type(projection) is nn.Linear):
            logits: Tensor = projection(features)
            return logits
        transposed = projection.weight @ features.flatten(0, 1).T
        return transposed.T.reshape(*features.shape[:2], -1)

    @torch.no_grad()
    def generate(self, *args: Any, **options: Any) -> Any:
        """Generate as every transformers model does; beam search is OFA's own.

        Args:
            args: see `GenerationMixin.generate`.
            options: the same, and `constraints` (a trie, forced prefixes ...) and `normalize_scores` of
                `ofa_search`, with which a single beam is a greedy search under constraints.
        """
        config = options.get("generation_config") or self.generation_config
        beams = options.get("num_beams", config.num_beams) or 1
        sampled = options.get("do_sample", config.do_sample)
        if (beams > 1 and not sampled) or {"constraints", "normalize_scores"} & set(options):
            options.setdefault("custom_generate", ofa_search)
        return super().generate(*args, **options)

    def prepare_decoder_input_ids_from_labels(self, labels: Tensor) -> Tensor:
        """The labels shifted right behind `<s>`, padding in the place of -100."""
        config: Any = self.config
        start = torch.full_like(labels[:, :1], config.decoder_start_token_id)
        shifted = torch.cat([start, labels[:, :-1]], dim=1)
        return shifted.masked_fill(shifted == IGNORED, config.pad_token_id)


def _features_at(features: Tensor, places: Tensor) -> Tensor:
    """Features [b, t, d] at `places` as `OfaForConditionalGeneration.forward` takes them."""
    if places.dtype == torch.bool:
        return features[places][None]
    return features.gather(1, places[..., None].expand(-1, -1, features.shape[2]))
