"""A resumed run keeps its own overrides."""

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from nntrain.app.saved_overrides import with_saved_overrides
from nntrain.config.errors import ConfigError


def saved(folder: Path, *overrides: str) -> Path:
    """Returns the folder of a run that was started with these overrides."""
    (folder / ".hydra").mkdir(parents=True)
    (folder / ".hydra" / "overrides.yaml").write_text(OmegaConf.to_yaml(list(overrides)))
    (folder / "last.ckpt").write_bytes(b"")
    return folder


def test_saved_overrides_come_first_unless_they_are_given_again(tmp_path: Path) -> None:
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


def test_resume_accepts_a_checkpoint_of_the_run(tmp_path: Path) -> None:
    run = saved(tmp_path / "run", "lr=0.1")
    given = [f"resume={run / 'last.ckpt'}"]
    assert with_saved_overrides(given) == ["lr=0.1", *given]


def test_resume_accepts_a_forced_override(tmp_path: Path) -> None:
    run = saved(tmp_path / "run", "lr=0.1")
    assert with_saved_overrides([f"++resume={run}"]) == ["lr=0.1", f"++resume={run}"]


@pytest.mark.parametrize("given", [["lr=1"], ["resume=null"], ["resume=nowhere"], []])
def test_without_a_run_nothing_is_added(given: list[str]) -> None:
    assert with_saved_overrides(given) == given


def test_a_secret_must_be_given_again(tmp_path: Path) -> None:
    run = saved(tmp_path / "run", "+api_key=***")
    with pytest.raises(ConfigError, match="pass this override again"):
        with_saved_overrides([f"resume={run}"])
    assert with_saved_overrides([f"resume={run}", "+api_key=S"]) == [f"resume={run}", "+api_key=S"]
