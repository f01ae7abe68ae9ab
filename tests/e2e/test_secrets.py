"""No secret reaches a file, a store or the terminal, whichever way it takes."""

import base64
import os
import re
from pathlib import Path

import pytest

from tests.common.cli import nntrain_run
from tests.common.training import REPOSITORY, small

pytestmark = pytest.mark.slow

CORE = "s3ntinelZq7"
"""The part that all secrets contain, which no encoding of a text changes but base64."""

ENVIRONMENT = {
    "MY_TOKEN": f'{CORE}-env/ü+&"e',
    "OTHER_PASSWORD": f"{CORE}-other",
    "NESTED_TOKEN": f"{CORE}-nested",
}

# A user's callback that tells every secret in every way. It reads the arguments of the process,
# because a program may print its own command line.
LEAKS = """
import json, logging, os, sys, warnings
from base64 import b64encode
from urllib.parse import quote

import matplotlib.figure
from nntrain import Callback
from nntrain.core.callback import Purpose

LOG = logging.getLogger("somebody.else")


class Leaks(Callback):
    purposes = frozenset({Purpose.FIT})

    def __init__(self, texts, api_key):
        self.texts = [*texts, api_key, os.environ["MY_TOKEN"], os.environ["OTHER_PASSWORD"]]

    def after_epoch(self, learn):
        for i, text in enumerate(self.texts):
            forms = [text, quote(text, safe=""), json.dumps(text), repr({"note": text})]
            forms += [b64encode(f"me:{text}".encode()).decode()]
            for form in forms:
                print("printed", form)
                print("printed", form, file=sys.stderr)
                LOG.warning("logged %s", form)
                LOG.info("logged %s", {"a": [form]})
            sys.stdout.write(f"written {text}\\n")
            os.environ.get("SILENT") or warnings.warn(f"warned {text}")
            try:
                raise KeyError(text)
            except KeyError:
                LOG.exception("caught")
            log = learn.tracker
            log.log_table(f"table{i}", ["text", text], [[text, forms[1]], [forms[4], 1.0]])
            figure = matplotlib.figure.Figure()
            figure.suptitle(f"titled {text}")
            log.log_figure(figure, f"plots/{i}.png")
        print(sys.argv)

    def after_fit(self, learn):
        raise ValueError("told by an exception: " + " ".join(self.texts))
"""

NEEDLES = [CORE.encode()] + [
    base64.b64encode(b"\0" * shift + CORE.encode())[2 if shift == 1 else 4 if shift else 0 : -4]
    for shift in range(3)
]


def leaks(folder: Path, *outputs: str) -> list[str]:
    """Returns each place with a secret, in plain form or in base64, and the text around it."""
    found = []
    places = {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}
    contents = {name: path.read_bytes() for name, path in places.items()}
    contents |= {f"output {i}": text.encode() for i, text in enumerate(outputs)}
    for name, data in contents.items():
        if match := re.search(b".{,80}(?:%s).{,40}" % b"|".join(map(re.escape, NEEDLES)), data):
            found.append(f"{name}: {match.group()!r}")
        if CORE in name:
            found.append(name)
    return found


def run(folder: Path, *args: str) -> tuple[int, str, str]:
    """Runs `nntrain.run` in the folder with the secrets in its environment."""
    path = os.pathsep.join([str(folder.parent / "mine"), str(REPOSITORY)])
    done = nntrain_run(*args, cwd=folder, timeout_s=180, PYTHONPATH=path, **ENVIRONMENT)
    return done.returncode, done.stdout, done.stderr


