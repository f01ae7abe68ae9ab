"""A sweep in this process."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from nntrain.sweeps.errors import SweepError
from nntrain.sweeps.report.html import REPORT
from nntrain.sweeps.study.opening import open_study
from tests.sweeps.small_app import App


def test_a_file_that_cannot_be_written_ends_the_sweep_in_one_sentence(
    app: App, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    sweep = app.sweep("x=interval(0,1)", "hydra.sweeper.n_trials=3")
    report = sweep.plan.folder / REPORT
    report.mkdir(parents=True)
    with pytest.raises(SweepError, match=re.escape(f"cannot use {report} (Is a directory)")):
        sweep.run()
    assert len(open_study(sweep.plan)[0].get_trials()) == 3
    report.rmdir()
    assert sweep.run() == 0
    assert report.is_file()
