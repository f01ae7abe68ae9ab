"""What a tracker is: a place that keeps runs. Trackers know nothing of the Learner, and no tracker runs in its process.

The training process writes a journal; the shipper, a process of its own, hands each record of it to each tracker. What
stands here is what both of them and every tracker share, and it imports neither torch nor a tracker's library.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from nntrain.result import StopReason

OUTCOME_TAG = "nntrain.outcome"
"""The tag of every run that says, in the words of `StopReason`, why it ended."""


@dataclass(frozen=True, slots=True)
class MetricRow:
    """Values that belong to one step: `time_ms` since the epoch of the clock, `step` in training batches."""

    time_ms: int
    step: int
    values: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class ProcessInfo:
    """The process that trains: what W&B would have found out by itself had it been imported there."""

    pid: int = 0
    host: str = ""
    cwd: str = ""
    program: str = ""
    args: Sequence[str] = ()
    executable: str = ""


@dataclass(frozen=True, slots=True)
class RunInfo:
    """What is known of a run when it starts.

    `uid` is the run's own name for machines, 16 hexadecimal digits that stay the same after a resume; `name` the one for
    people, or `None` to let the tracker find one. `params` are the flattened configuration, `texts` files to keep with the
    run, by name. `folder` is where the journal lies. `parent` is the `uid` of the run below which this one is shown, `group`
    the name of what both belong to: a study's, for its trials.
    """

    uid: str = ""
    name: str | None = None
    params: Mapping[str, Any] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    texts: Mapping[str, str] = field(default_factory=dict)
    process: ProcessInfo = field(default_factory=ProcessInfo)
    time_ms: int = 0
    folder: Path = Path()
    parent: str = ""
    group: str = ""

    @property
    def is_study(self) -> bool:
        """Whether it is the run of a study, below which its trials are shown."""
        return bool(self.group) and not self.parent


@dataclass(frozen=True, slots=True)
class Started:
    """A run that a tracker has begun or goes on with.

    `run_id` is the tracker's own name of it, `where` tells people where it is and how to look at it, in a line or two.
    `rows` is how many rows (of metrics, and a histogram record, figure and table each count as one) the tracker already
    holds, for one that cannot take a row twice: the journal is then sent from its beginning, less these rows. `None` means
    that the same row twice changes nothing, so that it goes on where the cursor stands.
    """

    run_id: str
    where: str
    rows: int | None = None


@dataclass(frozen=True, slots=True)
class RunEnd:
    """How a run ended: why, what to tell people, the signal if it was one, and when."""

    reason: StopReason
    message: str = ""
    signum: int | None = None
    time_ms: int = 0


@dataclass(frozen=True, slots=True)
class Table:
    """A table by name: the names of its columns, and its rows of numbers and strings."""

    name: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]


@dataclass(frozen=True, slots=True)
class ModelFile:
    """A model's weights: the file of its `state_dict` under the key `model`, and the configuration that makes the model.

    `node` is `None` where the model was not made from a configuration; `trusted_targets` are the packages, beside nntrain's
    own list, that `node` may name. `aliases` are names under which the tracker finds this version, such as `best`.
    """

    path: Path
    name: str
    aliases: Sequence[str] = ()
    node: Mapping[str, Any] | None = None
    trusted_targets: Sequence[str] = ()


class Refused(Exception):
    """The tracker will never take what it was sent, however often it is sent again; anything else raised is tried again."""


@runtime_checkable
class Tracker(Protocol):
    """Keeps one run at a time; steps and times are the caller's, and are never made up.

    A tracker is a dataclass whose fields are its settings, so that the shipper can make it again from them. Its methods are
    called in the shipper and may take as long as they like, but must not hang for ever: each raises `Refused` for what
    can never be taken, and whatever its library raises for what may work later.
    """

    @property
    def system_metrics(self) -> bool:
        """Whether the shipper is to record the use of processor, memory and GPU, since the library does not."""

    def settled(self) -> Tracker:
        """The same settings with what depends on this folder and environment written out; called in training."""

    def load(self) -> None:
        """Imports the tracker's library; called in the shipper before there is a run."""

    def start(self, run: RunInfo, run_id: str | None = None) -> Started:
        """Begins the run, or goes on with the one of that id, and opens it again if it has ended.

        Called twice for the same `uid` it finds the run that the first call made.
        """

    def metrics(self, rows: Sequence[MetricRow]) -> None:
        """Records rows of metrics, in as few calls as the store takes."""

    def histograms(
        self, row: MetricRow, edges: Sequence[float], counts: Mapping[str, Sequence[float]]
    ) -> None:
        """Records histograms by name, `counts` being one shorter than `edges`; a store without them does nothing."""

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Sets tags."""

    def figure(self, path: Path, name: str, step: int) -> None:
        """Keeps a figure, an image file, under that name (`plots/loss.png`)."""

    def table(self, table: Table, step: int) -> None:
        """Keeps a table."""

    def artifact(self, path: Path, name: str, aliases: Sequence[str] = ()) -> None:
        """Keeps a file under that name (`reports/confusion.csv`)."""

    def model(self, model: ModelFile) -> None:
        """Keeps a model's weights, and registers the model if the settings ask for it."""

    def finish(self, end: RunEnd) -> None:
        """Ends the run with the status that stands for the reason; returns when all of it is kept."""
