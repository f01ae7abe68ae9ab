"""Writes losses.json: label smoothing as computed by fastai.

Run this script in an environment without nntrain: `pip install torch fastai==2.8.*`.
"""

import json
from pathlib import Path

import torch
from fastai.losses import LabelSmoothingCrossEntropy

CASES = [(0.1, "mean"), (0.1, "sum"), (0.3, "mean"), (0.0, "mean")]


def main() -> None:
    torch.manual_seed(0)
    pred, target = torch.randn(7, 5), torch.randint(5, (7,))
    losses = [
        {
            "eps": eps,
            "reduction": reduction,
            "loss": LabelSmoothingCrossEntropy(eps=eps, reduction=reduction)(pred, target).item(),
        }
        for eps, reduction in CASES
    ]
    reference = {"pred": pred.tolist(), "target": target.tolist(), "label_smoothing": losses}
    (Path(__file__).parent / "losses.json").write_text(json.dumps(reference, indent=1) + "\n")


if __name__ == "__main__":
    main()
