"""Saves checkpoints atomically and loads them without executing code from the file."""

from __future__ import annotations

import os
import re
import tempfile
import zipfile
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from nntrain.core.batch import map_tensors
from nntrain.core.callback import Callback
from nntrain.core.optimizer import Optimizer, param_groups
from nntrain.core.rng import generators_of, rng_state, set_rng_state

if TYPE_CHECKING:
    from nntrain.learner import Learner

_PARTIAL = ".part"


class CheckpointError(RuntimeError):
    """A checkpoint is damaged, contains unsafe objects, or does not match the learner."""


# --- files


def write_checkpoint(
    state: Mapping[str, Any], path: str | Path, *, previous: str | Path | None = None
) -> Path:
    """Writes a checkpoint atomically and returns its path.

    After a crash, `path` is either the old file or the complete new file.

    Args:
        state: tensors, numbers and strings, and lists, tuples and dicts of these.
        path: the file to write; its folder is created if needed.
        previous: where to save the old file; must be in the same folder. Ignored if the file system
            does not support hard links.

    Raises:
        CheckpointError: if the file cannot be written, or if `state` contains values that
            `read_checkpoint` would reject. The old file is not changed.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    fd, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=_PARTIAL)
    try:
        with os.fdopen(fd, "wb") as file:
            _write(state, file, path)
        _check_loadable(temporary, path)
        if previous is not None:
            _keep(path, Path(previous))
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)
    return path


def _write(state: Mapping[str, Any], file: Any, path: Path) -> None:
    try:
        torch.save(dict(state), file)
        file.flush()
        os.fsync(file.fileno())
    except (OSError, RuntimeError) as err:  # torch raises RuntimeError if the disk is full
        raise CheckpointError(
            f"{path} could not be written (the previous file is unchanged): {err}"
        ) from err


def _check_loadable(temporary: str, path: Path) -> None:
    # mmap=True reads the names and shapes without reading the tensors
    try:
        torch.load(temporary, map_location="cpu", mmap=True, weights_only=True)
    except Exception as err:  # the exception type depends on the content
        found = re.search(r"GLOBAL (\S+)", str(err))
        what = found.group(1) if found else str(err).splitlines()[0]
        raise CheckpointError(
            f"{path} was not written because it could not be loaded later: the state contains "
            f"{what}, but may contain only tensors, numbers, strings, lists, tuples and dicts."
        ) from err


def _keep(path: Path, previous: Path) -> None:
    # Create a link instead of renaming the file, so that `path` always exists.
    link = previous.with_name(f".{previous.name}{_PARTIAL}")
    link.unlink(missing_ok=True)
    try:
        os.link(path, link)
    except OSError:
        return
    os.replace(link, previous)


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def remove_partial(folder: str | Path) -> None:
    """Removes partial files left by processes that were killed while writing a checkpoint."""
    for leftover in Path(folder).glob(f".*{_PARTIAL}"):
        leftover.unlink(missing_ok=True)


def read_checkpoint(path: str | Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Loads a checkpoint with `weights_only=True`, without executing code from the file.

    Raises:
        FileNotFoundError: if the file does not exist.
        CheckpointError: if the file is damaged (a checksum covers every byte), or contains anything
            other than tensors and plain values.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"The checkpoint {path} does not exist.")
    try:
        _check_sums(path)
        state = torch.load(path, map_location=device, weights_only=True)
    except Exception as err:  # the exception type depends on the kind of damage
        raise CheckpointError(
            f"{path} cannot be loaded: the file is damaged or contains unsafe objects."
        ) from err
    if not isinstance(state, dict) or "model" not in state:
        raise CheckpointError(f"{path} is not a checkpoint: expected a dict with the key 'model'.")
    return state


def _check_sums(path: Path) -> None:
    # torch.load does not verify checksums and would load a file with flipped bits
    with zipfile.ZipFile(path) as archive:
        if (damaged := archive.testzip()) is not None:
            raise zipfile.BadZipFile(f"wrong checksum of {damaged}")


# --- the model and the optimizer


def save_model(learn: Learner, path: str | Path, *, with_opt: bool = True) -> Path:
    """Saves the model, and the optimizer if `with_opt`, atomically; returns the path."""
    state: dict[str, Any] = {"model": learn.model.state_dict()}
    return write_checkpoint(state | (_opt_part(learn.opt) if with_opt else {}), path)


def load_model(
    learn: Learner, path: str | Path, *, with_opt: bool = True, strict: bool = True
) -> Learner:
    """Loads a file written by `save_model` onto the learner's device; returns the learner.

    Args:
        learn: the learner to load into.
        path: the file.
        with_opt: also load the optimizer, if the file contains one.
        strict: require that the file and the model have the same parameters and shapes.

    Raises:
        CheckpointError: if the file does not match the optimizer, or the model if `strict` is set.
    """
    state = read_checkpoint(path, learn.device)
    if strict:
        _check_model(learn.model, state["model"], path)
    if with_opt and "opt" in state:
        _check_opt(learn.opt or learn.create_opt(), state, path)
        load_opt_state(learn.opt, state["opt"])
    learn.model.load_state_dict(state["model"], strict=strict)
    return learn


def opt_state(opt: Optimizer) -> dict[str, Any]:
    """Returns the `state_dict` of an optimizer, or an empty dict if the method is missing."""
    state_dict = getattr(opt, "state_dict", dict)
    state: dict[str, Any] = state_dict()
    return state


def load_opt_state(opt: Any, state: Mapping[str, Any]) -> None:
    """Restores an optimizer state returned by `opt_state`."""
    if state:
        opt.load_state_dict(state)


def _opt_part(opt: Optimizer | None) -> dict[str, Any]:
    return {} if opt is None else {"opt": opt_state(opt), "opt_class": type(opt).__name__}


def _check_model(model: nn.Module, state: Mapping[str, Any], path: str | Path) -> None:
    own = model.state_dict()
    misfits = _misfits(own, state)
    shapes = {
        name: (_shape(state[name]), _shape(value)) for name, value in own.items() if name in state
    }
    wrong = [
        f"{name} {there} instead of {here}"
        for name, (there, here) in shapes.items()
        if there != here
    ]
    if wrong:
        misfits.append(f"wrong shapes: {_few(wrong)}")
    _refuse(misfits, path, "the model")


def _check_opt(opt: Optimizer, state: Mapping[str, Any], path: str | Path) -> None:
    misfits = []
    if state["opt_class"] != type(opt).__name__:
        misfits.append(f"saved with {state['opt_class']}, not {type(opt).__name__}")
    there = [len(group["params"]) for group in state["opt"].get("param_groups", [])]
    here = [len(group["params"]) for group in param_groups(opt)]
    if there != here:
        misfits.append(f"wrong sizes of parameter groups: {there} tensors instead of {here}")
    _refuse(misfits, path, "the optimizer")


def _shape(value: Any) -> tuple[int, ...] | None:
    return tuple(value.shape) if isinstance(value, Tensor) else None


def _misfits(expected: Collection[str], found: Collection[str]) -> list[str]:
    missing = [name for name in expected if name not in found]
    unexpected = [name for name in found if name not in expected]
    lists = (("missing", missing), ("unexpected", unexpected))
    return [f"{words} {_few(names)}" for words, names in lists if names]


def _few(names: list[str], n: int = 3) -> str:
    rest = f" and {len(names) - n} more" if len(names) > n else ""
    return ", ".join(names[:n]) + rest


def _refuse(misfits: Iterable[str], path: str | Path, what: str) -> None:
    if text := "; ".join(misfits):
        raise CheckpointError(f"{path} does not match {what}: {text}.")


# --- the whole learner


def learner_state(learn: Learner) -> dict[str, Any]:
    """Returns the complete training state of a learner.

    The state covers the model, optimizer, gradients, callbacks, counters and random number
    generators. The tensors are not copied, so save the state before training continues.
    """
    return {
        "model": learn.model.state_dict(),
        **_opt_part(learn.opt),
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
    _check_model(learn.model, state["model"], path)
    _check_opt(learn.opt or learn.create_opt(), state, path)
    _refuse(_misfits(_acting(learn), state["callbacks"]), path, "the callbacks")
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
    learn.model.load_state_dict(state["model"])
    load_opt_state(learn.opt, state["opt"])
    _load_grads(learn.model, state["grads"])
    states = {**state["callbacks"], **state["watchers"]}
    for key, cb in _stateful(learn).items():
        if key in states:
            cb.load_state_dict(_on_device(states[key], learn.device))
    learn.train_iter = state["train_iter"]
    learn.pct_train = state["pct_train"] * (state["n_epoch"] / learn.n_epoch)
    set_learner_rng_state(learn, state["rng"])


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
    there = [len(states) for states in rng["loaders"]]
    here = [len(generators_of(loader)) for loader in (learn.dls.train, learn.dls.valid)]
    if there != here:
        misfit = (
            f"the checkpoint has {there} random generators (train, valid), "
            f"but the loaders have {here}"
        )
        _refuse([misfit], path, "the loaders")
