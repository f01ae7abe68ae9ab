from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, TensorDataset

from nntrain.core.rng import generators_of
from nntrain.data import DataLoaders, TensorLoader, Unlabelled, autoencode

X, Y = torch.arange(6.0).view(3, 2), torch.arange(3)


@pytest.mark.parametrize(
    ("batch", "n_inp", "expected"),
    [
        ((X, Y), None, (X,)),
        ([X, Y], None, (X,)),
        ((X, X + 1, Y), None, (X, X + 1)),
        ((X, Y, Y), 1, (X,)),
        (X, None, (X,)),
        ({"x": X, "label": Y}, None, {"x": X}),
    ],
)
def test_the_inputs_are_kept_and_the_labels_are_removed(
    batch: Any, n_inp: int | None, expected: Any
) -> None:
    (out,) = Unlabelled([batch], n_inp)
    torch.testing.assert_close(out, expected)


def test_the_length_is_that_of_the_loader() -> None:
    assert len(Unlabelled([(X, Y)] * 3)) == 3


def test_a_loader_without_length_stays_without_length() -> None:
    def stream() -> Iterator[Any]:
        yield X, Y

    with pytest.raises(TypeError, match="generator has no length"):
        len(Unlabelled(stream()))


GENERATOR = torch.Generator()
DATASET = TensorDataset(X, Y)
SAMPLER = RandomSampler(DATASET, generator=GENERATOR)


@pytest.mark.parametrize(
    "loader",
    [
        pytest.param(DataLoader(DATASET, shuffle=True, generator=GENERATOR), id="of the loader"),
        pytest.param(DataLoader(DATASET, sampler=SAMPLER, batch_size=None), id="of its sampler"),
        pytest.param(
            DataLoader(DATASET, batch_sampler=BatchSampler(SAMPLER, 2, False)),
            id="of its batch sampler's sampler",
        ),
        pytest.param(
            TensorLoader(X, Y, shuffle=True, generator=GENERATOR), id="of a tensor loader"
        ),
    ],
)
def test_a_checkpoint_finds_the_generators_of_its_loader(loader: Any) -> None:
    assert generators_of(Unlabelled(loader)) == generators_of(loader) == [GENERATOR]


def test_autoencode_removes_the_labels_from_both_loaders() -> None:
    dls = autoencode(DataLoaders([(X, Y, Y)], [(X, Y, Y)] * 2, n_inp=1))
    assert dls.valid is not None
    assert [len(list(dls.train)), len(list(dls.valid))] == [1, 2]
    assert [len(batch) for batch in (*dls.train, *dls.valid)] == [1, 1, 1]
    assert dls.n_inp is None
    assert autoencode(DataLoaders([(X, Y)])).valid is None
