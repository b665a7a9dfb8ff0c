"""OFA as a Hugging Face model; importing this registers it with the Auto classes of transformers."""

from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForSeq2SeqLM,
    AutoProcessor,
    AutoTokenizer,
)

from pituning.models.ofa.beam_search import Constraints, Hypothesis
from pituning.models.ofa.configuration import OfaConfig
from pituning.models.ofa.image_processing import OfaImageProcessor
from pituning.models.ofa.modeling import OfaForConditionalGeneration, OfaModel
from pituning.models.ofa.processing import OfaProcessor
from pituning.models.ofa.tokenization import OfaTokenizer
from pituning.models.ofa.trie import Trie

__all__ = [
    "Constraints",
    "Hypothesis",
    "OfaConfig",
    "OfaForConditionalGeneration",
    "OfaImageProcessor",
    "OfaModel",
    "OfaProcessor",
    "OfaTokenizer",
    "Trie",
]

AutoConfig.register("ofa", OfaConfig)
AutoModel.register(OfaConfig, OfaModel)
AutoModelForSeq2SeqLM.register(OfaConfig, OfaForConditionalGeneration)
AutoTokenizer.register(OfaConfig, tokenizer_class=OfaTokenizer)
AutoImageProcessor.register(OfaConfig, image_processor_classes={"pil": OfaImageProcessor})
AutoProcessor.register(OfaConfig, OfaProcessor)
