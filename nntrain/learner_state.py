"""The state of a fit: what a checkpoint contains, and how it is checked and restored."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from nntrain.checkpoint import (
    CheckpointError,
    check_model,
    check_opt,
    load_opt_state,
    matching,
    misfits_of,
    opt_part,
    refuse,
)
from nntrain.core.batch import map_tensors
from nntrain.core.callback import Callback
from nntrain.core.rng import generators_of, rng_state, set_rng_state

if TYPE_CHECKING:
    from nntrain.learner import Learner


def learner_state(learn: Learner) -> dict[str, Any]:
    """Returns the complete training state of a learner.

    The state covers the model, optimizer, gradients, callbacks, counters and random number
    generators. The tensors are not copied, so save the state before training continues.
    """
    return {
        "model": learn.model.state_dict(),
        **opt_part(learn.opt),
        "grads": {
            name: param.grad
            for name, param in learn.model.named_parameters()
            if param.grad is not None
        },
        "callbacks": {key: cb.state_dict() for key, cb in _acting(learn).items()},
        "watchers": {key: cb.state_dict() for key, cb in _watching(learn).items()},
        "rng": learner_rng_state(learn),
        "n_epoch": learn.n_epoch,
        "train_iter": learn.train_iter,
        "pct_train": learn.pct_train,
    }


def check_learner_state(learn: Learner, state: Mapping[str, Any], path: str | Path) -> None:
    """Checks that a state from `learner_state` matches the learner, without loading it.

    Args:
        learn: the learner.
        state: the state.
        path: the file that the state came from, for error messages.

    Raises:
        CheckpointError: if the model, optimizer, callbacks or loaders do not match, or the state
            contains only a model.
    """
    if "callbacks" not in state:
        raise CheckpointError(
            f"{path} contains a model but no fit to resume: load it with Learner.load."
        )
    _check_kinds(state, path)
    check_model(learn.model, state["model"], path)
    check_opt(learn.opt or learn.create_opt(), state, path)
    refuse(misfits_of(_acting(learn), state["callbacks"]), path, "the callbacks")
    _check_loaders(learn, state["rng"], path)


def load_learner_state(learn: Learner, state: Mapping[str, Any], path: str | Path) -> None:
    """Restores a state returned by `learner_state`; the learner may reuse its tensors.

    Args:
        learn: the learner.
        state: the state.
        path: the file that the state came from, for error messages.

    Raises:
        CheckpointError: if `check_learner_state` fails. The learner is not changed in this case.
    """
    check_learner_state(learn, state, path)
    with matching(path, "the model"):
        learn.model.load_state_dict(state["model"])
        _load_grads(learn.model, state["grads"])
    with matching(path, "the optimizer"):
        load_opt_state(learn.opt, state["opt"])
    states = {**state["callbacks"], **state["watchers"]}
    for key, cb in _stateful(learn).items():
        if key in states:
            with matching(path, f"the callback {key}"):
                cb.load_state_dict(_on_device(states[key], learn.device))
    learn.train_iter = state["train_iter"]
    learn.pct_train = state["pct_train"] * (state["n_epoch"] / learn.n_epoch)
    with matching(path, "the random number generators"):
        set_learner_rng_state(learn, state["rng"])


_KINDS: dict[str, type | tuple[type, ...]] = {
    "model": dict,
    "opt": dict,
    "opt_class": str,
    "grads": dict,
    "callbacks": dict,
    "watchers": dict,
    "rng": dict,
    "n_epoch": int,
    "train_iter": int,
    "pct_train": (int, float),
    "epoch": int,
    "n_done": int,
    "trained": bool,
    "rng_before": dict,
}
"""The entries of a checkpoint that a fit can be resumed from, and their types."""


def _check_kinds(state: Mapping[str, Any], path: str | Path) -> None:
    misfits = [
        f"{key} is {_described(state[key]) if key in state else 'missing'}"
        for key, kind in _KINDS.items()
        if not _is_valid(state.get(key), kind)
    ]
    refuse(misfits, path, "the format of a checkpoint")


def _described(value: Any) -> str:
    return str(value) if isinstance(value, int | float) else f"a {type(value).__name__}"


def _is_valid(value: Any, kind: type | tuple[type, ...]) -> bool:
    is_negative = isinstance(value, int | float) and not value >= 0
    return isinstance(value, kind) and not is_negative


def _on_device(state: Any, device: torch.device) -> Any:
    # MPS does not support float64, so float64 tensors (the learning rates) stay on the CPU
    keeps = torch.float64 if device.type == "mps" else None
    return map_tensors(lambda tensor: tensor if tensor.dtype is keeps else tensor.to(device), state)


def _load_grads(model: nn.Module, grads: Mapping[str, Tensor]) -> None:
    for name, param in model.named_parameters():
        param.grad = grads[name].to(param.device) if name in grads else None


def _stateful(learn: Learner) -> dict[str, Callback]:
    """Returns the callbacks that override `state_dict`, keyed by class name and index."""
    found: dict[str, Callback] = {}
    seen: Counter[str] = Counter()
    for cb in learn.cbs:
        if type(cb).state_dict is not Callback.state_dict:
            name = type(cb).__name__
            found[f"{name}.{seen[name]}"] = cb
            seen[name] += 1
    return found


def _acting(learn: Learner) -> dict[str, Callback]:
    return {key: cb for key, cb in _stateful(learn).items() if not cb.only_watches}


def _watching(learn: Learner) -> dict[str, Callback]:
    return {key: cb for key, cb in _stateful(learn).items() if cb.only_watches}


def learner_rng_state(learn: Learner) -> dict[str, Any]:
    """Returns the state of all random number generators, including those of the data loaders."""
    return rng_state((learn.dls.train, learn.dls.valid))


def set_learner_rng_state(learn: Learner, state: Mapping[str, Any]) -> None:
    """Restores the generator states returned by `learner_rng_state`."""
    set_rng_state(state, (learn.dls.train, learn.dls.valid))


def _check_loaders(learn: Learner, rng: Mapping[str, Any], path: str | Path) -> None:
    with matching(path, "the loaders"):
        there = [len(states) for states in rng["loaders"]]
    here = [len(generators_of(loader)) for loader in (learn.dls.train, learn.dls.valid)]
    if there != here:
        misfit = (
            f"the checkpoint has {there} random generators (train, valid), "
            f"but the loaders have {here}"
        )
        refuse([misfit], path, "the loaders")
