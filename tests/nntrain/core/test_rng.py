"""Seeding, and saving and restoring the states of random generators."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, TensorDataset

from nntrain.core.rng import generators_of, kept_rng, rng_state, seed_everything, set_rng_state

DATASET = TensorDataset(torch.arange(8))


def draw() -> tuple[float, float, float]:
    return random.random(), float(np.random.rand()), torch.rand(1).item()


def shuffled(seed: int = 0) -> DataLoader[Any]:
    return DataLoader(DATASET, shuffle=True, generator=torch.Generator().manual_seed(seed))


def order_of(loader: DataLoader[Any]) -> list[int]:
    return [int(batch[0]) for batch in loader]


@pytest.mark.parametrize("seed", [0, 1, 2**32 + 1, -1])
def test_the_same_seed_gives_the_same_numbers(seed: int) -> None:
    seed_everything(seed)
    first = draw()
    seed_everything(seed)
    assert draw() == first


def test_another_seed_gives_other_numbers() -> None:
    seed_everything(0)
    first = draw()
    seed_everything(1)
    assert all(one != other for one, other in zip(draw(), first, strict=True))


@pytest.mark.parametrize(
    ("make", "count"),
    [
        (lambda gen: [1, 2], 0),
        (lambda gen: DataLoader(DATASET), 0),
        (lambda gen: DataLoader(DATASET, shuffle=True, generator=gen), 1),
        (lambda gen: DataLoader(DATASET, sampler=RandomSampler(DATASET, generator=gen)), 1),
        (
            lambda gen: DataLoader(
                DATASET, batch_sampler=BatchSampler(RandomSampler(DATASET, generator=gen), 2, False)
            ),
            1,
        ),
    ],
    ids=["list", "in order", "shuffled", "sampler", "batch sampler"],
)
def test_each_generator_of_a_loader_is_found_once(make: Any, count: int) -> None:
    gen = torch.Generator()
    assert generators_of(make(gen)) == [gen] * count


def test_a_restored_state_gives_the_same_numbers_and_order() -> None:
    loader = shuffled()
    order_of(loader), draw()
    state = rng_state([loader])
    expected = order_of(loader), draw()
    order_of(loader), draw()
    set_rng_state(state, [loader])
    assert (order_of(loader), draw()) == expected


def test_a_state_survives_a_file_without_pickled_code(tmp_path: Path) -> None:
    loader = shuffled()
    np.random.standard_normal()
    torch.save(rng_state([loader]), tmp_path / "state.pt")
    expected = order_of(loader), draw(), np.random.standard_normal()
    set_rng_state(torch.load(tmp_path / "state.pt", weights_only=True), [loader])
    assert (order_of(loader), draw(), np.random.standard_normal()) == expected


def test_kept_rng_leaves_every_generator_as_it_was() -> None:
    loader, same = shuffled(), shuffled()
    state = rng_state()
    expected = draw()
    set_rng_state(state)
    with kept_rng([loader]):
        draw()
        order_of(loader)
    assert draw() == expected
    assert order_of(loader) == order_of(same)


@kept_rng()
def draw_and_fail() -> None:
    draw()
    raise OSError("inside")


def test_kept_rng_restores_after_an_error() -> None:
    state = rng_state()
    expected = draw()
    set_rng_state(state)
    with pytest.raises(OSError, match="inside"):
        draw_and_fail()
    assert draw() == expected


def test_kept_rng_accepts_an_iterator_of_loaders() -> None:
    loader, same = shuffled(), shuffled()
    with kept_rng(iter([loader])):
        order_of(loader)
    assert order_of(loader) == order_of(same)
