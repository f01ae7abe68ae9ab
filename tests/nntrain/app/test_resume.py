"""A run that is gone on with keeps its own overrides, and what is changed is said."""

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from nntrain.app.resume import changed_keys, with_saved_overrides
from nntrain.config.errors import ConfigError


def saved(folder: Path, *overrides: str) -> Path:
    """The folder of a run that was started with these overrides."""
    (folder / ".hydra").mkdir(parents=True)
    (folder / ".hydra" / "overrides.yaml").write_text(OmegaConf.to_yaml(list(overrides)))
    (folder / "last.ckpt").write_bytes(b"")
    return folder


def test_saved_overrides_come_first_and_given_ones_replace_them(tmp_path: Path) -> None:
    run = saved(
        tmp_path / "run",
        "lr=0.1",
        "model=cnn",
        "n_epoch=3",
        "+callbacks.x._target_=a.B",
        "resume=older",
        "~metrics",
    )
    given = [f"resume={run}", "n_epoch=9", "model=mlp"]
    assert with_saved_overrides(given) == [
        "lr=0.1",
        "+callbacks.x._target_=a.B",
        "~metrics",
        *given,
    ]


def test_a_checkpoint_stands_for_its_folder(tmp_path: Path) -> None:
    run = saved(tmp_path / "run", "lr=0.1")
    given = [f"resume={run / 'last.ckpt'}"]
    assert with_saved_overrides(given) == ["lr=0.1", *given]


def test_a_forced_override_names_the_run_as_well(tmp_path: Path) -> None:
    run = saved(tmp_path / "run", "lr=0.1")
    assert with_saved_overrides([f"++resume={run}"]) == ["lr=0.1", f"++resume={run}"]


@pytest.mark.parametrize("given", [["lr=1"], ["resume=null"], ["resume=nowhere"], []])
def test_without_a_run_nothing_is_added(given: list[str]) -> None:
    assert with_saved_overrides(given) == given


def test_a_secret_must_be_given_again(tmp_path: Path) -> None:
    run = saved(tmp_path / "run", "+api_key=***")
    with pytest.raises(ConfigError, match="give it again"):
        with_saved_overrides([f"resume={run}"])
    assert with_saved_overrides([f"resume={run}", "+api_key=S"]) == [f"resume={run}", "+api_key=S"]


def test_changed_settings_are_named_but_for_those_that_may_change() -> None:
    before = {
        "lr": 0.1,
        "n_epoch": 3,
        "resume": None,
        "callbacks.progress.beta": 0.9,
        "data.batch_size": 64,
    }
    now = {
        "lr": 0.5,
        "n_epoch": 9,
        "resume": "run",
        "callbacks.progress.beta": 0.98,
        "optimizer.eps": 1,
    }
    assert changed_keys(before, now) == [
        "lr: 0.1 -> 0.5",
        "data.batch_size: 64 -> None",
        "optimizer.eps: None -> 1",
    ]
