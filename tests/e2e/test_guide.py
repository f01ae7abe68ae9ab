"""The code in docs/guide.md runs as written and prints the documented output."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import nntrain

ROOT = Path(nntrain.__file__).parents[1]
GUIDE = ROOT / "docs/guide.md"


def blocks() -> list[tuple[int, str]]:
    """Returns the Python blocks of the page with the number of their first line."""
    text = GUIDE.read_text()
    return [
        (text.count("\n", 0, found.start(1)), found[1])
        for found in re.finditer(r"```python\n(.*?)```", text, re.DOTALL)
    ]


def documented(block: str) -> list[str]:
    """Returns the comments after the prints of a block, on the same line or the next."""
    return re.findall(r"^print\(.*\)(?:  |\n)# (.*)$", block, re.MULTILINE)


def test_every_block_runs_and_prints_the_documented_output(
    capsys: pytest.CaptureFixture[str],
) -> None:
    names: dict[str, object] = {"__name__": "guide"}
    n_documented = 0
    for line, block in blocks():
        exec(compile("\n" * line + block, str(GUIDE), "exec"), names)
        printed = capsys.readouterr().out.splitlines()
        missing = [text for text in documented(block) if text not in printed]
        assert not missing, f"guide.md, block of line {line}: {missing} not in {printed}"
        n_documented += len(documented(block))
    assert n_documented > 15


def test_every_link_works() -> None:
    links = re.findall(r"\]\(([^)#:]+)\)", GUIDE.read_text())
    assert links
    assert [link for link in links if not (GUIDE.parent / link).exists()] == []


@pytest.mark.slow
def test_importing_the_trackers_does_not_import_their_libraries() -> None:
    heavy = ("mlflow", "matplotlib", "wandb", "torchmetrics", "hydra")
    code = (
        "import sys, nntrain.integrations; "
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
