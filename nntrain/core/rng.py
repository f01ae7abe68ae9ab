"""Functions to seed, save and restore all random number generators."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


def seed_everything(seed: int) -> None:
    """Seeds the random number generators of Python, NumPy and PyTorch, on all devices."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def generators_of(loader: Any) -> list[torch.Generator]:
    """Returns the distinct generators of a data loader, its sampler and its batch sampler."""
    sampler = getattr(loader, "sampler", None)
    batch_sampler = getattr(loader, "batch_sampler", None)
    owners = (loader, sampler, batch_sampler, getattr(batch_sampler, "sampler", None))
    found = [getattr(owner, "generator", None) for owner in owners]
    return list({id(gen): gen for gen in found if isinstance(gen, torch.Generator)}.values())


def rng_state(loaders: Iterable[Any] = ()) -> dict[str, Any]:
    """Returns the generator states of Python, NumPy, PyTorch and the data loaders."""
    name, keys, pos, has_gauss, cached = np.random.get_state(legacy=True)
    return {
        "python": random.getstate(),
        "numpy": (
            str(name),
            torch.from_numpy(np.asarray(keys).astype(np.int64)),
            int(pos),
            int(has_gauss),
            float(cached),
        ),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "loaders": [[gen.get_state() for gen in generators_of(loader)] for loader in loaders],
    }


def set_rng_state(state: Mapping[str, Any], loaders: Iterable[Any] = ()) -> None:
    """Restores the states returned by `rng_state`; pass the same number of loaders."""
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    name, keys, pos, has_gauss, cached = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), pos, has_gauss, cached))
    torch.set_rng_state(state["torch"])
    for device, cuda_state in enumerate(state["cuda"][: torch.cuda.device_count()]):
        torch.cuda.set_rng_state(cuda_state, device)
    for loader, states in zip(loaders, state["loaders"], strict=True):
        for gen, gen_state in zip(generators_of(loader), states, strict=True):
            gen.set_state(gen_state)


@contextmanager
def kept_rng(loaders: Iterable[Any] = ()) -> Iterator[None]:
    """Context manager that restores all generator states at the end of the block."""
    loaders = list(loaders)
    state = rng_state(loaders)
    try:
        yield
    finally:
        set_rng_state(state, loaders)
