"""The shipper creates trackers from their specs, if they are trusted."""

import json
from dataclasses import dataclass, field
from typing import Any, ClassVar

import pytest

from nntrain.config.errors import ConfigError
from nntrain.config.redact import Redactor, learn
from nntrain.integrations.memory import MemoryTracker
from nntrain.integrations.mlflow import MLflowTracker
from nntrain.integrations.shipping.spec import resolved, spec_of, tracker_of
from nntrain.integrations.tracker import Tracker, TrackerClient
from nntrain.integrations.wandb import WandbTracker

OWN = "nntrain.integrations"


@pytest.mark.parametrize(
    "tracker",
    [
        MemoryTracker(True),
        MLflowTracker("sqlite:///a.db", "name", tags={"a": "b"}),
        WandbTracker("project", tags=["a", "b"], mode="offline"),
    ],
)
def test_a_tracker_is_created_again_from_its_spec(tracker: Tracker) -> None:
    spec = spec_of(tracker)
    assert json.loads(json.dumps(spec)) == spec
    again = tracker_of(spec)
    assert (type(again), spec_of(again)) == (type(tracker), spec)


@pytest.mark.parametrize(
    ("tracker", "target"),
    [
        (MemoryTracker(), f"{OWN}.memory.MemoryTracker"),
        (MLflowTracker(), f"{OWN}.mlflow.MLflowTracker"),
        (WandbTracker(), f"{OWN}.wandb.WandbTracker"),
    ],
)
def test_the_name_of_the_class_in_a_spec_has_not_changed_since_version_0_1_0(
    tracker: Tracker, target: str
) -> None:
    assert spec_of(tracker)["_target_"] == target


def test_fields_that_the_constructor_does_not_accept_are_not_in_the_spec() -> None:
    tracker = MemoryTracker()
    tracker.connect()
    assert spec_of(tracker) == {"_target_": f"{OWN}.memory.MemoryTracker", "system_metrics": False}


@dataclass
class Impostor:
    """A dataclass that is not a tracker."""

    made: ClassVar[int] = 0

    def __post_init__(self) -> None:
        Impostor.made += 1


class Plain(Tracker):
    """A tracker that is not a dataclass."""

    made: ClassVar[int] = 0

    def __init__(self) -> None:
        Plain.made += 1

    def connect(self) -> TrackerClient:
        raise NotImplementedError


@dataclass(frozen=True)
class Holder(Tracker):
    """A tracker with a setting of any type."""

    value: Any = None
    held: list[Any] = field(default_factory=list)

    def connect(self) -> TrackerClient:
        raise NotImplementedError


NOT_A_TRACKER = "is not a tracker class: use a dataclass that derives from"


@pytest.mark.parametrize(
    ("target", "trusted", "message"),
    [
        ("subprocess.Popen", (), "is not trusted"),
        ("nntrain.models.mlp", (), "is not trusted"),
        ("torch.nn.Linear", (), "is not trusted"),
        (f"{OWN}.shipping.client.subprocess.Popen", (), "is not trusted"),
        (f"{OWN}.shipping.client.os.system", (), "is not trusted"),
        (f"{OWN}.mlflow.os.remove", (), "is not trusted"),
        (f"{OWN}.shipping.continuation.link_or_copy", (), "is not trusted"),
        (f"{OWN}.shipping.continuation.continue_journal", (), "is not trusted"),
        (f"{OWN}.journal.writer.JournalWriter", (), "is not trusted"),
        (f"{OWN}.journal.records.read_journal", (), "is not trusted"),
        (f"{OWN}.mlflow.use_client_settings", (), "cannot be used in a configuration"),
        (f"{OWN}.mlflow.client.MLflowTrackerClient", (), "is not trusted"),
        (f"{OWN}.tracker.RunInfo", (), "is not trusted"),
        (f"{OWN}.tracker.Tracker", (), "is not trusted"),
        (f"{__name__}.Impostor", ("tests",), NOT_A_TRACKER),
        (f"{__name__}.Plain", ("tests",), NOT_A_TRACKER),
        (f"{OWN}.memory.MemoryTrackr", (), "did you mean"),
        (f"{OWN}.memory._content", (), "is private"),
        (7, (), "7"),
        (None, (), "None"),
    ],
)
def test_targets_other_than_trusted_trackers_are_refused_before_they_are_called(
    target: Any, trusted: tuple[str, ...], message: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        tracker_of({"_target_": target}, trusted)
    assert str(caught.value).startswith("tracker._target_=")
    assert message in str(caught.value)
    assert (Impostor.made, Plain.made) == (0, 0)


@pytest.mark.parametrize("key", ["value", "held"])
def test_a_target_among_the_settings_is_never_called(key: str) -> None:
    harmful = {"_target_": f"{__name__}.Impostor"}
    spec = {"_target_": f"{__name__}.Holder", key: [harmful] if key == "held" else harmful}
    with pytest.raises(ConfigError, match="is not trusted"):
        tracker_of({**spec, key: [{"_target_": "os.system", "command": "x"}]}, ["tests"])
    assert spec_of(tracker_of(spec, ["tests"]))[key] == spec[key]
    assert Impostor.made == 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"trackin_uri": "x"}, "did you mean"),
        ({"system_metrics": "perhaps"}, "system_metrics"),
        ({"tracking_uri": "foo://bar"}, "is not a valid MLflow store"),
    ],
)
def test_settings_that_the_class_does_not_accept_are_an_error(
    settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        tracker_of({"_target_": f"{OWN}.mlflow.MLflowTracker", **settings})


def test_a_tracker_that_is_not_a_dataclass_has_no_spec() -> None:
    with pytest.raises(ConfigError, match="is not a tracker class"):
        spec_of(Plain())


def test_what_a_tracker_shows_contains_no_secret_and_its_login_stays() -> None:
    learn(Redactor(config={"password": "Zq7-hunter2"}))
    uri = "http://me:Zq7-hunter2@host"
    mlflow = resolved(MLflowTracker(uri, tags={"origin": "a Zq7-hunter2", "api_key": "b"}))
    assert isinstance(mlflow, MLflowTracker)
    assert mlflow.tags == {"origin": "a ***", "api_key": "***"}
    assert mlflow.tracking_uri == uri
    wandb = resolved(WandbTracker(tags=["Zq7-hunter2", "b"], notes="my Zq7-hunter2"))
    assert isinstance(wandb, WandbTracker)
    assert (wandb.tags, wandb.notes) == (("***", "b"), "my ***")
