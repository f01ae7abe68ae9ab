"""Loaders without labels, for models that learn to reconstruct their inputs."""

from collections.abc import Iterable, Iterator, Sized
from typing import Any

from nntrain.core.batch import split_batch
from nntrain.data.loaders import DataLoaders


class Unlabelled:
    """Wraps a loader and removes the labels: batches are tuples or mappings of inputs only.

    Args:
        loader: any iterable of batches.
        n_inp: number of inputs in a tuple batch; `None` treats all items except the last as inputs.
    """

    def __init__(self, loader: Iterable[Any], n_inp: int | None = None) -> None:
        self.loader, self.n_inp = loader, n_inp
        # Checkpoints find the random number generators of a loader through these attributes.
        self.generator = getattr(loader, "generator", None)
        self.sampler = getattr(loader, "sampler", None)
        self.batch_sampler = getattr(loader, "batch_sampler", None)

    def __len__(self) -> int:
        if not isinstance(self.loader, Sized):
            raise TypeError(f"The loader of type {type(self.loader).__name__} has no length.")
        return len(self.loader)

    def __iter__(self) -> Iterator[Any]:
        for batch in self.loader:
            inputs, _ = split_batch(batch, self.n_inp)
            yield inputs[0] if isinstance(inputs[0], dict) else inputs


def autoencode(dls: DataLoaders) -> DataLoaders:
    """Removes the labels from both loaders, so the loss compares predictions with inputs."""
    valid = None if dls.valid is None else Unlabelled(dls.valid, dls.n_inp)
    return DataLoaders(Unlabelled(dls.train, dls.n_inp), valid)
