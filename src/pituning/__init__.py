"""From a folder of adapters to one better adapter, with a reason for every choice (π-Tuning).

Importing this package also teaches PEFT the methods it lacks (bottleneck adapter, self-attention prefix, bias
differences), so that `PeftModel.from_pretrained` loads their adapters, and transformers' Auto classes OFA.
"""

from pituning.backbones import Backbone, load_backbone
from pituning.card import ExpertCard
from pituning.errors import PituningError
from pituning.expert import Expert, attach_expert
from pituning.interpolate import Mixture, TuneConfig, TuneResult, tune
from pituning.methods import BiasConfig, BottleneckConfig, SelfAttentionPrefixConfig
from pituning.mixing import PiConfig
from pituning.pool import Pool
from pituning.predict import (
    FisherConfig,
    Neighbor,
    TaskEmbedding,
    TaskGraph,
    diagonal_fisher,
    embed,
    similarity,
)
from pituning.recipe import pi_tune
from pituning.remote import pull, push
from pituning.result import PiResult
from pituning.task import Example, Task, load_task
from pituning.train import TrainConfig, train_expert

__all__ = [
    "Backbone",
    "BiasConfig",
    "BottleneckConfig",
    "Example",
    "Expert",
    "ExpertCard",
    "FisherConfig",
    "Mixture",
    "Neighbor",
    "PiConfig",
    "PiResult",
    "PituningError",
    "Pool",
    "SelfAttentionPrefixConfig",
    "Task",
    "TaskEmbedding",
    "TaskGraph",
    "TrainConfig",
    "TuneConfig",
    "TuneResult",
    "attach_expert",
    "diagonal_fisher",
    "embed",
    "load_backbone",
    "load_task",
    "pi_tune",
    "pull",
    "push",
    "similarity",
    "train_expert",
    "tune",
]

__version__ = "0.1.0"
