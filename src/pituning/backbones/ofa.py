"""OFA: pictures, text or both in; words, a candidate or a box out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any, final

import torch
from jaxtyping import Float
from PIL.Image import Image
from torch import Tensor, nn

from pituning import metrics
from pituning.backbones.base import Backbone, Batch, answer_nll, is_prompt_learning, pad
from pituning.backbones.texts import longest_input, tell_if_cut
from pituning.errors import BackboneError
from pituning.models.ofa.beam_search import Constraints
from pituning.models.ofa.candidates import CandidatePlan, plan
from pituning.models.ofa.loss import smoothed_losses
from pituning.models.ofa.outputs import OfaEncoderOutput
from pituning.task import Example, Task

PROMPTS = {
    "grounding": ' which region does the text " {text_a} " describe?',
    "image-classification": " what does the image describe?",
    "captioning": " what does the image describe?",
    "vqa": " {text_a}",
    "visual-entailment": ' does the image describe " {text_a} "?',
}
"""OFA's own words for a kind of task that has no prompt."""

DECODED = (
    "input_ids",
    "attention_mask",
    "patch_images",
    "patch_masks",
    "decoder_input_ids",
    "logits_at",
)
"""What a batch holds for the model; the rest is for the loss."""

LONGEST = 1024
"""Tokens of an input, where the model has positions for them."""

ROWS = 64
"""Decoder rows at a time while candidates are scored."""


