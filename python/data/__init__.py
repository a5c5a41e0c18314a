"""Reading data folders in any layout, and the built-in synthetic data set. Each step of reading has a file.

The result is always a Dataset.

The package has many small modules: one for each step of reading (files, tables, ids, interactions, split, features) and
one for each kind of file.

>>> from mmssl_trainer.data import synthetic  # or load(FOLDER)
>>> data = synthetic(n_users=50, n_items=40)
>>> data.train.shape, data.modalities
((50, 40), ['image', 'text'])
"""

from ..errors import InputError
from .dataset import SPLITS, Dataset
from .layouts import LAYOUTS
from .load import load
from .report import summarise
from .synthetic import synthetic
from .write import write_plain

__all__ = ["LAYOUTS", "SPLITS", "Dataset", "InputError", "load", "summarise", "synthetic", "write_plain"]
