from pathlib import Path

import pytest
from omegaconf import OmegaConf

from nntrain.app.resume import changed_keys, check_resume
from nntrain.callbacks import Checkpoint
from nntrain.config.redact import Redactor
from tests.common.toys import toy_learner


def test_changed_settings_are_listed_except_those_that_are_free_to_change() -> None:
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


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("[", "config.yaml cannot be read (while parsing a flow node), so changed settings"),
        ("- a", "config.yaml is not a configuration, so changed settings are not shown."),
        ("\xff", "config.yaml cannot be read ('utf-8' codec can't decode byte 0xff"),
        ("lr: 0.1", "changed setting: lr: 0.1 -> 0.5"),
    ],
)
def test_a_saved_configuration_that_cannot_be_read_does_not_prevent_the_resume(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str, told: str
) -> None:
    toy_learner(cbs=[Checkpoint(tmp_path)]).fit(1)
    (tmp_path / ".hydra").mkdir()
    (tmp_path / ".hydra" / "config.yaml").write_bytes(content.encode("latin-1"))
    cfg = OmegaConf.create({"lr": 0.5, "n_epoch": 2})
    capsys.readouterr()
    check_resume(tmp_path, cfg, toy_learner(), Redactor())
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("nntrain: resume: ")
    assert told in line
