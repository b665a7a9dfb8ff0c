"""The 20 data sets of the paper: what each asks, and how its official files and usual tables are read."""

from pituning.datasets.definition import Column, Dataset
from pituning.datasets.loading import read_dataset
from pituning.datasets.named import DATASETS, dataset_named

__all__ = ["DATASETS", "Column", "Dataset", "dataset_named", "read_dataset"]
