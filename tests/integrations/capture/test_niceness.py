"""Helper processes have a lower CPU priority than the training process."""

import subprocess
import sys
from pathlib import Path

from nntrain.integrations.capture.niceness import NICENESS


def test_children_in_other_sessions_get_a_lower_priority() -> None:
    code = (
        "import subprocess, sys\n"
        "from nntrain.integrations.capture.niceness import children_give_way\n"
        "waits = [sys.executable, '-c', 'input()']\n"
        "own = subprocess.Popen(waits, stdin=subprocess.PIPE, start_new_session=True)\n"
        "ours = subprocess.Popen(waits, stdin=subprocess.PIPE)\n"
        "children_give_way()\n"
        "print(own.pid, ours.pid, flush=True); input(); own.kill(); ours.kill()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        own, ours = process.stdout.readline().split()
        for pid, nice in ((own, NICENESS), (ours, 0)):
            group = Path(f"/proc/{pid}/autogroup")
            assert not group.exists() or group.read_text().endswith(f"nice {nice}\n")
        process.communicate("\n")
