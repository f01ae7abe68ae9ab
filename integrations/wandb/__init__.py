"""Settings of the Weights & Biases tracker. This module does not import wandb."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Self

from nntrain.integrations.tracker import Tracker
from nntrain.integrations.wandb.checks import check_base_url, check_project, check_tags
from nntrain.integrations.wandb.user_files import MODES, user_mode, user_settings

if TYPE_CHECKING:
    from nntrain.integrations.wandb.client import WandbClient

DEFAULT_PROJECT = "nntrain"


@dataclass(frozen=True)
class WandbTracker(Tracker):
    """Records runs in Weights & Biases.

    W&B reads the credentials from `WANDB_API_KEY` or from the file written by `wandb login`. In
    mode `offline`, a run is written to `DIR/wandb/offline-run-TIME-UID`; upload it with `wandb
    sync`. W&B itself records CPU, memory and GPU usage.

    Args:
        project: the project; defaults to `WANDB_PROJECT`, then to the one that `wandb init` has
            set, then to `nntrain`.
        entity: the user or team; defaults to `WANDB_ENTITY`, then to the one that `wandb init` has
            set, then to the account's default.
        group: the group of runs that W&B displays together; defaults to `WANDB_RUN_GROUP`, then to
            the group in `RunInfo`, such as the name of a study.
        job_type: the kind of work, for example `train`; defaults to `WANDB_JOB_TYPE`. The run of
            a study always has the job type `study`.
        run_name: the name of the run; defaults to `WANDB_NAME`, then to the name in `RunInfo`, then
            to a name chosen by W&B.
        tags: additional tags, each of 1 to 64 characters; an empty list uses `WANDB_TAGS`.
        notes: a description that W&B displays with the run; defaults to `WANDB_NOTES`.
        mode: `online`, `offline` or `disabled`; defaults to `disabled` if `WANDB_DISABLED` is true,
            then to `WANDB_MODE`, then to the one that `wandb offline` or `wandb disabled` has set,
            then to `online`.
        dir: the folder in which to create `wandb/`; defaults to `WANDB_DIR`, then to the current
            folder.
        base_url: the URL of the server; defaults to `WANDB_BASE_URL`, then to the server in W&B's
            own settings.

    Raises:
        ImportError: if wandb is not installed; the message contains the command to install it.
        ValueError: if `mode` is not one of these values.
        ConfigError: if W&B would not accept the mode, the project, the tags or the server, or its
            own settings file cannot be read.
    """

    project: str | None = None
    entity: str | None = None
    group: str | None = None
    job_type: str | None = None
    run_name: str | None = None
    tags: Sequence[str] = ()
    notes: str | None = None
    mode: str | None = None
    dir: str | None = None
    base_url: str | None = None

    def __post_init__(self) -> None:
        if importlib.util.find_spec("wandb") is None:
            raise ImportError("The W&B tracker needs wandb: pip install 'nntrain[wandb]'.")
        if self.mode is not None and self.mode not in MODES:
            raise ValueError(
                f"mode={self.mode!r} is not a W&B mode: expected one of {', '.join(MODES)}."
            )
        object.__setattr__(self, "tags", tuple(self.tags))  # a configuration passes a list
        if (self.mode or user_mode()) != "disabled":  # finds mistakes before training
            self._check()

    def _check(self) -> None:
        """Checks the settings, also those from the environment, as W&B does after the start."""
        files = user_settings()
        check_project(self._project(files))
        check_tags(self._tags())
        check_base_url(self._base_url(files))

    def _project(self, files: Mapping[str, str]) -> str:
        given = self.project or os.environ.get("WANDB_PROJECT")
        return given or files.get("project") or DEFAULT_PROJECT

    def _tags(self) -> Sequence[str]:
        tags = os.environ.get("WANDB_TAGS")
        return self.tags or (tags.split(",") if tags else ())

    def _base_url(self, files: Mapping[str, str]) -> str | None:
        return self.base_url or os.environ.get("WANDB_BASE_URL") or files.get("base_url")

    def resolved(self) -> Self:
        """Returns the settings with values from the environment and with an absolute folder."""
        environ = os.environ.get
        files = user_settings()
        return replace(
            self,
            project=self._project(files),
            entity=self.entity or environ("WANDB_ENTITY") or files.get("entity"),
            group=self.group or environ("WANDB_RUN_GROUP"),
            job_type=self.job_type or environ("WANDB_JOB_TYPE"),
            run_name=self.run_name or environ("WANDB_NAME"),
            tags=self._tags(),
            notes=self.notes or environ("WANDB_NOTES"),
            mode=self.mode or user_mode(),
            dir=str(Path(self.dir or environ("WANDB_DIR") or "").absolute()),
            base_url=self._base_url(files),
        )

    def destination(self) -> Mapping[str, object]:
        """Returns the local folder and, in mode `online`, the server."""
        if self.mode == "disabled":
            return {}
        folder = {"dir": Path(self.dir or "").absolute()}
        return folder if self.mode == "offline" else {**folder, "base_url": self.base_url}

    def connect(self) -> WandbClient:
        """Imports wandb, starts its service process, and returns a client."""
        from nntrain.integrations.wandb.client import WandbClient

        return WandbClient(self)
