"""Make our own methods known to PEFT, so that PEFT itself saves, loads and injects them."""

from __future__ import annotations

from peft import PeftConfig
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from peft.tuners.tuners_utils import BaseTuner
from peft.utils import register_peft_method
from peft.utils.peft_types import PeftType


def extend_peft_type(name: str) -> PeftType:
    """Return the `PeftType` member `name`, adding it first if PEFT does not have it.

    PEFT keys its tables by this enumeration and gives no way to extend it. A `str` enumeration is a subclass
    of `str` with tables of its members; a new member is made and entered as `EnumType` does it.
    """
    if name in PeftType.__members__:
        return PeftType[name]
    member = str.__new__(PeftType, name)
    member._name_ = name
    member._value_ = name
    member._sort_order_ = len(PeftType._member_names_)
    member.__objclass__ = PeftType
    setattr(PeftType, name, member)
    PeftType._member_names_.append(name)
    PeftType._member_map_[name] = member
    PeftType._value2member_map_[name] = member
    # What `in` reads since Python 3.13.
    getattr(PeftType, "_hashable_values_", []).append(name)
    return member


def register(name: str, config: type[PeftConfig], tuner: type[BaseTuner]) -> None:
    """Register a method under the upper-case `name`; a second call with the same classes does nothing.

    Raises:
        KeyError: another class already holds that name in PEFT.
    """
    peft_type = extend_peft_type(name)
    if PEFT_TYPE_TO_CONFIG_MAPPING.get(peft_type) is not config:
        register_peft_method(name=name.lower(), config_cls=config, model_cls=tuner, prefix=tuner.prefix)