@final
class Ofa(Backbone):
    """p(answer | picture, text) of OFA (Wang et al., ICML 2022), with its prompts, boxes and tries."""

    family = "seq2seq"
    smooths_labels = True

    def __init__(self, model: nn.Module, processor: Any, *, name: str) -> None:
        super().__init__(model, name=name)
        self.processor, self.tokenizer = processor, processor.tokenizer
        self._plans: dict[tuple[str, ...], CandidatePlan] = {}

    def check(self, task: Task) -> None:
        """Any task whose boxes the vocabulary can write."""
        if task.draws_boxes and not self.tokenizer.bins:
            raise BackboneError(
                "a grounding task needs a tokenizer with box tokens",
                f"{self.name}, which has none",
                "Use another backbone.",
            )

    def collate(self, examples: Sequence[Example], task: Task, *, independent: bool = False) -> Batch:
        """Encoder inputs; what the decoder reads, what it should say, where, and how much that counts."""
        pictures = _pictures(examples)
        sources = self._sources(examples, task)
        padding, end = self.tokenizer.pad_token_id, [self.tokenizer.eos_token_id] * task.decoding.ends
        fed, said, places = [], [], []
        for example, picture, source in zip(examples, pictures, sources, strict=True):
            prompt = self._decoder_prompt(source, task)
            answer = self._answer(example, picture, task) + end
            fed.append(prompt + answer[:-1])
            said.append(answer)
            places.append([*range(len(prompt) - 1, len(fed[-1]))])
        batch = self._encoder_inputs(sources, pictures, task)
        batch["decoder_input_ids"], batch["logits_at"] = pad(fed, padding)[0], pad(places, 0)[0]
        batch["labels"], batch["label_mask"] = pad(said, padding)
        if task.candidates:
            batch["allowed"] = self._allowed(said, task)
        batch["answer_weights"] = torch.tensor([task.answer_weight(example) for example in examples])
        return self.on_device(batch)

    def nll(self, model: nn.Module, batch: Batch) -> Float[Tensor, " batch"]:
        """Summed over the answer's tokens, times the confidence in the answer (VQA)."""
        logits = _logits(model, batch)
        return answer_nll(logits, batch["labels"], batch["label_mask"]) * batch["answer_weights"]

    def loss(self, model: nn.Module, batch: Batch, label_smoothing: float) -> Float[Tensor, " batch"]:
        """`nll`, smoothed over the other candidates' tokens, or over the vocabulary where there are none."""
        if not label_smoothing:
            return self.nll(model, batch)
        logits = _logits(model, batch)
        allowed = None
        if "allowed" in batch:
            spare = logits.new_zeros(*logits.shape[:2], logits.shape[2] + 1, dtype=torch.bool)
            allowed = spare.scatter(2, batch["allowed"], True)[..., :-1]  # the fill lies one past the end
        losses = smoothed_losses(logits, batch["labels"], label_smoothing, allowed=allowed)
        return (losses * batch["label_mask"]).sum(dim=1) * batch["answer_weights"]

    def log_likelihoods(
        self, model: nn.Module, examples: Sequence[Example], task: Task
    ) -> Float[Tensor, "batch candidates"]:
        """Each token's probability is taken among those that the candidates allow in its place."""
        chosen = self._plan(task)
        pictures = _pictures(examples)
        sources = self._sources(examples, task)
        prompts = [self._decoder_prompt(source, task) for source in sources]
        encoded = self._encoded(model, self.on_device(self._encoder_inputs(sources, pictures, task)))
        jobs = [(sample, row) for sample in range(len(examples)) for row in range(len(chosen.rows))]
        found: dict[tuple[int, int], Tensor] = {}
        for start in range(0, len(jobs), ROWS):
            some = jobs[start : start + ROWS]
            fed = [prompts[sample] + chosen.rows[row] for sample, row in some]
            tokens = pad(fed, self.tokenizer.pad_token_id)[0].to(self.device)
            inputs = _rows_of(encoded, torch.tensor([sample for sample, _ in some], device=self.device))
            at = [
                [len(prompts[sample]) - 1 + depth for depth in chosen.depths_of(row)] for sample, row in some
            ]
            wanted = pad(at, 0)[0].to(self.device)
            logits = model(**inputs, decoder_input_ids=tokens, logits_at=wanted, use_cache=False).logits
            for index, (sample, row) in enumerate(some):
                for number, place in enumerate(chosen.places_of(row)):
                    found[sample, place] = chosen.choices(place, logits[index, number])
        places = range(len(chosen.place_row))
        stacked = [torch.stack([found[sample, place] for place in places]) for sample in range(len(examples))]
        return chosen.scores(torch.stack(stacked))

    def generate(self, model: nn.Module, examples: Sequence[Example], task: Task) -> list[str]:
        """Beam search as OFA's, behind the task's decoder prompt; a box as "x0 y0 x1 y1" of 0..999."""
        sources = self._sources(examples, task)
        prompts = [self._decoder_prompt(source, task) for source in sources]
        answers = [""] * len(examples)
        for length in sorted(set(map(len, prompts))):  # prompts go first, so a batch's are of one length
            rows = [row for row, prompt in enumerate(prompts) if len(prompt) == length]
            pictures = _pictures([examples[row] for row in rows])
            inputs = self._encoder_inputs([sources[row] for row in rows], pictures, task)
            start = torch.tensor([prompts[row] for row in rows], device=self.device)
            for row, answer in zip(rows, self._written(model, inputs, start, task), strict=True):
                answers[row] = answer
        return answers

    def _written(self, model: nn.Module, inputs: Batch, start: Tensor, task: Task) -> list[str]:
        """What the search writes behind `start`, int64 [examples, tokens]."""
        decoding, boxes = task.decoding, task.draws_boxes
        least, most = (4, 4) if boxes else (decoding.min_new_tokens, decoding.max_new_tokens)
        generator: Any = model
        output = generator.generate(
            **self.on_device(inputs),
            decoder_input_ids=start,
            constraints=Constraints(),
            num_beams=decoding.num_beams,
            min_new_tokens=least,
            max_new_tokens=most + 1,
            no_repeat_ngram_size=decoding.no_repeat_ngram_size,
            do_sample=False,
        )
        written = output[:, start.shape[1] :].tolist()
        if boxes:
            return [self._box_text(tokens, task) for tokens in written]
        texts: list[str] = self.tokenizer.batch_decode(written, skip_special_tokens=True)
        return [text.strip() for text in texts]

    def _sources(self, examples: Sequence[Example], task: Task) -> list[list[int]]:
        """`<s>`, the prompt, `</s>`."""
        template = task.prompt if task.prompt is not None else PROMPTS.get(task.kind)
        if template is None:
            texts = [" " + task.text(example) for example in examples]
        else:
            texts = [replace(task, prompt=template).text(example) for example in examples]
        longest = longest_input(self.model, self.tokenizer, LONGEST)
        ids: list[list[int]] = self.tokenizer(texts, truncation=True, max_length=longest)["input_ids"]
        tell_if_cut(ids, longest, partial(self.tokenizer, texts, verbose=False))
        return ids

    def _encoder_inputs(
        self, sources: Sequence[Sequence[int]], pictures: Sequence[Image | None], task: Task
    ) -> Batch:
        tokens, mask = pad(sources, self.tokenizer.pad_token_id)
        batch = {"input_ids": tokens, "attention_mask": mask}
        if any(picture is not None for picture in pictures):
            batch |= self.processor(images=pictures, size=self._side(task)[0])
        return batch

    def _decoder_prompt(self, source: list[int], task: Task) -> list[int]:
        """What the decoder reads before the answer."""
        kind = task.decoding.decoder_prompt
        if kind == "none":
            return [self.tokenizer.bos_token_id]
        return source if kind == "src" else source[:-1]

    def _answer(self, example: Example, picture: Image | None, task: Task) -> list[int]:
        """Tokens of the gold answer, without its end."""
        if task.draws_boxes:
            return self._box_tokens(example, picture, task)
        return self._words(task.answer(example))

    def _allowed(self, said: Sequence[list[int]], task: Task) -> Tensor:
        """The tokens that candidates have in each place of the answers, int64 [batch, tokens, most].

        Filled with the size of the vocabulary, which is no token.
        """
        trie = self._plan(task).trie
        found = [[trie.after(tokens[:place]) for place in range(len(tokens))] for tokens in said]
        most = max(len(place) for row in found for place in row)
        config: Any = self.model.config
        filled = torch.full((len(said), max(map(len, said)), most), config.vocab_size)
        for row, places_of_row in enumerate(found):
            for place, tokens in enumerate(places_of_row):
                filled[row, place, : len(tokens)] = torch.tensor(tokens, dtype=torch.long)
        return filled

    def _words(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer(" " + text, add_special_tokens=False)["input_ids"]
        return ids

    def _box_tokens(self, example: Example, picture: Image | None, task: Task) -> list[int]:
        """The corners in pixels of the resized picture, over `box_range`, in float32 as the official code."""
        assert example.bbox is not None
        assert picture is not None
        side, reach = self._side(task)
        sizes = torch.tensor(picture.size * 2, dtype=torch.float64)
        pixels = (torch.tensor(example.bbox, dtype=torch.float64) * sizes).float()
        resized = pixels * (side / sizes).float()
        steps = self.tokenizer.bins - 1
        bins = (resized / reach * steps).round().clamp(0, steps)
        found: list[int] = self.tokenizer.bin_ids(bins.int().tolist())
        return found

    def _box_text(self, tokens: Sequence[int], task: Task) -> str:
        """Four bins as a box in 999ths of the picture; "" where the tokens are none."""
        corners = tokens[:4]
        if len(corners) < 4 or not all(self.tokenizer.is_bin(token) for token in corners):
            return ""
        side, reach = self._side(task)
        unit = reach / side / (self.tokenizer.bins - 1) * metrics.BOX_STEPS
        return " ".join(f"{(token - self.tokenizer.first_bin) * unit:.4f}" for token in corners)

    def _side(self, task: Task) -> tuple[int, int]:
        """Pixels of a picture's side, and those that the last box token stands for.

        A model with positions for fewer patches than the task's size has gets the largest that fits.
        """
        config: Any = self.model.config
        largest = config.image_bucket_size * config.patch_size
        side = task.image_size or self.processor.image_processor.size
        return (side, task.decoding.box_range or side) if side <= largest else (largest, largest)

    def _plan(self, task: Task) -> CandidatePlan:
        texts = tuple(task.candidate_texts[name] for name in task.candidates)
        if texts not in self._plans:
            self._plans[texts] = plan([self._words(text) for text in texts], eos=self.tokenizer.eos_token_id)
        return self._plans[texts]

    def _encoded(self, model: nn.Module, inputs: Batch) -> dict[str, Any]:
        """The encoder's output, run once a sample; its inputs where PEFT must put a prompt before them."""
        if is_prompt_learning(model):
            return dict(inputs)
        own: Any = model
        base = own.get_base_model() if hasattr(model, "get_base_model") else own
        return {"encoder_outputs": base.get_encoder()(**inputs)}


def _pictures(examples: Sequence[Example]) -> list[Image | None]:
    return [example.open_image() if example.image else None for example in examples]


def _logits(model: nn.Module, batch: Batch) -> Float[Tensor, "batch tokens vocabulary"]:
    """Of the answer's tokens alone: a prompt that the decoder reads first may be much longer."""
    inputs = {name: value for name, value in batch.items() if name in DECODED}
    logits: Tensor = model(**inputs, use_cache=False).logits
    return logits


def _rows_of(encoded: dict[str, Any], rows: Tensor) -> dict[str, Any]:
    """The samples `rows` of encoder inputs or of an encoder's output."""
    output = encoded.get("encoder_outputs")
    if output is None:
        return {name: tensor[rows] for name, tensor in encoded.items()}
    return {"encoder_outputs": OfaEncoderOutput(**{name: tensor[rows] for name, tensor in output.items()})}
