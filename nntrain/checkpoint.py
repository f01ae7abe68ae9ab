"""Saves checkpoints atomically and loads them without executing code from the file."""

from __future__ import annotations

import os
import pickle
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, BinaryIO, cast

import torch
from torch import Tensor, nn

from nntrain.core.optimizer import Optimizer, param_groups
from nntrain.core.partial import keep_previous, partial_file, sync_folder
from nntrain.core.seal import DamagedFileError, SealedFile, check_file

if TYPE_CHECKING:
    from nntrain.learner import Learner

LAST, PREVIOUS = "last.ckpt", "previous.ckpt"
"""Names of the latest checkpoint of a fit, and of the one before it."""


class CheckpointError(RuntimeError):
    """A checkpoint is damaged, contains unsafe objects, or does not match the learner."""


class CheckpointWriteError(CheckpointError):
    """A file cannot be written, for example because the disk is full or the folder read-only.

    Args:
        path: the file.
        cause: the error of the file system.
    """

    def __init__(self, path: Path, cause: OSError) -> None:
        self.path, self.reason = path, cause.strerror or str(cause)
        unchanged = " (the previous file is unchanged)" if os.path.isfile(path) else ""
        super().__init__(f"{path} could not be written{unchanged}: {self.reason}.")


# --- files


def write_checkpoint(
    state: Mapping[str, Any], path: str | Path, *, previous: str | Path | None = None
) -> Path:
    """Writes a checkpoint atomically and returns its path.

    After a crash, `path` is either the old file or the complete new file. The file ends with a
    checksum of all its bytes.

    Args:
        state: tensors, numbers and strings, and lists, tuples and dicts of these.
        path: the file to write; its folder is created if needed.
        previous: where to save the old file; must be in the same folder. Ignored if the file system
            does not support hard links.

    Raises:
        CheckpointWriteError: if the file cannot be written, for example on a full disk. The old
            file is not changed.
        CheckpointError: if `state` contains values that `read_checkpoint` would reject. The old
            file is not changed.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial_file(path.parent) as (file, partial):
            _write(state, file)
            _check_loadable(partial, path)
            if previous is not None:
                keep_previous(path, Path(previous), partial)
            os.replace(partial, path)
        sync_folder(path.parent)
    except OSError as err:
        raise CheckpointWriteError(path, err) from err
    return path


def _write(state: Mapping[str, Any], file: BinaryIO) -> None:
    sealed = SealedFile(file)
    try:
        torch.save(dict(state), cast("IO[bytes]", sealed))  # it has all that torch uses
    except RuntimeError:
        if sealed.error is not None:  # torch replaces the error of a full disk by its own
            raise sealed.error from None
        raise
    sealed.seal()
    os.fsync(file.fileno())


def _check_loadable(partial: Path, path: Path) -> None:
    # mmap=True reads the names and shapes without reading the tensors
    try:
        torch.load(partial, map_location="cpu", mmap=True, weights_only=True)
    except Exception as err:  # the exception type depends on the content
        found = re.search(r"GLOBAL (\S+)", str(err))
        what = found.group(1) if found else str(err).splitlines()[0]
        raise CheckpointError(
            f"{path} was not written because it could not be loaded later: the state contains "
            f"{what}, but may contain only tensors, numbers, strings, lists, tuples and dicts."
        ) from err


def read_checkpoint(path: str | Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Loads a checkpoint with `weights_only=True`, without executing code from the file.

    Raises:
        FileNotFoundError: if the file does not exist.
        CheckpointError: if the file is damaged (a checksum covers every byte), or contains anything
            other than tensors and plain values. If the checkpoint before it is whole, the message
            names it.
    """
    path = Path(path)
    if not os.path.isfile(path):
        raise FileNotFoundError(f"The checkpoint {path} does not exist.")
    try:
        with path.open("rb") as file:
            state = _load(file, path, device)
    except OSError as err:
        raise CheckpointError(f"{path} cannot be read: {err.strerror or err}.") from err
    if not isinstance(state, dict) or "model" not in state:
        raise CheckpointError(f"{path} is not a checkpoint: expected a dict with the key 'model'.")
    return state


def _load(file: BinaryIO, path: Path, device: torch.device | str) -> Any:
    try:
        is_sealed = check_file(file)
    except DamagedFileError as err:
        raise CheckpointError(
            f"{path} cannot be loaded: the file is damaged or is not a checkpoint{_remedy(path)}."
        ) from err
    try:
        return torch.load(file, map_location=device, weights_only=True)
    except Exception as err:  # the exception type depends on the content
        what = "is damaged or contains unsafe objects"
        if is_sealed and not isinstance(err, pickle.UnpicklingError):
            what = f"is whole, but {type(err).__name__} was raised: {str(err).splitlines()[0]}"
        raise CheckpointError(f"{path} cannot be loaded: the file {what}.") from err


