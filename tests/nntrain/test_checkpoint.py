"""Checkpoint files are atomic and checked, and loading one never runs its code."""

import ast
import os
import pickle
import subprocess
import sys
import textwrap
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from nntrain.checkpoint import CheckpointError, read_checkpoint, remove_partial, write_checkpoint
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


@pytest.mark.parametrize(
    "damage",
    [
        _truncated(0.01),
        _truncated(0.5),
        _truncated(0.99),
        _truncated(0),
        lambda content: b"not a checkpoint",
        _flipped,
    ],
    ids=["1%", "50%", "99%", "empty", "text", "flipped bit"],
)
def test_damaged_file_is_refused(damage: Callable[[bytes], bytes]) -> None:
    path = write_checkpoint(_state(), "last.ckpt")
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(
        CheckpointError, match=r"^last.ckpt cannot be loaded: the file is damaged or contains"
    ):
        read_checkpoint(path)


@pytest.mark.parametrize("content", [[1, 2], {"weights": torch.ones(1)}], ids=["list", "no model"])
def test_file_of_another_kind_is_refused(content: Any) -> None:
    torch.save(content, "other.pt")
    with pytest.raises(CheckpointError, match="expected a dict with the key 'model'"):
        read_checkpoint("other.pt")


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


def test_only_our_leftovers_are_removed() -> None:
    for name in (".last.ckpt.x.part", "notes.part", ".hidden", "last.ckpt"):
        Path(name).touch()
    remove_partial(".")
    remove_partial("no such folder")
    assert sorted(os.listdir()) == [".hidden", "last.ckpt", "notes.part"]


def _run(code: str, *args: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", textwrap.dedent(code), *args]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_full_disk_leaves_the_old_file_and_names_the_path() -> None:
    write_checkpoint(_state(1.0), "last.ckpt")
    process = _run("""
        import resource, signal, torch
        from nntrain.checkpoint import CheckpointError, write_checkpoint
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        try:
            write_checkpoint({"model": {"weight": torch.zeros(1_000_000)}}, "last.ckpt")
        except CheckpointError as err:
            print(err)
    """)
    out, err = process.communicate(timeout=60)
    assert out.startswith("last.ckpt could not be written (the previous file is unchanged): "), err
    assert os.listdir() == ["last.ckpt"]
    assert read_checkpoint("last.ckpt")["model"]["weight"][0] == 1


_KILLS = """
    import itertools, os, random, signal, sys, time
    from pathlib import Path
    import torch
    from nntrain.checkpoint import read_checkpoint, remove_partial, write_checkpoint

    def write_for_ever(first, pipe):
        for value in itertools.count(first):
            state = {"model": {"weight": torch.full((12_000_000,), float(value))}}  # 48 MB
            os.write(pipe, b"%d " % value)
            write_checkpoint(state, "last.ckpt", previous="previous.ckpt")

    def value_of(path):
        low, high = read_checkpoint(path)["model"]["weight"].aminmax()
        return int(low) if low == high else "mixed"

    rng = random.Random(0)
    for first in range(100, 900, 100):
        reader, writer = os.pipe()
        if (child := os.fork()) == 0:
            write_for_ever(first, writer)
        os.close(writer)
        begun = b""
        while begun.count(b" ") < 3:  # two are written, so a previous one exists
            begun += os.read(reader, 100)
        time.sleep(rng.uniform(0, 0.2))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        begun += os.read(reader, 1000)
        half = len(list(Path().glob(".*.part")))
        print(begun.split()[-1].decode(), value_of("last.ckpt"), value_of("previous.ckpt"), half)
        remove_partial(".")
        print(*sorted(os.listdir()), file=sys.stderr)
"""


@pytest.mark.slow
def test_process_killed_while_it_writes_leaves_the_old_or_the_new_checkpoint() -> None:
    out, err = _run(_KILLS).communicate(timeout=120)
    assert err.splitlines() == ["last.ckpt previous.ckpt"] * 8
    kills = [tuple(int(word) for word in line.split()) for line in out.splitlines()]
    for begun, last, previous, _ in kills:
        assert last in (begun - 1, begun)
        # a process killed between the link and the rename leaves two names for the same file
        assert previous in (last - 1, last) or begun % 100 == 1
    assert len(kills) == 8
    assert sum(half for *_, half in kills) > 0, (
        "no kill happened during a write, so the test shows nothing"
    )


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
