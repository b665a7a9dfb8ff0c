"""The families of frozen models."""

from pituning.backbones.base import Backbone, Batch
from pituning.backbones.causal import Causal
from pituning.backbones.classifier import Classifier
from pituning.backbones.loading import FAMILIES, load_backbone
from pituning.backbones.matching import Matching
from pituning.backbones.seq2seq import Seq2Seq

__all__ = ["FAMILIES", "Backbone", "Batch", "Causal", "Classifier", "Matching", "Seq2Seq", "load_backbone"]
