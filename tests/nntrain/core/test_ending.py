"""A process ends with the given exit code, immediately or after threads and atexit functions."""

import shutil
import signal
import subprocess
import sys
import time

import psutil
import pytest

from nntrain.core.ending import end_on_sigterm_as_pid_1

SETUP = """
import atexit, sys, threading, time
from concurrent.futures import ThreadPoolExecutor
from nntrain.core.ending import end_at_once, end_process

class Teardown:
    def __del__(self):
        print("finalized")

kept = sys.modules["kept"] = Teardown()
atexit.register(print, "atexit")
sys.stdout.write("unflushed ")
"""

THREADS = """
threading.Thread(target=lambda: (time.sleep(0.2), print("thread"))).start()
ThreadPoolExecutor().submit(lambda: None)
"""

LOADER = """
from multiprocessing import get_context

if __name__ == "__main__":
    get_context("fork").Process(target=time.sleep, args=(600,)).start()
    end_at_once(130)
"""


def ended(code: str) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-c", SETUP + code],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stderr == ""
    return done.returncode, done.stdout


@pytest.mark.parametrize("code", [0, 1, 143])
def test_a_process_ends_after_its_threads_and_exit_functions_and_skips_finalization(
    code: int,
) -> None:
    assert ended(f"{THREADS}\nend_process({code})") == (code, "unflushed thread\natexit\n")


def test_a_process_that_ends_at_once_waits_for_nothing_and_ends_its_children() -> None:
    start = time.monotonic()
    assert ended(LOADER) == (130, "unflushed ")
    assert time.monotonic() - start < 60


NAMESPACE = ["unshare", "--user", "--map-root-user", "--pid", "--fork", "--mount-proc"]


def can_make_namespaces() -> bool:
    if shutil.which("unshare") is None:
        return False
    return subprocess.run([*NAMESPACE, "true"], capture_output=True, check=False).returncode == 0


@pytest.mark.skipif(not can_make_namespaces(), reason="no permission to create a PID namespace")
@pytest.mark.parametrize(("is_handled", "code"), [(True, 143), (False, 0)])
def test_the_first_process_of_a_container_ends_on_sigterm(is_handled: bool, code: int) -> None:
    first = "from nntrain.core.ending import end_on_sigterm_as_pid_1\n"
    if is_handled:
        first += "end_on_sigterm_as_pid_1()\n"
    body = "import os, time\nprint(os.getpid(), flush=True)\ntime.sleep(2)"
    words = [*NAMESPACE, sys.executable, "-c", first + body]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as outer:
        assert outer.stdout is not None
        assert outer.stdout.readline() == "1\n"
        (inner,) = psutil.Process(outer.pid).children()
        inner.terminate()
        assert outer.wait(30) == code


def test_another_process_keeps_the_default_for_sigterm() -> None:
    end_on_sigterm_as_pid_1()
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
