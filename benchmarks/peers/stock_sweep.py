"""Runs the sweep with hydra-optuna-sweeper and the joblib launcher, without pruning.

Usage: `stock_sweep.py -m n_epoch=N ...`.
"""

import hydra
from hydra.core.config_store import ConfigStore
from work import train

SPACE = {
    "lr": "tag(log, interval(1e-4, 1))",
    "hidden": "choice(32, 64, 128, 256)",
    "optimizer": "choice(sgd, adam, adamw)",
}
DEFAULTS = [{"override hydra/sweeper": "optuna"}, {"override hydra/launcher": "joblib"}, "_self_"]
CONFIG = {
    "defaults": DEFAULTS,
    "lr": 1e-2,
    "hidden": 128,
    "optimizer": "adamw",
    "n_epoch": 1,
    "hydra": {"sweeper": {"params": SPACE}},
}
ConfigStore.instance().store(name="stock", node=CONFIG)


@hydra.main(version_base="1.3", config_path=None, config_name="stock")
def main(cfg):
    return train(cfg, cfg.n_epoch)


if __name__ == "__main__":
    main()
