"""A resumed run keeps its own overrides, which are data."""

from pathlib import Path

import pytest
import yaml

from nntrain.app.command_line import check_command_line
from nntrain.config.errors import ConfigError
from nntrain.sweeps import register

register()  # an editable install hides the sweeper from Hydra


def saved(folder: Path, *overrides: str) -> Path:
    """Returns the folder of a run that was started with these overrides."""
    (folder / ".hydra").mkdir(parents=True)
    (folder / ".hydra" / "overrides.yaml").write_text(yaml.safe_dump(list(overrides)))
    (folder / "last.ckpt").write_bytes(b"")
    return folder


def trusting(monkeypatch: pytest.MonkeyPatch, folder: Path, text: str) -> None:
    """Writes the user's own file."""
    path = folder / "config" / "nntrain" / "trust.yaml"
    path.parent.mkdir(parents=True)
    path.write_text(text)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(folder / "config"))


def test_saved_overrides_come_first_unless_they_are_given_again(tmp_path: Path) -> None:
    run = saved(
        tmp_path / "run",
        "lr=0.1",
        "model=cnn",
        "n_epoch=3",
        "+callbacks.x._target_=nntrain.callbacks.EMA",
        "resume=older",
        "~metrics",
    )
    given = [f"resume={run}", "n_epoch=9", "model=mlp"]
    assert check_command_line(given) == [
        "lr=0.1",
        "+callbacks.x._target_=nntrain.callbacks.EMA",
        "~metrics",
        *given,
    ]


def test_resume_accepts_a_checkpoint_of_the_run(tmp_path: Path) -> None:
    run = saved(tmp_path / "run", "lr=0.1")
    given = [f"resume={run / 'last.ckpt'}"]
    assert check_command_line(given) == ["lr=0.1", *given]


FORMS = {
    "plain": "resume=runs/my run",
    "forced": "++resume=runs/my run",
    "single quotes": "resume='runs/my run'",
    "double quotes": 'resume="runs/my run"',
    "escaped": r"resume=runs/my\ run",
    "the checkpoint": "resume=runs/my run/last.ckpt",
    "absolute": "resume={here}/runs/my run",
    "from the environment": "resume=${oc.env:MY_RUNS}/my run",
    "from another key": "resume=${runs}/my run",
    "a string function": "resume=str('runs/my run')",
}


@pytest.mark.parametrize("form", FORMS)
def test_resume_takes_every_form_of_hydras_grammar(
    form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved(tmp_path / "runs" / "my run", "lr=0.125")
    monkeypatch.setenv("MY_RUNS", "runs")
    given = [FORMS[form].format(here=tmp_path) if "here" in FORMS[form] else FORMS[form]]
    given += ["+runs=runs"] if "${runs}" in given[0] else []
    assert check_command_line(given) == ["lr=0.125", *given]


@pytest.mark.parametrize("name", ["a=b", "a?b", "a%b", "a(b)", "a,b", "größe", "a'b", "a#b"])
def test_resume_takes_a_quoted_folder_of_any_name(name: str, tmp_path: Path) -> None:
    saved(tmp_path / name, "lr=0.125")
    given = [f"resume={chr(34)}{name}{chr(34)}"]
    assert check_command_line(given) == ["lr=0.125", *given]


def test_resume_may_be_set_in_a_config_file(tmp_path: Path) -> None:
    saved(tmp_path / "run", "lr=0.125", "resume=older")
    (tmp_path / "conf" / "experiment").mkdir(parents=True)
    (tmp_path / "conf" / "experiment" / "goon.yaml").write_text("# @package _global_\nresume: run")
    given = ["--config-dir", "conf", "experiment=goon"]
    assert check_command_line(given) == ["--config-dir", "conf", "lr=0.125", "experiment=goon"]


@pytest.mark.parametrize("given", [["lr=1"], ["resume=null"], ["resume=nowhere"], []])
def test_without_a_run_nothing_is_added(given: list[str]) -> None:
    assert check_command_line(given) == given


def test_a_secret_must_be_given_again(tmp_path: Path) -> None:
    run = saved(tmp_path / "run", "+api_key=***")
    with pytest.raises(ConfigError, match="pass this override again"):
        check_command_line([f"resume={run}"])
    assert check_command_line([f"resume={run}", "+api_key=S"]) == [f"resume={run}", "+api_key=S"]


def test_a_saved_run_grants_no_trust_unless_it_is_typed_again(tmp_path: Path) -> None:
    run = saved(tmp_path / "run", "+callbacks.x._target_=mine.B", "trusted_targets=[mine]")
    with pytest.raises(ConfigError, match=r"add 'trusted_targets=\[mine\]' to the command"):
        check_command_line([f"resume={run}"])
    given = [f"resume={run}", "trusted_targets=[mine]"]
    assert check_command_line(given) == ["+callbacks.x._target_=mine.B", *given]


def test_a_run_in_a_trusted_folder_counts_as_typed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trusting(monkeypatch, tmp_path, f"trusted_folders: [{tmp_path}/runs]")
    lines = ["+callbacks.x._target_=mine.B", "trusted_targets=[mine]", "hydra.output_subdir=h"]
    given = [f"resume={saved(tmp_path / 'runs' / 'a', *lines)}"]
    assert check_command_line(given) == [*lines, *given, "++trusted_targets=[mine]"]
    other = saved(tmp_path / "other", *lines)
    with pytest.raises(ConfigError, match=r"hydra\.output_subdir is set by "):
        check_command_line([f"resume={other}"])


@pytest.mark.parametrize("content", ["lr: 0.1", "- 3", "- {lr: 1}", "nonsense"])
def test_a_file_without_a_list_of_overrides_is_an_error(content: str, tmp_path: Path) -> None:
    run = saved(tmp_path / "run")
    (run / ".hydra" / "overrides.yaml").write_text(content)
    with pytest.raises(ConfigError, match="must contain a list of overrides"):
        check_command_line([f"resume={run}"])
