"""The schema of the top-level configuration keys, which Hydra checks before a run."""

from dataclasses import dataclass, field
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING


@dataclass
class Config:
    """Names and types of the top-level keys; `config.yaml` explains them."""

    seed: int = MISSING
    n_epoch: int = MISSING
    lr: float = MISSING
    device: str = MISSING
    objective: Any = None
    trusted_targets: list[str] = field(default_factory=list)
    resume: str | None = None
    data: Any = MISSING
    model: Any = MISSING
    loss: Any = MISSING
    optimizer: Any = MISSING
    schedule: Any = None
    metrics: Any = None
    callbacks: Any = None
    tracker: Any = None
    redact: list[str] = field(default_factory=list)


ConfigStore.instance().store(name="schema", node=Config, provider="nntrain")
