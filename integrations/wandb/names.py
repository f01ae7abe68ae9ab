"""Converts names and values to the form that Weights & Biases expects."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import Any

MAX_ARTIFACT_NAME = 128
"""The maximum number of characters in the name of an artifact."""

_LESS_IS_BETTER = frozenset({"loss", "error", "mae", "mse", "msle", "rmse", "rmspe", "perplexity"})
_MORE_IS_BETTER = frozenset(
    {
        *("acc", "accuracy", "auc", "auroc", "bleu", "dice", "f1", "fbeta", "iou", "jaccard"),
        *("kappa", "precision", "psnr", "r2", "recall", "score", "ssim"),
    }
)


def summary(key: str) -> str | None:
    """Chooses which value of a metric W&B shows as the result of the run.

    Returns `min` for losses and errors, `max` for scores, and `None` for other metrics, whose last
    value is shown.
    """
    words = {word.lower() for word in re.findall(r"[A-Z]?[a-z0-9]+|[A-Z]+[0-9]*", key)}
    if words & _LESS_IS_BETTER or "loss" in key.lower():
        return "min"
    return "max" if words & _MORE_IS_BETTER else None


def nested(params: Mapping[str, Any]) -> dict[str, Any]:
    """Converts flattened params to the nested mapping that W&B expects.

    The params stay flat if a key has both a value and subkeys.
    """
    tree: dict[str, Any] = {}
    for key, value in params.items():
        *parents, last = str(key).split(".")
        node: Any = tree
        for part in parents:
            node = node.setdefault(part, {}) if isinstance(node, dict) else None
        if not isinstance(node, dict) or last in node:
            return {str(key): value for key, value in params.items()}
        node[last] = value
    return tree


def artifact_name(uid: str, name: str) -> str:
    """Returns an artifact name that is unique in the project and valid in W&B."""
    fitting = f"run-{uid}-{re.sub(r'[^a-zA-Z0-9_.-]', '_', name)}"
    if len(fitting) <= MAX_ARTIFACT_NAME:
        return fitting
    return f"{fitting[: MAX_ARTIFACT_NAME - 9]}_{hashlib.sha256(name.encode()).hexdigest()[:8]}"
