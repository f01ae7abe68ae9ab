"""Data loaders and built-in datasets, which the configs in `conf/data` select with `_target_`."""

from nntrain.data.builtin import diabetes, digits, sine
from nntrain.data.hf import fashion_mnist
from nntrain.data.images import ImageCollate
from nntrain.data.loaders import DataLoaders
from nntrain.data.tensors import TensorLoader
from nntrain.data.unlabelled import Unlabelled, autoencode

__all__ = [
    "DataLoaders",
    "ImageCollate",
    "TensorLoader",
    "Unlabelled",
    "autoencode",
    "diabetes",
    "digits",
    "fashion_mnist",
    "sine",
]
