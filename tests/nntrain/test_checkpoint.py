"""Checkpoint files are atomic and checked, and loading one never runs its code."""

import ast
import os
import pickle
import random
import subprocess
import sys
import textwrap
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from nntrain.checkpoint import (
    CheckpointError,
    CheckpointWriteError,
    read_checkpoint,
    write_checkpoint,
)
from tests.common.disk import full_disk
from tests.common.repeats import full
from tests.common.runs import assert_identical
from tests.common.toys import toy_learner

REPO = Path(__file__).parents[2]


def _state(value: float = 1.0, n: int = 4) -> dict[str, Any]:
    return {
        "model": OrderedDict(weight=torch.full((n,), value)),
        "epoch": 3,
        "rate": 0.5,
        "names": ["a", ("b", None)],
    }


def test_a_written_checkpoint_is_read_back() -> None:
    path = write_checkpoint(_state(), "deep/folder/last.ckpt")
    state = read_checkpoint(path)
    assert torch.equal(state.pop("model")["weight"], torch.ones(4))
    assert state == {"epoch": 3, "rate": 0.5, "names": ["a", ("b", None)]}
    assert os.listdir("deep/folder") == ["last.ckpt"]


def test_previous_file_is_kept_beside_the_new_one() -> None:
    for value in (1.0, 2.0, 3.0):
        write_checkpoint(_state(value), "last.ckpt", previous="previous.ckpt")
    found = {
        name: float(read_checkpoint(name)["model"]["weight"][0]) for name in sorted(os.listdir())
    }
    assert found == {"last.ckpt": 3.0, "previous.ckpt": 2.0}


def test_file_system_without_links_keeps_no_previous_file(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any) -> None:
        raise PermissionError("no links here")

    monkeypatch.setattr(os, "link", refuse)
    for value in (1.0, 2.0):
        write_checkpoint(_state(value), "last.ckpt", previous="previous.ckpt")
    assert os.listdir() == ["last.ckpt"]


def _truncated(share: float) -> Callable[[bytes], bytes]:
    return lambda content: content[: int(len(content) * share)]


def _flipped(content: bytes) -> bytes:
    # flip one bit within the bytes of the tensor
    at = content.index(torch.ones(4).numpy().tobytes()) + 3
    return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]


@pytest.mark.parametrize("write", [write_checkpoint, torch.save])
@pytest.mark.parametrize(
    "damage",
    [
        _truncated(0.01),
        _truncated(0.5),
        _truncated(0.99),
        _truncated(0),
        lambda content: b"not a checkpoint",
        lambda content: content + b"!",
        _flipped,
    ],
    ids=["1%", "50%", "99%", "empty", "text", "longer", "flipped bit"],
)
def test_damaged_file_is_refused(
    write: Callable[..., Any], damage: Callable[[bytes], bytes]
) -> None:
    write(_state(), "last.ckpt")
    path = Path("last.ckpt")
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(
        CheckpointError,
        match=r"^last.ckpt cannot be loaded: the file is damaged or is not a checkpoint\.$",
    ):
        read_checkpoint(path)


def _with_flipped_bit(content: bytes, places: range, rng: random.Random) -> bytes:
    at = rng.choice(places)
    return content[:at] + bytes([content[at] ^ 1 << rng.randrange(8)]) + content[at + 1 :]


@pytest.mark.parametrize("write", [write_checkpoint, torch.save])
def test_no_flipped_bit_changes_what_is_read(write: Callable[..., Any]) -> None:
    state, path = _state(n=1000), Path("last.ckpt")
    write(state, path)
    content, tensor = path.read_bytes(), state["model"]["weight"].numpy().tobytes()
    data = range(content.index(tensor), content.index(tensor) + len(tensor))
    with zipfile.ZipFile(path) as archive:
        directory = range(archive.start_dir, len(content))
    rng, n_read = random.Random(0), 0
    for places in (range(data.start), directory, data):
        for _ in range(200):
            path.write_bytes(_with_flipped_bit(content, places, rng))
            with suppress(CheckpointError):
                assert_identical(read_checkpoint(path), state)
                n_read += 1
    assert n_read == 0 or write is torch.save  # some bits of the zip format mean nothing