@pytest.fixture
def cwd(tmp_path: Path) -> Path:
    """The folder of the command, beside a folder with the user's code."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "leaky.py").write_text(LEAKS)
    (tmp_path / "cwd").mkdir()
    return tmp_path / "cwd"


def test_a_run_stores_and_shows_no_secret(cwd: Path) -> None:
    texts = "[${oc.env:NESTED_TOKEN},${my.deep.0.password}]"
    args = [
        "tracker=[mlflow,wandb]",
        "tracker.wandb.mode=offline",
        f"+tracker.mlflow.tags.origin={CORE}-other",
        f"tracker.wandb.notes='about {CORE}-other'",
        f"tracker.wandb.tags=[{CORE}-other]",
        f"+api_key='{CORE}-a rgument'",
        "+my.token=${oc.env:MY_TOKEN}",
        f"+my.deep=[{{password: {CORE}-deep}},{{hosts: ['http://me:p@{CORE}-url@host/']}}]",
        f"+my.dsn='Server=h;Pwd={CORE}-dsn;'",
        f"+my.hook=https://hooks.slack.com/services/T0/B0/{CORE}",
        f"+callbacks.leaks={{_target_: leaky.Leaks, texts: {texts}, api_key: '${{api_key}}'}}",
    ]
    small_args = [arg for arg in small(4, *args) if not arg.startswith("trusted_targets")]
    code, out, err = run(cwd, "trusted_targets=[tests,leaky]", *small_args)
    assert code == 1, err
    assert "printed ***" in out
    assert "told by an exception: ***" in err
    assert leaks(cwd, out, err) == []
    assert (cwd / "mlflow.db").is_file(), err
    assert list(cwd.glob("wandb/offline-run-*/*.wandb"))
    assert len(list((cwd / "run" / "files").iterdir())) == 5
    for name in ("run.log", "console.log", "journal.jsonl", ".hydra/overrides.yaml"):
        assert "***" in (cwd / "run" / name).read_text()
    overrides = (cwd / "run/.hydra/overrides.yaml").read_text()
    assert "+my.token=${oc.env:MY_TOKEN}" in overrides
    assert "token: ${oc.env:MY_TOKEN}" in (cwd / "run/.hydra/config.yaml").read_text()


SWEEP = [
    "-m",
    "hydra/sweeper/sampler=grid",
    "hydra.sweeper.n_trials=4",
    "hydra.sweeper.max_failure_rate=1",
    "hydra.sweeper.study_name=study",
    "hydra.sweep.dir=multirun/study",
    "data.n_batch=8,31",
]


def test_a_sweep_stores_and_shows_no_secret_and_its_best_trial_asks_for_it(cwd: Path) -> None:
    uri = f"http://me:{CORE}-uri@127.0.0.1:9"
    args = [
        f"tracker.mlflow.tracking_uri={uri}",
        "tracker.finish_timeout_s=0.5",
        "+my.token=${oc.env:MY_TOKEN}",
        f"+my.api_key={CORE}-first,{CORE}-second",
        f"+my.password={CORE}-plain",
        "+callbacks.raises={_target_: tests.e2e.user.Raises, variable: MY_TOKEN}",
    ]
    code, out, err = run(cwd, *SWEEP, *small(31, *args))
    assert "2 completed, 0 pruned, 2 failed" in out, err
    assert "my.api_key=***" in out
    assert leaks(cwd, out, err) == []
    folder = cwd / "multirun" / "study"
    for name in ("study.jsonl", "trials.csv", "optimization_results.yaml", "report.html"):
        assert "***" in (folder / name).read_text(), name
    best = (folder / "best.yaml").read_text()
    assert "token: ${oc.env:MY_TOKEN}" in best
    assert "password: ???  # a secret, which is not stored" in best
    code, out, err = run(
        cwd, "--config-dir", str(folder), "--config-name", "best", "trusted_targets=[tests]"
    )
    assert (code, out) == (1, "")
    assert re.fullmatch(r"nntrain: \S+ needs a value: add '\S+=VALUE'\.\n", err)


@pytest.mark.parametrize(
    "args",
    [
        [f"+api_key=[a,{CORE}-open"],
        ["-m", f"hydra.sweeper.storage=postgresql://me:{CORE}%40x@127.0.0.1:9/db", "lr=0.1,0.2"],
    ],
    ids=["an override that does not parse", "the password of a storage"],
)
def test_a_command_that_fails_shows_no_secret(args: list[str], cwd: Path) -> None:
    code, out, err = run(cwd, *args)
    assert code == 1
    assert err.startswith("nntrain: ") or "nntrain: " in err
    assert "Traceback" not in err
    assert leaks(cwd, out, err) == []


@pytest.mark.parametrize("before", ["", "a", "me", "me:"])
def test_a_secret_in_base64_would_be_found(before: str, tmp_path: Path) -> None:
    code = base64.b64encode(f"{before}{CORE}-more".encode()).decode()
    (tmp_path / "a.bin").write_bytes(b"\0" + code.encode())
    assert len(leaks(tmp_path, f"out {CORE}", "none")) == 2
