"""The commands in the README work as written."""

import re
from pathlib import Path

import pytest

import nntrain
from nntrain import Learner
from nntrain.data import digits
from nntrain.models import mlp
from tests.common.cli import nntrain_run
from tests.common.compose import groups

README = (Path(nntrain.__file__).parents[1] / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def commands() -> list[str]:
    """Returns the command lines of nntrain.run, each as one line."""
    lines = re.sub(r"\\\n +", "", README).splitlines()
    return [line.strip() for line in lines if line.startswith("    python -m nntrain.run")]


def test_the_first_example_trains(capsys: pytest.CaptureFixture[str]) -> None:
    exec(blocks("python")[0], {})
    assert float(capsys.readouterr().out.split()[-1]) > 0.95


def test_the_callback_stops_the_fit() -> None:
    import torch

    from nntrain import StopReason, accuracy

    names: dict[str, type] = {}
    exec(blocks("python")[1], names)
    callback = names["StopWhenGood"](target=0.5)
    learn = Learner(
        mlp(),
        digits(),
        torch.nn.CrossEntropyLoss(),
        lr=0.1,
        metrics=[accuracy],
        cbs=[callback],
        device="cpu",
    )
    result = learn.fit(20)
    assert result.reason is StopReason.EARLY_STOPPED
    assert result.metrics["valid/accuracy"] >= 0.5
    assert result.n_epoch < 20


@pytest.mark.slow
def test_a_users_package_trains(tmp_path: Path) -> None:
    for text in (*blocks("python"), *blocks("yaml")):
        if name := re.match(r"# (\S+\.(?:py|yaml))\n", text):
            path = tmp_path / name[1]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
    (command,) = [line for line in commands() if "--config-dir" in line]
    args = command.replace("'", "").split()[3:]
    done = nntrain_run(*args, "n_epoch=2", cwd=tmp_path)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    "command", [line for line in commands() if "--config-dir" not in line and "resume" not in line]
)
def test_every_command_line_works(command: str, tmp_path: Path) -> None:
    args = command.replace("'", "").split()[3:]
    short = [] if "--help" in args or "debug=one_batch" in args else ["n_epoch=1"]
    if short and not any(arg.startswith("tracker=") for arg in args):
        short.append("tracker=none")
    if "-m" in args:
        short.append("hydra.sweeper.n_trials=3")
    long = ("n_epoch=", "hydra.sweeper.n_trials=")
    done = nntrain_run(*[arg for arg in args if not arg.startswith(long)], *short, cwd=tmp_path)
    assert done.returncode == 0, done.stderr


def test_the_readme_lists_all_config_groups() -> None:
    (sentence,) = re.findall(r"The groups are (.*?)\.", README, re.DOTALL)
    assert sorted(re.findall(r"`(\w+)`", sentence)) == groups()


def test_every_link_works() -> None:
    root = Path(nntrain.__file__).parents[1]
    links = re.findall(r"\]\(([^)#:]+)\)", README)
    assert len(links) >= 5
    assert [link for link in links if not (root / link).exists()] == []
