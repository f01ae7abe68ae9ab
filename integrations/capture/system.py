"""What the training process uses of its machine, seen from another process."""

from __future__ import annotations

import importlib
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, cast

try:
    import psutil
except ImportError:
    psutil = None

SHORTEST_S = 0.1
"""Over less time than this, in seconds, the system's clock ticks too coarsely for the percentage of a CPU."""

_MIB, _GIB = 2**20, 2**30


class Nvml(Protocol):
    """The functions of NVIDIA's management library that are used here, as the module `pynvml` has them."""

    NVMLError: type[Exception]

    def nvmlInit(self) -> None:
        """Opens the library."""

    def nvmlDeviceGetCount(self) -> int:
        """How many GPUs there are."""

    def nvmlDeviceGetHandleByIndex(self, index: int, /) -> Any:
        """A GPU by its number."""

    def nvmlDeviceGetHandleByUUID(self, uuid: str, /) -> Any:
        """A GPU, or a slice of one (MIG), by its name."""

    def nvmlDeviceGetUUID(self, handle: Any, /) -> str:
        """The name of a GPU."""

    def nvmlDeviceGetUtilizationRates(self, handle: Any, /) -> Any:
        """Its attribute `gpu` is the percentage of the time in which a kernel ran."""

    def nvmlDeviceGetMemoryInfo(self, handle: Any, /) -> Any:
        """Its attributes `used` and `total` are in bytes."""

    def nvmlDeviceGetPowerUsage(self, handle: Any, /) -> int:
        """In milliwatts."""

    def nvmlDeviceGetTemperature(self, handle: Any, sensor: int, /) -> int:
        """In degrees Celsius; sensor 0 is the chip."""


class SystemMetrics:
    """Samples what a process uses of its machine; without psutil it gives nothing, without nvidia-ml-py no GPU.

    ==================================  ===========================================================================
    `system/cpu_percent`                the process and its children, as a DataLoader's workers are, since the last
                                        sample; 100 is one core
    `system/memory_rss_mib`             resident memory of the process and its children, in MiB; shared pages count
                                        in each
    `system/machine_cpu_percent`        all cores of the machine since the last sample, 0 to 100
    `system/machine_memory_percent`     memory of the machine that is in use, 0 to 100
    `system/disk_free_gib`              free space where the process works, in GiB
    `system/gpu_N_utilization_percent`  time in which a kernel ran, 0 to 100
    `system/gpu_N_memory_mib`           memory in use, by whatever process, in MiB
    `system/gpu_N_memory_percent`       the same of what there is, 0 to 100
    `system/gpu_N_power_w`              power, in W
    `system/gpu_N_temperature_c`        temperature, in degrees Celsius
    ==================================  ===========================================================================

    The process that samples and its children are left out. N is the GPU's number in the sampled process, that of
    `cuda:N`: only those count that its `CUDA_VISIBLE_DEVICES` named when it was started. What a device cannot tell, such
    as a MIG slice its power, is left out.

    Args:
        pid: the process.
        nvml: stands for the module `pynvml`; `None` imports that if it is installed.
    """

    def __init__(self, pid: int, nvml: Nvml | None = None) -> None:
        self._process = _process(pid)
        self._nvml = nvml or _pynvml()
        self._gpus = (
            _visible_gpus(self._nvml, _visible_devices(self._process)) if self._nvml else []
        )
        self._before = _CpuTimes.of(self._tree())

    def sample(self) -> dict[str, float]:
        """The values by name; none if the process has ended or psutil is not installed."""
        tree = self._tree()
        if not tree:
            return {}
        usage = {**self._cpu(tree), **_memory(tree), **_disk(tree[0])}
        for n, handle in enumerate(self._gpus):
            usage |= {
                f"gpu_{n}_{name}": value for name, value in _gpu(cast(Nvml, self._nvml), handle)
            }
        return {f"system/{name}": value for name, value in usage.items()}

    def _tree(self) -> list[Any]:
        with suppress(*_gone()):
            if self._process is not None and self._process.status() != psutil.STATUS_ZOMBIE:
                return [self._process, *_without_this(self._process.children(recursive=True))]
        return []

    def _cpu(self, tree: list[Any]) -> dict[str, float]:
        now = _CpuTimes.of(tree)
        elapsed = now.time_s - self._before.time_s
        if elapsed < SHORTEST_S:
            return {}
        before, self._before = self._before, now
        used = sum(
            seconds - before.processes.get(process, 0.0)
            for process, seconds in now.processes.items()
        )
        idle = (now.idle_s - before.idle_s) / (elapsed * psutil.cpu_count())
        return {
            "cpu_percent": 100 * used / elapsed,
            "machine_cpu_percent": 100 * min(max(1 - idle, 0.0), 1.0),
        }


