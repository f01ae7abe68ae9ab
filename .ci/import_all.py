"""Imports all modules of the installed wheel; fails if a package is missing from the wheel."""

import importlib
import pkgutil

import nntrain

EXPECTED = {
    "app",
    "callbacks",
    "conf",
    "config",
    "core",
    "data",
    "integrations",
    "metrics",
    "models",
    "statistics",
    "sweeps",
    "testing",
}

names = [module.name for module in pkgutil.walk_packages(nntrain.__path__, "nntrain.")]
for name in [*names, "hydra_plugins.nntrain_sweeper"]:
    importlib.import_module(name)
missing = EXPECTED - {name.split(".")[1] for name in names}
if missing:
    raise SystemExit(f"not in the wheel: {sorted(missing)}")
print(f"imported {len(names)} modules")
