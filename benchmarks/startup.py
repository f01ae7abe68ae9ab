"""Compares the startup times of the nntrain command line and a bare Hydra application.

The bare application is `@hydra.main` with the configuration files of nntrain and its sweeper, so
both applications print the same output. Each result is the median wall time of a whole process. The
two applications run alternately. Run the benchmark with `python benchmarks/startup.py`. Options:
`--json out.json --repeats 20`.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from hydra_plugins.nntrain_sweeper.config import CONF, SweeperConfig
from omegaconf import OmegaConf

import nntrain.conf
from nntrain.conf.schema import Config

BARE = """\
import hydra

@hydra.main(version_base="1.3", config_path="conf", config_name="config")
def main(cfg):
    pass

main()
"""

TOUR = {
    "--help": (["--help"], ""),
    "completion of model=": (["-sc", "query=bash"], "app model="),
    "--cfg job": (["--cfg", "job"], ""),
}
"""For each measurement: the command-line arguments, and the line that the shell completes."""


def make_bare(folder: Path) -> Path:
    """Writes the bare application to a folder and returns the path of its script."""
    conf = folder / "conf"
    for source in (Path(nntrain.conf.__path__[0]), CONF):
        shutil.copytree(
            source, conf, ignore=shutil.ignore_patterns("*.py", "__pycache__"), dirs_exist_ok=True
        )
    for name, typed in (("schema", Config), ("hydra/sweeper/nntrain", SweeperConfig)):
        (conf / f"{name}.yaml").write_text(OmegaConf.to_yaml(OmegaConf.structured(typed)))
    script = folder / "bare.py"
    script.write_text(BARE)
    return script


def run(command: Sequence[str], line: str, folder: Path) -> tuple[float, str]:
    """Runs a command and returns its wall time in seconds and its output."""
    env = {**os.environ, "COMP_LINE": line, "COMP_POINT": str(len(line)), "COMP_CWORD": "1"}
    start = time.perf_counter()
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=True)
    return time.perf_counter() - start, done.stdout


def compare(repeats: int) -> dict[str, dict[str, float]]:
    """Measures both applications alternately with each set of arguments in `TOUR`."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        apps = {
            "bare": [sys.executable, str(make_bare(folder))],
            "nntrain": [sys.executable, "-m", "nntrain.run"],
        }
        return {what: _figures(apps, *asked, folder, repeats) for what, asked in TOUR.items()}


def _figures(
    apps: dict[str, list[str]], args: list[str], line: str, folder: Path, repeats: int
) -> dict[str, float]:
    times: dict[str, list[float]] = {app: [] for app in apps}
    printed: set[str] = set()
    for repeat in range(repeats + 1):
        for app, command in apps.items():
            took, text = run([*command, *args], line, folder)
            printed.add(text)
            if repeat:  # the first run only warms up the disk cache
                times[app].append(took)
    assert len(printed) == 1, f"{args}: the two applications printed different output"
    medians = {app: statistics.median(taken) for app, taken in times.items()}
    return {**medians, "ratio": medians["nntrain"] / medians["bare"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    figures = compare(args.repeats)
    for what, row in figures.items():
        print(
            f"{what:<22} bare {row['bare']:.3f} s   nntrain {row['nntrain']:.3f} s   "
            f"ratio {row['ratio']:.2f}"
        )
    if args.json:
        args.json.write_text(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
