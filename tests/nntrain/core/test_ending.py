"""A process ends with the given exit code, immediately or after threads and atexit functions."""

import subprocess
import sys
import time

import pytest

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
