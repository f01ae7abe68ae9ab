"""System metrics: CPU, memory and GPU usage of a process, measured by another process."""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

try:
    import psutil
except ImportError:
    psutil = None

SHORTEST_S = 0.1
"""Minimum seconds between two samples; over shorter times, CPU percentages are too coarse."""

_MIB, _GIB = 2**20, 2**30


class Nvml(Protocol):
    """The part of `pynvml`, NVIDIA's management library, that this module uses."""

    NVMLError: type[Exception]

    def nvmlInit(self) -> None:
        """Initializes the library."""

    def nvmlDeviceGetCount(self) -> int:
        """Returns the number of GPUs."""

    def nvmlDeviceGetHandleByIndex(self, index: int, /) -> Any:
        """Returns a GPU by its index."""

    def nvmlDeviceGetHandleByUUID(self, uuid: str, /) -> Any:
        """Returns a GPU, or a MIG slice of one, by its UUID."""

    def nvmlDeviceGetUUID(self, handle: Any, /) -> str:
        """Returns the UUID of a GPU."""

    def nvmlDeviceGetUtilizationRates(self, handle: Any, /) -> Any:
        """Returns an object whose `gpu` is the percentage of time in which a kernel was running."""

    def nvmlDeviceGetMemoryInfo(self, handle: Any, /) -> Any:
        """Returns an object whose `used` and `total` are in bytes."""

    def nvmlDeviceGetPowerUsage(self, handle: Any, /) -> int:
        """Returns the power in milliwatts."""

    def nvmlDeviceGetTemperature(self, handle: Any, sensor: int, /) -> int:
        """Returns the temperature of a sensor in degrees Celsius; sensor 0 is the chip."""


class SystemMetrics:
    """Samples the CPU, memory, disk and GPU usage of a process.

    Without psutil, samples are empty; without nvidia-ml-py, they contain no GPU values.

    ==================================  ==========================================================
    `system/cpu_percent`                CPU usage of the process and its children, for example
                                        DataLoader workers, since the last sample; 100 is one core
    `system/memory_rss_mib`             resident memory of the process and its children, in MiB;
                                        shared pages are counted for each process
    `system/machine_cpu_percent`        usage of all cores since the last sample, 0 to 100
    `system/machine_memory_percent`     usage of the machine's memory, 0 to 100
    `system/disk_free_gib`              free space in the folder of the process, in GiB
    `system/gpu_N_utilization_percent`  time with a running kernel, 0 to 100
    `system/gpu_N_memory_mib`           memory in use by all processes, in MiB
    `system/gpu_N_memory_percent`       memory in use by all processes, 0 to 100
    `system/gpu_N_power_w`              power, in W
    `system/gpu_N_temperature_c`        temperature, in degrees Celsius
    ==================================  ==========================================================

    If the sampling process is a child of the sampled process, the sampling process and its own
    children are not included. N is the index of a GPU in the sampled process, as in `cuda:N`; GPUs
    that `CUDA_VISIBLE_DEVICES` hid when the sampled process started are not included. Values that a
    device does not report, for example the power of a MIG slice, are omitted.

    Args:
        pid: the process to sample.
        nvml: replacement for the module `pynvml`; `None` imports the module if it is installed.
    """

    def __init__(self, pid: int, nvml: Nvml | None = None) -> None:
        self._process = _process(pid)
        self._nvml = nvml or _pynvml()
        self._gpus = (
            _visible_gpus(self._nvml, _visible_devices(self._process)) if self._nvml else []
        )
        self._before = _CpuTimes.of(self._tree())

    def sample(self) -> dict[str, float]:
        """Returns the values by name, or `{}` if the process has ended or psutil is missing."""
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
    """CPU times in seconds: the idle time of all cores together, and the time of each process."""

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
    """Removes this process and its children from a list of processes."""
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
    """Returns the GPUs that `visible`, the value of `CUDA_VISIBLE_DEVICES`, selects, in order."""
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
            return  # like CUDA, ignore all names after an unknown name
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
    """Returns what psutil raises if a process has ended or belongs to another user."""
    return () if psutil is None else (psutil.NoSuchProcess, psutil.AccessDenied)


def _pynvml() -> Nvml | None:
    with suppress(ImportError):
        return cast(Nvml, importlib.import_module("pynvml"))
    return None