def _remedy(path: Path) -> str:
    previous = path.with_name(PREVIOUS)
    with suppress(OSError, DamagedFileError), previous.open("rb") as file:
        if path.name != PREVIOUS:
            check_file(file)
            return f"; the checkpoint before it is {previous}"
    return ""


# --- the model and the optimizer


def save_model(learn: Learner, path: str | Path, *, with_opt: bool = True) -> Path:
    """Saves the model, and the optimizer if `with_opt`, atomically; returns the path."""
    state: dict[str, Any] = {"model": learn.model.state_dict()}
    return write_checkpoint(state | (opt_part(learn.opt) if with_opt else {}), path)


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
        check_model(learn.model, state["model"], path)
    if with_opt and "opt" in state:
        check_opt(learn.opt or learn.create_opt(), state, path)
        with matching(path, "the optimizer"):
            load_opt_state(learn.opt, state["opt"])
    with matching(path, "the model"):
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


def opt_part(opt: Optimizer | None) -> dict[str, Any]:
    """Returns the entries of a checkpoint for the optimizer; none without an optimizer."""
    return {} if opt is None else {"opt": opt_state(opt), "opt_class": type(opt).__name__}


def check_model(model: nn.Module, state: Any, path: str | Path) -> None:
    """Checks that saved weights have the names and shapes of a model.

    Raises:
        CheckpointError: if they differ; the message lists the differences.
    """
    own = model.state_dict()
    if not isinstance(state, dict):
        refuse([f"expected a dict of tensors, not {type(state).__name__}"], path, "the model")
    misfits = misfits_of(own, state)
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
    refuse(misfits, path, "the model")


def check_opt(opt: Optimizer, state: Mapping[str, Any], path: str | Path) -> None:
    """Checks that a saved optimizer has the class and the parameter groups of an optimizer.

    Raises:
        CheckpointError: if they differ; the message lists the differences.
    """
    misfits = []
    if state["opt_class"] != type(opt).__name__:
        misfits.append(f"saved with {state['opt_class']}, not {type(opt).__name__}")
    with matching(path, "the optimizer"):
        saved = list(state["opt"].get("param_groups", []))
        there = [len(group["params"]) for group in saved]
        here = [len(group["params"]) for group in param_groups(opt)]
        if there != here:
            misfits.append(f"wrong sizes of parameter groups: {there} tensors instead of {here}")
        for own, group in zip(param_groups(opt), saved, strict=False):
            misfits += [
                f"{key} is {group[key]!r} instead of a number"
                for key, value in own.items()
                if _is_number(value) and key in group and not _is_number(group[key])
            ]
    refuse(misfits, path, "the optimizer")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | Tensor)


def _shape(value: Any) -> tuple[int, ...] | None:
    return tuple(value.shape) if isinstance(value, Tensor) else None


def misfits_of(expected: Collection[str], found: Collection[str]) -> list[str]:
    """Describes the names that are missing and those that are unexpected."""
    missing = [name for name in expected if name not in found]
    unexpected = [name for name in found if name not in expected]
    lists = (("missing", missing), ("unexpected", unexpected))
    return [f"{words} {_few(names)}" for words, names in lists if names]


def _few(names: list[str], n: int = 3) -> str:
    rest = f" and {len(names) - n} more" if len(names) > n else ""
    return ", ".join(map(str, names[:n])) + rest


def refuse(misfits: Iterable[str], path: str | Path, what: str) -> None:
    """Raises a `CheckpointError` that lists the differences, if there are any."""
    if text := "; ".join(misfits):
        raise CheckpointError(f"{path} does not match {what}: {text}.")


_INVALID = (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)


@contextmanager
def matching(path: str | Path, what: str) -> Iterator[None]:
    """Context manager for a block that uses a part of a checkpoint, which may hold any values.

    Args:
        path: the checkpoint, for error messages.
        what: the part, for error messages.

    Raises:
        CheckpointError: if the values are invalid.
    """
    try:
        yield
    except CheckpointError:
        raise
    except _INVALID as err:
        text = " ".join(f"{type(err).__name__}: {err}".split())
        refuse([text.removesuffix(".")], path, what)
