"""Loaders without labels, for models that learn to reproduce their inputs."""

from collections.abc import Iterable, Iterator, Sized
from typing import Any

from nntrain.core.batch import split_batch
from nntrain.data.loaders import DataLoaders


class Unlabelled:
    """The batches of another loader without labels: tuples of inputs, or mappings of inputs.

    Args:
        loader: any iterable of batches.
        n_inp: number of inputs in a tuple batch; `None` means all items but the last.
    """

    def __init__(self, loader: Iterable[Any], n_inp: int | None = None) -> None:
        self.loader, self.n_inp = loader, n_inp
        # Checkpoints find the generators of a loader under these names.
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
    """Returns the loaders without labels, so the loss compares the predictions with the inputs."""
    valid = None if dls.valid is None else Unlabelled(dls.valid, dls.n_inp)
    return DataLoaders(Unlabelled(dls.train, dls.n_inp), valid)
