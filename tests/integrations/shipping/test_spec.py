"""Trackers as settings: made again from them in the shipper, and only those that are trusted."""

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from nntrain.config.errors import ConfigError
from nntrain.integrations.memory import MemoryTracker
from nntrain.integrations.mlflow import MLflowTracker
from nntrain.integrations.shipping.spec import node_of, tracker_of

OWN = "nntrain.integrations"


@pytest.mark.parametrize(
    "tracker", [MemoryTracker(True), MLflowTracker("sqlite:///a.db", "name", tags={"a": "b"})]
)
def test_a_tracker_is_made_again_from_its_settings(tracker: Any) -> None:
    node = json.loads(json.dumps(node_of(tracker)))
    assert tracker_of(node) == tracker


@dataclass
class Impostor:
    """A dataclass that is no tracker."""


@pytest.mark.parametrize(
    ("target", "trusted", "message"),
    [
        ("subprocess.Popen", (), "is not trusted"),
        ("nntrain.models.mlp", (), "is not trusted"),
        (f"{OWN}.launch.subprocess.Popen", (), "is not trusted"),
        (f"{OWN}.launch.os.system", (), "is not trusted"),
        (f"{OWN}.resume.link_or_copy", (), "is no dataclass, as every tracker is"),
        (f"{OWN}.writer.JournalWriter", (), "is no dataclass, as every tracker is"),
        (f"{OWN}.journal.read_journal", (), "is no dataclass, as every tracker is"),
        (f"{OWN}.base.RunInfo", (), "is no nntrain.integrations.tracker.Tracker"),
        (f"{__name__}.Impostor", ("tests",), "is no nntrain.integrations.tracker.Tracker"),
        (f"{OWN}.memory.MemoryTrackr", (), "did you mean MemoryTracker?"),
        (f"{OWN}.memory._hidden", (), "is private"),
        (7, (), "is no dotted path"),
    ],
)
def test_what_is_no_trusted_tracker_is_refused_before_it_is_called(
    target: Any, trusted: tuple[str, ...], message: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        tracker_of({"_target_": target}, trusted)
    assert str(caught.value).startswith("tracker._target_=")
    assert message in str(caught.value)


STANDIN = """
import importlib.util, sys
sys.modules["nntrain"] = importlib.util.module_from_spec(importlib.util.find_spec("nntrain"))
import nntrain.integrations.shipping.shipper
from nntrain.integrations.standin import run_whole_package
assert "torch" not in sys.modules, "the shipper imports torch"
run_whole_package()
from nntrain import Learner, StopReason
from nntrain.result import StopReason as same
assert same is StopReason
run_whole_package()
"""


@pytest.mark.slow
def test_the_shipper_does_without_torch_until_a_package_needs_it(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", STANDIN], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
