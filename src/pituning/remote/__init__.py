"""Sharing a pool: its experts are pushed to a Hugging Face Hub repository or an fsspec URL, and pulled."""

from pituning.remote.layout import Transfer
from pituning.remote.pulling import pull
from pituning.remote.pushing import push

__all__ = ["Transfer", "pull", "push"]
