"""Pre-training of `ofa-mini`, the small OFA that comes with the package: `python -m pituning.pretrain`."""