def test_record_marked_as_a_directory_is_refused() -> None:
    # torch would leave the memory of its tensor uninitialized
    torch.save(_state(), "last.ckpt")
    content = bytearray(Path("last.ckpt").read_bytes())
    with zipfile.ZipFile("last.ckpt") as archive:
        at = archive.start_dir + content[archive.start_dir :].index(b"/data/0")
    content[content.rindex(b"PK\1\2", 0, at) + 38] ^= 0x10  # the external attributes
    Path("last.ckpt").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"^last.ckpt cannot be loaded: the file is damaged"):
        read_checkpoint("last.ckpt")


def test_the_refusal_of_a_damaged_file_names_the_checkpoint_before_it_if_that_is_whole() -> None:
    for value in (1.0, 2.0):
        write_checkpoint(_state(value), "run/last.ckpt", previous="run/previous.ckpt")
    Path("run/last.ckpt").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"the checkpoint before it is run/previous.ckpt\.$"):
        read_checkpoint("run/last.ckpt")
    Path("run/previous.ckpt").write_bytes(b"")
    for name in ("last", "previous"):
        with pytest.raises(CheckpointError, match=rf"{name}.ckpt .* is not a checkpoint\.$"):
            read_checkpoint(f"run/{name}.ckpt")


def test_whole_file_that_cannot_be_loaded_is_not_called_damaged() -> None:
    write_checkpoint(_state(), "last.ckpt")
    with pytest.raises(CheckpointError, match=r"^last.ckpt cannot be loaded: the file is whole"):
        read_checkpoint("last.ckpt", "no such device")


def test_file_that_cannot_be_opened_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any) -> None:
        raise PermissionError(13, "Permission denied")

    write_checkpoint(_state(), "last.ckpt")
    monkeypatch.setattr(Path, "open", refuse)  # root may open every file
    with pytest.raises(CheckpointError, match=r"^last.ckpt cannot be read: Permission denied\.$"):
        read_checkpoint("last.ckpt")


@pytest.mark.parametrize("content", [[1, 2], {"weights": torch.ones(1)}], ids=["list", "no model"])
def test_file_of_another_kind_is_refused(content: Any) -> None:
    torch.save(content, "other.pt")
    with pytest.raises(CheckpointError, match="expected a dict with the key 'model'"):
        read_checkpoint("other.pt")


@pytest.mark.parametrize("name", ["last.ckpt", "best.pt"])
def test_file_of_0_1_0_is_read(name: str) -> None:
    assert "model" in read_checkpoint(REPO / "tests/older/v0.1.0/run" / name)


def test_missing_file_and_folder_are_named() -> None:
    for path in ("nowhere.ckpt", "."):
        with pytest.raises(FileNotFoundError, match=rf"The checkpoint {path} does not exist\."):
            read_checkpoint(path)


@pytest.mark.parametrize(
    ("value", "name"),
    [(np.float64(0.5), "numpy"), (Path("x"), "pathlib"), (nn.Linear(1, 1), "torch.nn")],
    ids=str,
)
def test_state_that_could_not_be_loaded_is_not_written(value: Any, name: str) -> None:
    write_checkpoint(_state(1.0), "last.ckpt")
    with pytest.raises(
        CheckpointError, match=rf"last.ckpt was not written because .* the state contains {name}"
    ):
        write_checkpoint(_state(2.0) | {"extra": value}, "last.ckpt", previous="previous.ckpt")
    assert os.listdir() == ["last.ckpt"]
    assert read_checkpoint("last.ckpt")["model"]["weight"][0] == 1


class Unpicklable:
    def __reduce__(self) -> Any:
        raise KeyboardInterrupt


def test_interrupted_write_leaves_the_old_file_and_nothing_else() -> None:
    write_checkpoint(_state(1.0), "last.ckpt")
    with pytest.raises(KeyboardInterrupt):
        write_checkpoint(_state(2.0) | {"extra": Unpicklable()}, "last.ckpt")
    assert os.listdir() == ["last.ckpt"]
    assert read_checkpoint("last.ckpt")["model"]["weight"][0] == 1


