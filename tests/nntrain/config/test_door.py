"""Files, streams and log messages that leave the process contain no secrets."""

import io
import logging
import sys
from pathlib import Path
from typing import Any

import matplotlib.figure
import pytest
from omegaconf import OmegaConf

from nntrain.config.door import guard, hide_secrets, open_text, write_runnable, write_table
from nntrain.config.redact import (
    Redactor,
    learn,
    learn_arguments,
    redact_override,
    redact_text,
)
from nntrain.integrations.journal.files import hidden_texts

S = "Zq7-x9_hunter2"


@pytest.fixture
def known() -> None:
    """A secret that the process knows."""
    learn(Redactor(config={"password": S}))


# --- best.yaml


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"api_key": "${oc.env:KEY}"}, "api_key: ${oc.env:KEY}"),
        ({"token": "${oc.decode:${oc.env:KEY}}", "lr": 0.1}, "lr: 0.1"),
        ({"api_key": S}, "api_key: ???  # a secret, which is not stored: set this key in"),
        ({"note": f"about {S}"}, "note: ???  # a secret"),
        ({"uri": f"http://me:{S}@h"}, "uri: ???  # a secret"),
        ({"credentials": {"a": {"b": S}}}, "    b: ???  # a secret"),
        ({"tokens": ["${a}", S]}, "- ???  # a secret"),
        ({"use_cls_token": True, "token": None}, "use_cls_token: true\ntoken: null"),
    ],
    ids=str,
)
def test_a_configuration_that_runs_again_keeps_interpolations_and_leaves_secrets_out(
    config: dict[str, Any], expected: str, known: None, tmp_path: Path
) -> None:
    write_runnable(tmp_path / "best.yaml", config, f"the best trial of {S}")
    text = (tmp_path / "best.yaml").read_text()
    assert text.startswith("# the best trial of ***\n")
    assert expected in text
    assert S not in text
    assert OmegaConf.create(text).keys() == config.keys()


# --- other files


def test_a_table_and_a_text_contain_no_secret(known: None, tmp_path: Path) -> None:
    write_table(tmp_path / "a.csv", [["a", f"b,{S}"], [1, f'say "{S}"']])
    assert (tmp_path / "a.csv").read_text() == 'a,"b,***"\r\n1,"say ""***"""\r\n'.replace("\r", "")
    with open_text(tmp_path / "a.txt") as file:
        print("it is", S, file=file)
    assert (tmp_path / "a.txt").read_text() == "it is ***\n"


def test_secrets_are_removed_from_a_file_of_a_library(known: None, tmp_path: Path) -> None:
    path = tmp_path / "multirun.yaml"
    path.write_text(f"note: {S}\ntoken: ${{oc.env:KEY}}\n")
    hide_secrets(path)
    assert path.read_text() == "note: '***'\ntoken: ${oc.env:KEY}\n"


def test_the_title_and_labels_of_a_figure_contain_no_secret(known: None) -> None:
    figure = matplotlib.figure.Figure()
    axes = figure.subplots()
    axes.plot([1, 2], label=f"line {S}")
    axes.legend()
    axes.set(title=f"title {S}", xlabel=S, ylabel=S)
    axes.annotate(f"note {S}", (0, 0))
    file = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none"}), hidden_texts(figure):
        figure.savefig(file, format="svg")
    assert S not in file.getvalue()
    assert "title ***" in file.getvalue()
    assert axes.get_title() == f"title {S}"


# --- streams and messages


class Stream(io.TextIOWrapper):
    """A stream in memory; its attributes can be set, as those of `sys.stdout` in a program."""


def guarded(monkeypatch: pytest.MonkeyPatch) -> Stream:
    """Returns a guarded stream that is the standard output, and the place of log messages."""
    stream = Stream(io.BytesIO(), "utf-8", write_through=True)
    # pytest replaces the streams before the test, so this cannot be a fixture
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setattr(logging, "_logRecordFactory", logging.getLogRecordFactory())
    guard()
    monkeypatch.setattr(logging.getLogger("other"), "handlers", [logging.StreamHandler(stream)])
    monkeypatch.setattr(logging.getLogger("other"), "propagate", False)
    return stream


def shown(stream: Stream) -> str:
    raw = stream.buffer
    assert isinstance(raw, io.BytesIO)
    return raw.getvalue().decode()


class Holder:
    def __repr__(self) -> str:
        return f"Holder({S})"


def test_what_is_printed_and_logged_contains_no_secret(
    known: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = guarded(monkeypatch)
    log = logging.getLogger("other")
    print("printed", S, Holder())
    sys.stdout.writelines([f"lines {S}\n"])
    log.error("message %s", S)
    log.error("object %r and %s", Holder(), {"a": [S]})
    log.error(Holder())
    log.error("password=%s", "unknown-1")
    try:
        raise KeyError(S)
    except KeyError:
        log.exception("caught", stack_info=True)
    text = shown(stream)
    assert S not in text
    assert "unknown-1" not in text
    assert text.count("***") >= 8
    assert "KeyError: '***'" in text


# --- what is learned from a command line


@pytest.mark.parametrize(
    ("argv", "text", "expected"),
    [
        (["+api_key=[a,Zq7hunter"], "at 'Zq7hunter'", "at '***'"),
        (["+db={user: me, password: Zq7hunter"], "found Zq7hunter", "found ***"),
        (["--api-key", "Zq7hunter"], "found Zq7hunter", "found ***"),
        (["+api_key=Zq7hunter", "n_epoch=17000"], "n_epoch=17000", "n_epoch=17000"),
        (["--api-key=Zq7hunter", "resume=runs"], "in runs", "in runs"),
        (["-m", "model.hidden=64"], "model.hidden=64", "model.hidden=64"),
    ],
)
def test_only_the_secrets_of_a_command_line_are_learned(
    argv: list[str], text: str, expected: str
) -> None:
    learn_arguments(argv)
    assert redact_text(text) == expected


def test_an_interpolation_beside_a_secret_is_kept() -> None:
    learn_arguments(["+api_key=Zq7hunter", "+my.token=${oc.env:KEY}"])
    assert redact_override("+my.token=${oc.env:KEY}") == "+my.token=${oc.env:KEY}"
    assert redact_text("'+my.token=${oc.env:KEY}'") == "'+my.token=${oc.env:KEY}'"


def test_a_text_is_not_written_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("precious")
    (tmp_path / "link").symlink_to(tmp_path / "victim")
    with pytest.raises(OSError, match="symbolic link"):
        open_text(tmp_path / "link")
    assert (tmp_path / "victim").read_text() == "precious"
