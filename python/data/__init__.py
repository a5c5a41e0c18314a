"""The trainer's data layer: folders of four layouts and a synthetic catalogue, as one Dataset. It has one file for each
step of reading (files, tables, ids, interactions, splits, features) and for each kind of file.

>>> from mmssl_trainer.data import load, synthetic
>>> data = load("data/tiktok")
>>> data.train.shape, data.modalities, data.notes
"""

from ..errors import InputError
from .dataset import SPLITS, Dataset
from .layouts import LAYOUTS
from .load import load
from .report import summarise
from .synthetic import synthetic
from .write import write_plain

__all__ = ["LAYOUTS", "SPLITS", "Dataset", "InputError", "load", "summarise", "synthetic", "write_plain"]