@pytest.mark.parametrize("n_bytes", [0, 1, 100_000, 4_000_000])
def test_full_disk_leaves_the_old_file_and_names_the_path(n_bytes: int) -> None:
    big = {"model": {"weight": torch.zeros(1_000_000)}}
    with full_disk(n_bytes), pytest.raises(CheckpointWriteError) as caught:
        write_checkpoint(big, "last.ckpt")
    assert str(caught.value) == "last.ckpt could not be written: File too large."
    write_checkpoint(_state(1.0), "last.ckpt")
    with full_disk(n_bytes), pytest.raises(CheckpointWriteError) as caught:
        write_checkpoint(big, "last.ckpt", previous="previous.ckpt")
    assert str(caught.value) == (
        "last.ckpt could not be written (the previous file is unchanged): File too large."
    )
    assert os.listdir() == ["last.ckpt"]
    assert read_checkpoint("last.ckpt")["model"]["weight"][0] == 1


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("/proc/last.ckpt", "No such file or directory"),
        ("file/last.ckpt", "File exists"),
        (f"{'x' * 300}/last.ckpt", "File name too long"),
        ("folder", "Is a directory"),
    ],
)
def test_path_that_cannot_be_written_is_named(path: str, reason: str) -> None:
    Path("file").touch()
    Path("folder").mkdir()
    with pytest.raises(CheckpointWriteError, match=rf"^{path} could not be written: {reason}\.$"):
        write_checkpoint(_state(), path)
    assert sorted(os.listdir()) == ["file", "folder"]


def test_error_of_the_program_while_it_writes_is_not_called_an_error_of_the_disk() -> None:
    with pytest.raises(RuntimeError, match="a bug") as caught:
        write_checkpoint(_state() | {"extra": Buggy()}, "last.ckpt")
    assert not isinstance(caught.value, CheckpointError)
    assert os.listdir() == []


class Buggy:
    def __reduce__(self) -> Any:
        raise RuntimeError("a bug")


_N_VALUE = full(50_000_000, 10_000_000)  # 200 MB or 40 MB

_KILL = """
    import itertools, os, signal, sys
    from pathlib import Path
    import torch
    from nntrain.checkpoint import read_checkpoint, write_checkpoint
    from nntrain.core.partial import remove_partial

    n_value, share = int(sys.argv[1]), float(sys.argv[2])

    def write_for_ever(pipe):
        for value in itertools.count():
            os.write(pipe, b".")
            state = {"model": {"weight": torch.full((n_value,), float(value))}}
            write_checkpoint(state, "last.ckpt", previous="previous.ckpt")

    def n_written():
        try:
            return max(path.stat().st_size for path in Path().glob(".nntrain-*.part"))
        except (FileNotFoundError, ValueError):  # it was just renamed, or does not exist yet
            return 0

    reader, writer = os.pipe()
    if (child := os.fork()) == 0:
        write_for_ever(writer)
    os.close(writer)
    n_begun = 0
    while n_begun < 3:  # two were written, so there is a previous one
        n_begun += len(os.read(reader, 1))
    while n_written() < share * 4 * n_value:
        pass
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    n_begun += len(os.read(reader, 1000))
    print(n_written() / (4 * n_value))
    print(n_begun - 2, n_begun - 3)
    remove_partial(".")
    for path in ("last.ckpt", "previous.ckpt"):
        low, high = read_checkpoint(path)["model"]["weight"].aminmax()
        print(int(low) if low == high else "mixed", end=" ")
"""


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_process_killed_while_it_writes_leaves_the_old_checkpoint_and_no_partial_file(
    share: float, measured: Callable[[str, float], None]
) -> None:
    command = [sys.executable, "-c", textwrap.dedent(_KILL), str(_N_VALUE), str(share)]
    out = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    killed_at, expected, found = out.splitlines()
    measured("share written at the kill", float(killed_at))
    assert share <= float(killed_at) <= 1.01
    assert found.split() == expected.split()
    assert sorted(os.listdir()) == ["last.ckpt", "previous.ckpt"]


class Toucher:
    """An object whose pickle runs code that creates a file."""

    def __reduce__(self) -> Any:
        return os.system, ("touch touched",)


class Evaluator:
    """Like `Toucher`, but the pickle calls `eval`."""

    def __reduce__(self) -> Any:
        return eval, ("open('touched', 'w').close()",)


def _raw_pickle(path: Path) -> None:
    path.write_bytes(pickle.dumps({"model": Toucher()}))


def _zip_of_torch(path: Path) -> None:
    torch.save({"model": Toucher()}, path)


def _evaluated(path: Path) -> None:
    torch.save({"model": {"weight": torch.ones(1)}, "extra": Evaluator()}, path)


