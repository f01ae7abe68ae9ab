"""Trust counts where the user typed it, and in the user's own file."""

import os
from pathlib import Path

import pytest

from nntrain.config.errors import ConfigError
from nntrain.config.trust import UserTrust, granted, trust_file, typed_targets, user_trust


@pytest.fixture
def trust(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Returns the path of the user's own file, in a new folder."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    (tmp_path / "nntrain").mkdir()
    return tmp_path / "nntrain" / "trust.yaml"


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ([], []),
        (["lr=1"], []),
        (["trusted_targets=[a]"], ["a"]),
        (["+trusted_targets=[a.b, 'c']"], ["a.b", "c"]),
        (["++trusted_targets=[a]", "trusted_targets=[b]"], ["b"]),
        (["trusted_targets=[]"], []),
        (["~trusted_targets"], []),
        (["x.trusted_targets=[a]", "trusted_targets.x=[a]"], []),
    ],
)
def test_trust_is_read_from_the_command_line(overrides: list[str], expected: list[str]) -> None:
    assert typed_targets(overrides) == expected


@pytest.mark.parametrize(
    "text", ["trusted_targets=a", "trusted_targets=${x}", "trusted_targets=null"]
)
def test_trust_must_be_a_list(text: str) -> None:
    with pytest.raises(ConfigError, match="must be a list: write trusted_targets="):
        typed_targets([text])


@pytest.mark.parametrize("text", ["['${x}']", "['*']", "['a b']", "['']", "['../x']"])
def test_trust_names_packages_only(text: str) -> None:
    with pytest.raises(ConfigError, match="expected a package name"):
        typed_targets([f"trusted_targets={text}"])


def test_the_users_file_adds_to_what_is_typed(trust: Path) -> None:
    assert granted(["trusted_targets=[a]"]) == ["a"]
    trust.write_text("trusted_targets: [b, a]\ntrusted_folders: [/conf, ~/mine]\n")
    assert granted(["trusted_targets=[a]"]) == ["a", "b"]
    assert user_trust() == UserTrust(("b", "a"), (Path("/conf"), Path.home() / "mine"))


def test_the_users_file_is_in_the_home_folder_by_default() -> None:
    assert trust_file({}) == Path.home() / ".config" / "nntrain" / "trust.yaml"
    assert trust_file({"XDG_CONFIG_HOME": ""}) == trust_file({})


@pytest.mark.parametrize("config", ["", "here", "/dev/null", "~nobody-here"])
def test_without_a_readable_folder_for_it_there_is_no_such_file(
    config: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 2**31 - 9)  # a user without an entry in /etc/passwd
    for folder in (
        "~/.config",
        "here",
        "~nobody-here",
    ):  # data in the current folder grants nothing
        (tmp_path / folder / "nntrain").mkdir(parents=True)
        (tmp_path / folder / "nntrain" / "trust.yaml").write_text("trusted_targets: [a]")
    assert user_trust({"XDG_CONFIG_HOME": config}) == UserTrust()


def test_a_trusted_folder_covers_what_is_in_it_wherever_a_symlink_leads(tmp_path: Path) -> None:
    (tmp_path / "mine" / "a").mkdir(parents=True)
    (tmp_path / "other").mkdir()
    (tmp_path / "mine" / "out").symlink_to(tmp_path / "other")
    (tmp_path / "in").symlink_to(tmp_path / "mine")
    one = UserTrust(folders=(tmp_path / "mine",))
    assert [one.covers(tmp_path / name) for name in ("mine", "mine/a", "mine/b/c", "in/a")] == [
        True
    ] * 4
    outside = ("mine/out", "mine/../other", "mine2", ".")
    assert [one.covers(tmp_path / name) for name in outside] == [False] * 4


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("trusted_target: [a]", "unknown key trusted_target: did you mean 'trusted_targets'?"),
        ("trusted_targets: a", "trusted_targets must be a list of texts"),
        ("trusted_targets: [1]", "trusted_targets must be a list of texts"),
        ("trusted_targets: ['*']", "expected a package name"),
        ("trusted_folders: [mine]", "mine in trusted_folders must be an absolute path"),
        ("- a", "must contain the keys trusted_targets and trusted_folders"),
        ("trusted_targets: [", "cannot be read"),
    ],
)
def test_a_mistake_in_the_users_file_is_an_error(content: str, message: str, trust: Path) -> None:
    trust.write_text(content)
    with pytest.raises(ConfigError) as caught:
        granted([])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
def test_a_file_that_others_can_change_grants_nothing(mode: int, trust: Path) -> None:
    trust.write_text("trusted_targets: [a]")
    trust.chmod(mode)
    with pytest.raises(ConfigError, match=r"can be changed by other users.*chmod 600 "):
        granted([])


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to somebody else")
def test_the_file_of_somebody_else_grants_nothing(trust: Path) -> None:
    trust.write_text("trusted_targets: [a]")
    os.chown(trust, 12345, -1)
    with pytest.raises(ConfigError, match="belongs to another user, so it grants no trust"):
        granted([])
