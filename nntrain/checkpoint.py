"""Checkpoints: written atomically, and read without running code from the file."""

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
    """A checkpoint is damaged, holds unsafe objects, or does not fit the learner."""


# --- files


def write_checkpoint(
    state: Mapping[str, Any], path: str | Path, *, previous: str | Path | None = None
) -> Path:
    """Writes a checkpoint; even after a crash `path` holds the old file or the complete new one.

    Args:
        state: tensors, numbers, strings, and lists, tuples and dicts of them.
        path: the file to write; its folder is created.
        previous: keeps the old file here, in the same folder, if the file system has hard links.

    Raises:
        CheckpointError: if it cannot be written or could not be loaded; the old file stays.
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
    except (OSError, RuntimeError) as err:  # torch turns a full disk into a RuntimeError
        raise CheckpointError(
            f"{path} could not be written, the previous file is unchanged: {err}"
        ) from err


def _check_loadable(temporary: str, path: Path) -> None:
    # memory-mapped: this reads the names and shapes, not the tensors
    try:
        torch.load(temporary, map_location="cpu", mmap=True, weights_only=True)
    except Exception as err:  # torch raises a different type for each content
        found = re.search(r"GLOBAL (\S+)", str(err))
        what = found.group(1) if found else str(err).splitlines()[0]
        raise CheckpointError(
            f"{path} was not written because it could not be loaded: the state holds {what}, "
            "but may hold only tensors, numbers, strings, and lists and dicts of them."
        ) from err


def _keep(path: Path, previous: Path) -> None:
    # a link, not a rename: `path` must exist at every moment
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
    """Removes the partial files of processes that were killed while writing a checkpoint."""
    for leftover in Path(folder).glob(f".*{_PARTIAL}"):
        leftover.unlink(missing_ok=True)


def read_checkpoint(path: str | Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Reads a checkpoint with `weights_only=True`: tensors and plain values, never code.

    Raises:
        FileNotFoundError: if the file does not exist.
        CheckpointError: if it is damaged (a checksum covers every byte) or holds other objects.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"The checkpoint {path} does not exist.")
    try:
        _check_sums(path)
        state = torch.load(path, map_location=device, weights_only=True)
    except Exception as err:  # zipfile and torch raise a different type for each kind of damage
        raise CheckpointError(
            f"{path} cannot be loaded: it is damaged, or holds more than tensors and plain values."
        ) from err
    if not isinstance(state, dict) or "model" not in state:
        raise CheckpointError(f"{path} is not a checkpoint: expected a dict with the key 'model'.")
    return state


def _check_sums(path: Path) -> None:
    # torch itself loads a file with flipped bits
    with zipfile.ZipFile(path) as archive:
        if (damaged := archive.testzip()) is not None:
            raise zipfile.BadZipFile(f"wrong checksum of {damaged}")


# --- the model and the optimizer


def save_model(learn: Learner, path: str | Path, *, with_opt: bool = True) -> Path:
    """Writes the model, and the optimizer if `with_opt`, in one atomic step; returns the path."""
    state: dict[str, Any] = {"model": learn.model.state_dict()}
    return write_checkpoint(state | (_opt_part(learn.opt) if with_opt else {}), path)


def load_model(
    learn: Learner, path: str | Path, *, with_opt: bool = True, strict: bool = True
) -> Learner:
    """Reads a file of `save_model` onto the learner's device, and returns the learner.

    Raises:
        CheckpointError: if the optimizer, or with `strict` the model, does not fit the file.
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
    """Returns the state of an optimizer; empty if it has none."""
    state_dict = getattr(opt, "state_dict", dict)
    state: dict[str, Any] = state_dict()
    return state


def load_opt_state(opt: Any, state: Mapping[str, Any]) -> None:
    """Restores what `opt_state` returned."""
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
        misfits.append(f"it has {_few(wrong)}")
    _refuse(misfits, path, "the model")


def _check_opt(opt: Optimizer, state: Mapping[str, Any], path: str | Path) -> None:
    misfits = []
    if state["opt_class"] != type(opt).__name__:
        misfits.append(f"it was made with {state['opt_class']}, not {type(opt).__name__}")
    there = [len(group["params"]) for group in state["opt"].get("param_groups", [])]
    here = [len(group["params"]) for group in param_groups(opt)]
    if there != here:
        misfits.append(f"its parameter groups have {there} tensors instead of {here}")
    _refuse(misfits, path, "the optimizer")


def _shape(value: Any) -> tuple[int, ...] | None:
    return tuple(value.shape) if isinstance(value, Tensor) else None


def _misfits(expected: Collection[str], found: Collection[str]) -> list[str]:
    missing = [name for name in expected if name not in found]
    unexpected = [name for name in found if name not in expected]
    lists = (("it lacks", missing), ("it has, unexpectedly,", unexpected))
    return [f"{words} {_few(names)}" for words, names in lists if names]


def _few(names: list[str], n: int = 3) -> str:
    rest = f" and {len(names) - n} more" if len(names) > n else ""
    return ", ".join(names[:n]) + rest


def _refuse(misfits: Iterable[str], path: str | Path, what: str) -> None:
    if text := "; ".join(misfits):
        raise CheckpointError(f"{path} does not fit {what}: {text}.")


# --- the whole learner


def learner_state(learn: Learner) -> dict[str, Any]:
    """Returns everything that training changes.

    That is the model, optimizer, gradients, callbacks, counters and random number generators. The
    tensors are not copies: write them before training continues.
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
    """Checks that a state fits the learner, and changes nothing; errors mention `path`.

    Raises:
        CheckpointError: if the model, optimizer, callbacks or loaders do not fit, or the file has
            only a model.
    """
    if "callbacks" not in state:
        raise CheckpointError(
            f"{path} has a model but no fit to resume: load it with Learner.load."
        )
    _check_model(learn.model, state["model"], path)
    _check_opt(learn.opt or learn.create_opt(), state, path)
    _refuse(_misfits(_acting(learn), state["callbacks"]), path, "the callbacks")
    _check_loaders(learn, state["rng"], path)


def load_learner_state(learn: Learner, state: Mapping[str, Any], path: str | Path) -> None:
    """Restores what `learner_state` returned, and may keep its tensors; errors mention `path`.

    Raises:
        CheckpointError: as `check_learner_state`; nothing is changed then.
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
    # MPS has no float64; such values (the learning rates) stay on the host
    keeps = torch.float64 if device.type == "mps" else None
    return map_tensors(lambda tensor: tensor if tensor.dtype is keeps else tensor.to(device), state)


def _load_grads(model: nn.Module, grads: Mapping[str, Tensor]) -> None:
    for name, param in model.named_parameters():
        param.grad = grads[name].to(param.device) if name in grads else None


def _stateful(learn: Learner) -> dict[str, Callback]:
    """Returns the callbacks with a state, by class name and index within the class."""
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
    """Returns the state of every random number generator that training uses, loaders included."""
    return rng_state((learn.dls.train, learn.dls.valid))


def set_learner_rng_state(learn: Learner, state: Mapping[str, Any]) -> None:
    """Restores what `learner_rng_state` returned."""
    set_rng_state(state, (learn.dls.train, learn.dls.valid))


def _check_loaders(learn: Learner, rng: Mapping[str, Any], path: str | Path) -> None:
    there = [len(states) for states in rng["loaders"]]
    here = [len(generators_of(loader)) for loader in (learn.dls.train, learn.dls.valid)]
    if there != here:
        misfit = f"it was made with {there} random generators (train, valid), these have {here}"
        _refuse([misfit], path, "the loaders")
