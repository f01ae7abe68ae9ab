"""Functions for the folder of a run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from nntrain.config.redact import Redactor


def write_config(
    folder: Path, cfg: DictConfig, overrides: Sequence[str], redactor: Redactor
) -> None:
    """Writes `.hydra/config.yaml`, unresolved and without secrets, and `.hydra/overrides.yaml`."""
    hydra_folder = folder / ".hydra"
    hydra_folder.mkdir(parents=True, exist_ok=True)
    plain = redactor.value(OmegaConf.to_container(cfg, resolve=False))
    (hydra_folder / "config.yaml").write_text(OmegaConf.to_yaml(OmegaConf.create(plain)))
    (hydra_folder / "overrides.yaml").write_text(OmegaConf.to_yaml(list(overrides)))


def remove_if_empty(folder: Path, since: float) -> None:
    """Removes a run folder and its two parent folders, if they are new and empty.

    Args:
        folder: the run folder.
        since: folders that were modified before this time (in seconds since the epoch) are kept.
    """
    for path in (folder, *list(folder.parents)[:2]):
        if path == Path.cwd() or path.stat().st_mtime < since or any(path.iterdir()):
            return
        path.rmdir()