@dataclass(frozen=True, slots=True)
class _CpuTimes:
    """Seconds of CPU time: how long the machine's cores were idle, and how long each process has run on them."""

    time_s: float
    idle_s: float = 0.0
    processes: Mapping[Any, float] = field(default_factory=dict)

    @classmethod
    def of(cls, tree: list[Any]) -> _CpuTimes:
        if not tree:
            return cls(time.monotonic())
        times = psutil.cpu_times()
        return cls(
            time.monotonic(),
            times.idle + getattr(times, "iowait", 0.0),
            dict(_of_each(tree, _cpu_s)),
        )


def _cpu_s(process: Any) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def _without_this(children: list[Any]) -> list[Any]:
    """The processes less this one and its own children, if it is one of them."""
    this = psutil.Process()
    if this not in children:
        return children
    left_out = {this, *this.children(recursive=True)}
    return [child for child in children if child not in left_out]


def _of_each(tree: list[Any], read: Callable[[Any], float]) -> Iterator[tuple[Any, float]]:
    for process in tree:
        with suppress(*_gone()):
            yield process, read(process)


def _memory(tree: list[Any]) -> dict[str, float]:
    rss = sum(
        value for _, value in _of_each(tree, lambda process: float(process.memory_info().rss))
    )
    return {"memory_rss_mib": rss / _MIB, "machine_memory_percent": psutil.virtual_memory().percent}


def _disk(process: Any) -> dict[str, float]:
    with suppress(OSError, *_gone()):
        return {"disk_free_gib": psutil.disk_usage(process.cwd()).free / _GIB}
    return {}


def _gpu(nvml: Nvml, handle: Any) -> Iterator[tuple[str, float]]:
    with suppress(nvml.NVMLError):
        yield "utilization_percent", float(nvml.nvmlDeviceGetUtilizationRates(handle).gpu)
    with suppress(nvml.NVMLError):
        memory = nvml.nvmlDeviceGetMemoryInfo(handle)
        yield "memory_mib", memory.used / _MIB
        yield "memory_percent", 100 * memory.used / memory.total
    with suppress(nvml.NVMLError):
        yield "power_w", nvml.nvmlDeviceGetPowerUsage(handle) / 1000
    with suppress(nvml.NVMLError):
        yield "temperature_c", float(nvml.nvmlDeviceGetTemperature(handle, 0))


def _visible_gpus(nvml: Nvml, visible: str | None) -> list[Any]:
    """The GPUs in the order in which CUDA numbers them for a process with that `CUDA_VISIBLE_DEVICES`."""
    try:
        nvml.nvmlInit()
        handles = [nvml.nvmlDeviceGetHandleByIndex(i) for i in range(nvml.nvmlDeviceGetCount())]
        return handles if visible is None else list(_named(nvml, handles, visible.split(",")))
    except nvml.NVMLError:  # no driver, or no GPU
        return []


def _named(nvml: Nvml, handles: list[Any], names: list[str]) -> Iterator[Any]:
    for name in map(str.strip, names):
        found = handles[int(name) :][:1] if name.isdigit() else _by_uuid(nvml, handles, name)
        if not found:
            return  # as CUDA does, which takes nothing after a name that it does not know
        yield found[0]


def _by_uuid(nvml: Nvml, handles: list[Any], name: str) -> list[Any]:
    if name.startswith("MIG-"):
        with suppress(nvml.NVMLError):
            return [nvml.nvmlDeviceGetHandleByUUID(name)]
    return [
        handle for handle in handles if name and nvml.nvmlDeviceGetUUID(handle).startswith(name)
    ]


def _visible_devices(process: Any) -> str | None:
    with suppress(*_gone()):
        return (
            None
            if process is None
            else cast("str | None", process.environ().get("CUDA_VISIBLE_DEVICES"))
        )
    return None


def _process(pid: int) -> Any:
    with suppress(*_gone()):
        return None if psutil is None else psutil.Process(pid)
    return None


def _gone() -> tuple[type[Exception], ...]:
    """What psutil raises for a process that has ended, or that belongs to somebody else."""
    return () if psutil is None else (psutil.NoSuchProcess, psutil.AccessDenied)


def _pynvml() -> Nvml | None:
    with suppress(ImportError):
        return cast(Nvml, importlib.import_module("pynvml"))
    return None


# --- whose turn it is

NICENESS = 10
"""Enough for training to have nine tenths of a core that the shipper wants too, and little enough for it to get on."""


def give_way() -> None:
    """Lets training come first where both want the same core.

    Where Linux groups processes by session, as it does by default on desktops, this counts within the session only.
    """
    os.nice(NICENESS)


def children_give_way() -> None:
    """Does the same for what a tracker's library has started as a session of its own, by the niceness of that."""
    for child in () if psutil is None else psutil.Process().children(recursive=True):
        with suppress(OSError):  # no such grouping here, or the process has gone
            if os.getsid(child.pid) != os.getsid(0):
                Path(f"/proc/{child.pid}/autogroup").write_text(str(NICENESS))
