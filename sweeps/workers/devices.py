"""Which device each worker gets, before anything of CUDA is started."""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping, Sequence
from typing import Any

from nntrain.sweeps.errors import SweepError

VISIBLE = "CUDA_VISIBLE_DEVICES"

THREADS = "OMP_NUM_THREADS"
"""How many threads torch computes with on the CPU; by default each process takes as many as there are cores."""


def slots(
    gpus: Any, workers_per_gpu: int, n_jobs: int | None, there: Sequence[str] | None = None
) -> list[dict[str, str]]:
    """What is to be put into the environment of each worker.

    Args:
        gpus: `None` leaves the devices to the job, `"auto"` takes all there are, a number takes so many of them, and a list
            names them.
        workers_per_gpu: workers that share a device.
        n_jobs: how many workers there are; `None` makes one for each place on a device, or one if no device is asked for.
        there: the devices of this machine, as `CUDA_VISIBLE_DEVICES` names them; `None` asks the driver.

    Raises:
        SweepError: if there are fewer devices or places than asked for.
    """
    if workers_per_gpu < 1:
        raise SweepError(f"hydra.sweeper.workers_per_gpu={workers_per_gpu} must be at least 1.")
    if n_jobs is not None and n_jobs < 1:
        raise SweepError(
            f"hydra.sweeper.n_jobs={n_jobs} must be at least 1: the workers that run trials side by side."
        )
    if gpus is None or (gpus == "auto" and not (there := _there(there))):
        return [{} for _ in range(n_jobs or 1)]
    places = [
        {VISIBLE: name} for name in _chosen(gpus, _there(there)) for _ in range(workers_per_gpu)
    ]
    if n_jobs is not None and n_jobs > len(places):
        raise SweepError(
            f"hydra.sweeper.n_jobs={n_jobs} workers have no place on {len(places) // workers_per_gpu} GPUs with "
            f"workers_per_gpu={workers_per_gpu}: ask for fewer workers, or for more on each GPU."
        )
    spread = [
        places[i]
        for first in range(workers_per_gpu)
        for i in range(first, len(places), workers_per_gpu)
    ]
    return spread[: n_jobs or len(spread)]


def _there(there: Sequence[str] | None) -> list[str]:
    return list(visible_devices(os.environ)) if there is None else list(there)


def _chosen(gpus: Any, there: list[str]) -> list[str]:
    if gpus == "auto":
        return there
    if isinstance(gpus, bool) or not isinstance(gpus, int | str | Sequence):
        raise SweepError(
            f"hydra.sweeper.gpus={gpus} is no choice of GPUs: give auto, a number, a list of them, or null."
        )
    if not there:
        raise SweepError(f"hydra.sweeper.gpus={gpus}: there is no GPU here, leave it out.")
    if isinstance(gpus, int):
        if not 1 <= gpus <= len(there):
            raise SweepError(
                f"hydra.sweeper.gpus={gpus} asks for other than 1 to {len(there)}, the GPUs that are there: {', '.join(there)}."
            )
        return there[:gpus]
    names = (
        [name.strip() for name in gpus.split(",")]
        if isinstance(gpus, str)
        else [str(name) for name in gpus]
    )
    if not names:
        raise SweepError(
            "hydra.sweeper.gpus is an empty list: give auto, a number, a list of GPUs, or null."
        )
    for name in names:
        if name not in there:
            raise SweepError(
                f"hydra.sweeper.gpus names {name}, which is not there: there are {', '.join(there)}."
            )
    return names


def n_cores() -> int:
    """The cores that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)  # which macOS lacks
    return len(affinity(0)) if affinity is not None else os.cpu_count() or 1


def threads(n_jobs: int, cores: int, environ: Mapping[str, str]) -> dict[str, str]:
    """What gives each of several workers its share of the cores, unless the user has said otherwise."""
    return {} if n_jobs == 1 or THREADS in environ else {THREADS: str(max(1, cores // n_jobs))}


def visible_devices(environ: Mapping[str, str]) -> Sequence[str]:
    """The devices that this process may use: those it was given, else all that the driver knows; CUDA is not started."""
    if environ.get(VISIBLE) is not None:
        return [name.strip() for name in environ[VISIBLE].split(",") if name.strip()]
    try:
        pynvml = importlib.import_module("pynvml")
        pynvml.nvmlInit()
        return [str(i) for i in range(pynvml.nvmlDeviceGetCount())]
    except ImportError:
        return _count_by_files()
    except pynvml.NVMLError:  # no driver, or no GPU
        return []


def _count_by_files() -> list[str]:
    """The GPUs as the files of Linux's driver show them, where NVIDIA's library is not installed."""
    names = (
        name.removeprefix("nvidia") for name in os.listdir("/dev") if name.startswith("nvidia")
    )
    return sorted((name for name in names if name.isdigit()), key=int)
