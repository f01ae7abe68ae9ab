"""The figures of a tracked run are left out if matplotlib is not installed."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from nntrain.app.tracking import check_delivery, interrupt_timeout_s, tracking
from nntrain.config.errors import ConfigError
from nntrain.config.redact import Redactor
from nntrain.integrations.figures import FIGURES
from nntrain.integrations.tracker import RunInfo

MEMORY = {"mine": {"_target_": "nntrain.integrations.memory.MemoryTracker"}}


def figures(trackers: Mapping[str, Any]) -> list[list[str]]:
    """Returns the names of the figures of each tracker callback."""
    group = {"finish_timeout_s": 30.0, "offline": True, **trackers}
    cfg = {"tracker": group, "trusted_targets": [], "model": None}
    made = tracking(cfg, Path("run"), RunInfo(), Redactor(), FIGURES)
    return [list(callback.figures) for callback in made]


def test_without_matplotlib_one_line_says_that_figures_are_not_recorded(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert figures(MEMORY) == [list(FIGURES)]
    assert capsys.readouterr() == ("", "")
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert figures(MEMORY) == [[]]
    line = (
        "nntrain: figures are not recorded because matplotlib is not installed: "
        "pip install 'nntrain[plots]'\n"
    )
    assert capsys.readouterr() == ("", line)


def test_an_untracked_run_does_not_mention_matplotlib(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert figures({}) == []
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("key", ["finish_timeout_s", "interrupt_timeout_s"])
@pytest.mark.parametrize("value", [-1, "soon", True, None])
def test_a_timeout_that_is_not_a_number_of_seconds_is_an_error(key: str, value: object) -> None:
    group = {"finish_timeout_s": 30, "interrupt_timeout_s": 5, "offline": True, key: value}
    with pytest.raises(ConfigError, match=rf"tracker\.{key}={value} must be a number of seconds"):
        check_delivery(group)


def test_a_configuration_of_version_0_1_has_the_default_timeout_after_a_signal() -> None:
    check_delivery(old := {"finish_timeout_s": 30, "offline": True})
    assert interrupt_timeout_s(old) == 5
    assert interrupt_timeout_s({**old, "interrupt_timeout_s": 600}) == 600
