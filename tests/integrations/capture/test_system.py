"""Tests system metrics with a real process and a fake NVML library for GPUs."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from nntrain.integrations.capture import system
from nntrain.integrations.capture.system import SystemMetrics

psutil = pytest.importorskip("psutil")

BURN = "import time\nwhile True: pass"
ALLOCATE = "block = bytearray({mib} << 20)\nprint(flush=True)\ninput()"
PARENT = (
    "import subprocess, sys\n"
    "child = subprocess.Popen([sys.executable, '-c', sys.argv[1]], stdin=subprocess.PIPE)\n"
    "sys.stdin.read()\nchild.kill()\nchild.wait()"
)
MACHINE = {"system/machine_cpu_percent", "system/machine_memory_percent", "system/disk_free_gib"}
PROCESS = {"system/cpu_percent", "system/memory_rss_mib"}


@contextmanager
def _child(*args: str, env: dict[str, str] | None = None) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-c", *args]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={**os.environ, **(env or {})}
    ) as child:
        try:
            yield child
        finally:
            assert child.stdin is not None
            child.stdin.close()
            if len(args) == 1:
                child.kill()


def _wait_for(is_so: Callable[[], bool], timeout_s: float = 20.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.fixture(autouse=True)
def _no_gpu_of_this_machine(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    if request.node.get_closest_marker("gpu") is None:
        monkeypatch.setattr(system, "_pynvml", lambda: None)


def test_the_keys_are_those_of_the_table() -> None:
    with _child(BURN) as child:
        metrics = SystemMetrics(child.pid, Card())
        time.sleep(0.2)
        values = metrics.sample()
    assert SystemMetrics.__doc__ is not None
    table = {
        line.split("`")[1]
        for line in SystemMetrics.__doc__.splitlines()
        if line.strip().startswith("`system/")
    }
    assert set(values) == {key.replace("_N_", "_0_") for key in table}
    assert {type(value) for value in values.values()} == {float}


def test_a_busy_process_uses_one_core_and_an_idle_one_none() -> None:
    with _child(BURN) as busy, _child("input()") as idle:
        metrics = [SystemMetrics(child.pid) for child in (busy, idle)]
        _wait_for(lambda: metrics[0].sample().get("system/cpu_percent", 0.0) > 30)
        time.sleep(1.0)
        samples = [each.sample() for each in metrics]
    assert samples[1]["system/cpu_percent"] < 5 < samples[0]["system/cpu_percent"] < 115
    assert 0 < samples[0]["system/machine_cpu_percent"] <= 100


def test_cpu_time_equals_that_of_the_kernel() -> None:
    with _child(BURN) as child:
        process = psutil.Process(child.pid)
        _wait_for(lambda: process.cpu_times().user > 0.5)
        metrics = SystemMetrics(child.pid)
        start, before = time.monotonic(), process.cpu_times()
        time.sleep(1.0)
        percent = metrics.sample()["system/cpu_percent"]
        elapsed, after = time.monotonic() - start, process.cpu_times()
    expected = 100 * (after.user + after.system - before.user - before.system) / elapsed
    assert percent == pytest.approx(expected, abs=15)


def test_a_sample_right_after_another_has_no_cpu_use() -> None:
    with _child(BURN) as child:
        metrics = SystemMetrics(child.pid)
        assert not PROCESS - {"system/memory_rss_mib"} & set(metrics.sample())
        time.sleep(0.3)
        assert "system/cpu_percent" in metrics.sample()


def test_memory_is_that_of_the_process() -> None:
    with _child(ALLOCATE.format(mib=1)) as small, _child(ALLOCATE.format(mib=201)) as large:
        for child in (small, large):
            assert child.stdout is not None
            child.stdout.readline()
        few, many = (
            SystemMetrics(child.pid).sample()["system/memory_rss_mib"] for child in (small, large)
        )
    assert many - few == pytest.approx(200, abs=5)


def test_children_are_included() -> None:
    with _child(PARENT, BURN) as parent:
        metrics = SystemMetrics(parent.pid)
        _wait_for(lambda: len(psutil.Process(parent.pid).children()) == 1)
        rss = psutil.Process(parent.pid).memory_info().rss / 2**20
        _wait_for(lambda: metrics.sample().get("system/cpu_percent", 0.0) > 30)
        assert metrics.sample()["system/memory_rss_mib"] > 1.5 * rss


def test_the_sampling_process_and_its_children_are_excluded() -> None:
    with _child(BURN) as child:
        _wait_for(lambda: child.pid in {mine.pid for mine in psutil.Process().children()})
        tree = SystemMetrics(os.getppid())._tree()
        assert tree[0].pid == os.getppid()
        assert not {psutil.Process(), *psutil.Process().children()} & set(tree)


def test_a_process_that_has_ended_has_no_metrics() -> None:
    with _child("input()") as child:
        metrics = SystemMetrics(child.pid)
        assert set(metrics.sample()) >= {"system/memory_rss_mib"}
        child.kill()
        _wait_for(lambda: psutil.Process(child.pid).status() == psutil.STATUS_ZOMBIE)
        assert metrics.sample() == {}
    assert metrics.sample() == {}
    assert SystemMetrics(child.pid).sample() == {}


def test_the_disk_is_that_of_the_working_directory() -> None:
    with _child("input()") as child:
        free = psutil.disk_usage(os.getcwd()).free / 2**30
        assert SystemMetrics(child.pid).sample()["system/disk_free_gib"] == pytest.approx(
            free, rel=0.1
        )


def test_without_psutil_there_are_no_metrics(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(system, "psutil", None)
    assert SystemMetrics(os.getpid()).sample() == {}


class Refuses(Exception):
    """The error class of the fake library."""


@dataclass
class Card:
    """A fake NVML library with the GPUs GPU-a0, GPU-a1, ... and the MIG slice MIG-b0."""

    NVMLError = Refuses
    n: int = 1
    driver: bool = True
    mig: bool = False

    def nvmlInit(self) -> None:
        if not self.driver:
            raise Refuses

    def nvmlDeviceGetCount(self) -> int:
        return self.n

    def nvmlDeviceGetHandleByIndex(self, index: int, /) -> str:
        return f"GPU-a{index}"

    def nvmlDeviceGetHandleByUUID(self, uuid: str, /) -> str:
        if uuid != "MIG-b0":
            raise Refuses
        return uuid

    def nvmlDeviceGetUUID(self, handle: str, /) -> str:
        return handle

    def nvmlDeviceGetUtilizationRates(self, handle: str, /) -> Any:
        self._whole_only(handle)
        return SimpleNamespace(gpu=10 + int(handle[-1]))

    def nvmlDeviceGetMemoryInfo(self, handle: str, /) -> Any:
        return SimpleNamespace(used=512 << 20, total=2 << 30)

    def nvmlDeviceGetPowerUsage(self, handle: str, /) -> int:
        self._whole_only(handle)
        return 70500

    def nvmlDeviceGetTemperature(self, handle: str, sensor: int, /) -> int:
        self._whole_only(handle)
        assert sensor == 0
        return 41

    def _whole_only(self, handle: str) -> None:
        if handle.startswith("MIG-"):
            raise Refuses


def _gpu_samples(visible: str | None, card: Card) -> dict[str, float]:
    env = {"CUDA_VISIBLE_DEVICES": visible} if visible is not None else {}
    with _child("print(flush=True)\ninput()", env=env) as child:
        assert child.stdout is not None
        child.stdout.readline()  # until then, the environment of the new process is not readable
        values = SystemMetrics(child.pid, card).sample()
    return {key.removeprefix("system/gpu_"): value for key, value in values.items() if "gpu" in key}


def test_a_gpu_has_five_metrics() -> None:
    assert _gpu_samples("0", Card()) == {
        "0_utilization_percent": 10.0,
        "0_memory_mib": 512.0,
        "0_memory_percent": 25.0,
        "0_power_w": 70.5,
        "0_temperature_c": 41.0,
    }


@pytest.mark.parametrize(
    ("visible", "expected"),
    [
        (None, [10, 11, 12]),
        ("", []),
        ("-1", []),
        ("2", [12]),
        (" 2, 0", [12, 10]),
        ("1,7,0", [11]),
        ("GPU-a1", [11]),
        ("GPU-a2,0", [12, 10]),
        ("GPU-x,0", []),
        ("MIG-none", []),
        ("NoDevFiles", []),
    ],
)
def test_only_visible_gpus_are_measured_in_the_order_of_the_process(
    visible: str | None, expected: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    values = _gpu_samples(visible, Card(n=3))
    assert {key: value for key, value in values.items() if "utilization" in key} == {
        f"{i}_utilization_percent": value for i, value in enumerate(expected)
    }


def test_a_mig_slice_has_memory_metrics_only() -> None:
    assert _gpu_samples("MIG-b0", Card()) == {"0_memory_mib": 512.0, "0_memory_percent": 25.0}


@pytest.mark.parametrize("card", [Card(driver=False), Card(n=0)])
def test_without_a_driver_or_a_gpu_there_are_no_gpu_metrics(
    card: Card, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert _gpu_samples(None, card) == {}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_memory_of_a_real_gpu_is_measured() -> None:
    pytest.importorskip("pynvml")
    allocate = (
        "import torch\nblock = torch.ones(1 << 28, device='cuda')\n"
        "torch.cuda.synchronize()\nprint(flush=True)\ninput()"
    )
    with _child(allocate, env={"CUDA_VISIBLE_DEVICES": "0"}) as child:
        assert child.stdout is not None
        child.stdout.readline()
        values = SystemMetrics(child.pid).sample()
    assert values["system/gpu_0_memory_mib"] >= 1024
    assert 0 <= values["system/gpu_0_utilization_percent"] <= 100
    assert not any("gpu_1" in key for key in values)


def test_the_real_library_without_a_driver_gives_no_gpu_metrics(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pynvml = pytest.importorskip("pynvml")
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        monkeypatch.setattr(system, "_pynvml", lambda: pynvml)
        with _child("input()") as child:
            assert not any("gpu" in key for key in SystemMetrics(child.pid).sample())
    else:
        pytest.skip("this machine has a driver")
