"""Writing and reading checkpoints: atomically, and without running code from the file."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from nntrain.optimizer import Optimizer

if TYPE_CHECKING:
    from nntrain.learner import Learner


class CheckpointError(RuntimeError):
    """A file is no checkpoint of ours, is damaged, or holds what may not be loaded."""


def write_checkpoint(state: Mapping[str, Any], path: str | Path) -> Path:
    """Writes a checkpoint so that `path` holds either the old file or the whole new one, even after a crash."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    fd, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    try:
        with os.fdopen(fd, "wb") as file:
            torch.save(dict(state), file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)
    return path


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def read_checkpoint(path: str | Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Reads a checkpoint with `weights_only=True`: tensors and plain values, never code.

    Raises:
        FileNotFoundError: if there is no such file.
        CheckpointError: if it cannot be read so.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no checkpoint {path}.")
    try:
        state = torch.load(path, map_location=device, weights_only=True)
    except Exception as err:  # torch raises a different type for each kind of damage
        raise CheckpointError(f"{path} cannot be loaded: it is damaged, or holds more than tensors and plain values.") from err
    if not isinstance(state, dict) or "model" not in state:
        raise CheckpointError(f"{path} is no checkpoint: it was expected to hold a dict with the key 'model'.")
    return state


def save_model(learn: Learner, path: str | Path, *, with_opt: bool = True) -> Path:
    """Writes the model's and, if asked, the optimizer's state."""
    state: dict[str, Any] = {"model": learn.model.state_dict()}
    if with_opt and learn.opt is not None:
        state["opt"] = opt_state(learn.opt)
    return write_checkpoint(state, path)


def load_model(learn: Learner, path: str | Path, *, with_opt: bool = True, strict: bool = True) -> None:
    """Reads the model's and, if asked and present, the optimizer's state."""
    state = read_checkpoint(path, learn.device)
    learn.model.load_state_dict(state["model"], strict=strict)
    if with_opt and "opt" in state:
        load_opt_state(learn.opt or learn.create_opt(), state["opt"])


def opt_state(opt: Optimizer) -> dict[str, Any]:
    """The optimizer's state; empty for one that has none."""
    state_dict = getattr(opt, "state_dict", dict)
    state: dict[str, Any] = state_dict()
    return state


def load_opt_state(opt: Any, state: Mapping[str, Any]) -> None:
    """Takes back what `opt_state` gave."""
    if state:
        opt.load_state_dict(state)