def _pickle_in_place_of_storage(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(
            "archive/data.pkl",
            pickle.dumps({"model": {"weight": torch.ones(1)}, "epoch": Toucher()}),
        )
        archive.writestr("archive/version", "3\n")
        archive.writestr("archive/data/0", pickle.dumps(Toucher()))


def _old_format(path: Path) -> None:
    torch.save({"model": Toucher()}, path, _use_new_zipfile_serialization=False)


HOSTILE = [_raw_pickle, _zip_of_torch, _evaluated, _pickle_in_place_of_storage, _old_format]


@pytest.mark.parametrize("make", HOSTILE)
def test_hostile_checkpoint_is_refused_and_runs_nothing(make: Callable[[Path], None]) -> None:
    path = Path("evil.ckpt")
    make(path)
    for read in (read_checkpoint, toy_learner().load):
        with pytest.raises(CheckpointError, match=r"^evil.ckpt cannot be loaded"):
            read(path)
    assert not Path("touched").exists()


@pytest.mark.parametrize("payload", [Toucher(), Evaluator()], ids=["system", "eval"])
def test_the_hostile_payloads_work(payload: Any) -> None:
    function, args = payload.__reduce__()
    function(*args)
    assert Path("touched").exists()


_UNSAFE = {
    f"{module}.{name}"
    for module in ("pickle", "joblib", "dill", "cloudpickle")
    for name in ("load", "loads", "Unpickler")
}


def _unsafe_calls(source: str) -> list[str]:
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    named = [
        (ast.unparse(call.func), {word.arg: ast.unparse(word.value) for word in call.keywords})
        for call in calls
    ]
    return [
        name
        for name, words in named
        if name in _UNSAFE
        or (name in ("torch.load", "load_url") and words.get("weights_only") != "True")
        or words.get("allow_pickle") == "True"
    ]


@pytest.mark.parametrize(
    ("source", "n"),
    [
        ("torch.load(p)", 1),
        ("torch.load(p, weights_only=False)", 1),
        ("torch.load(p, weights_only=safe)", 1),
        ("torch.load(p, weights_only=True)", 0),
        ("pickle.loads(b)", 1),
        ("np.load(p, allow_pickle=True)", 1),
    ],
)
def test_unsafe_calls_are_found(source: str, n: int) -> None:
    assert len(_unsafe_calls(source)) == n


def _sources() -> list[Path]:
    folders = ("nntrain", "integrations", "sweeps", "benchmarks", "examples", "docs", "tests")
    return [path for folder in folders for path in (REPO / folder).rglob("*.py")]


NO_FILES = {
    "sweeps/workers/worker_main.py": ["pickle.load"] * 3,  # reads a pipe from the parent process
}
"""Files that unpickle only data from a pipe of their parent process."""


def test_nothing_in_the_repository_loads_files_that_could_run_code() -> None:
    unsafe = {str(path.relative_to(REPO)): _unsafe_calls(path.read_text()) for path in _sources()}
    assert {path: found for path, found in unsafe.items() if found != NO_FILES.get(path, [])} == {}
    assert len(_sources()) > 20


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        (
            {"model": nn.Linear(2, 1)},
            r"does not match the model: wrong shapes: weight \(1, 1\) instead of \(1, 2\)\.$",
        ),
        (
            {"model": nn.Linear(1, 1, bias=False)},
            r"model.pt does not match the model: unexpected bias\.$",
        ),
        (
            {"opt_func": torch.optim.Adam},
            r"model.pt does not match the optimizer: saved with SGD, not Adam\.$",
        ),
    ],
)
def test_the_error_of_learner_load_names_what_does_not_fit(
    kwargs: dict[str, Any], message: str
) -> None:
    learn = toy_learner()
    learn.fit(1)
    learn.save("model.pt")
    other = toy_learner(**kwargs)
    with pytest.raises(CheckpointError, match=message):
        other.load("model.pt")


def test_learner_load_restores_the_model_and_the_optimizer() -> None:
    learn = toy_learner(opt_func=torch.optim.Adam)
    learn.fit(1)
    learn.save("model.pt")
    other = toy_learner(opt_func=torch.optim.Adam).load("model.pt")
    learn.fit(1)
    other.fit(1)
    assert torch.equal(learn.model.weight, other.model.weight)


def test_a_load_that_is_not_strict_loads_what_fits() -> None:
    learn = toy_learner()
    learn.save("model.pt")
    other = toy_learner(model=nn.Linear(1, 1, bias=False)).load(
        "model.pt", strict=False, with_opt=False
    )
    assert torch.equal(other.model.weight, learn.model.weight)
