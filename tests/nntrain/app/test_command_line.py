"""Each invalid override is an error of one sentence that names the key."""

from pathlib import Path

import pytest

from nntrain.app.command_line import check_command_line, trusted_in
from nntrain.config.errors import ConfigError
from nntrain.sweeps import register

EARLYSTOPPING = "Unknown choice callbacks=earlystopping: did you mean 'early_stopping'?"

register()  # an editable install hides the sweeper from Hydra


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["n_epochs=3"], "Unknown key n_epochs: did you mean 'n_epoch'?"),
        (["model.hiden=3"], "Unknown key model.hiden: did you mean 'hidden'?"),
        (
            ["callbacks.progres.interval_s=1"],
            "Unknown key callbacks.progres: did you mean 'progress'?",
        ),
        (["n_epoch=abc"], "n_epoch: Value 'abc' of type 'str' could not be converted to Integer."),
        (["lr="], "lr: Value '' of type 'str' could not be converted to Float."),
        (["lr=[1,2]"], "lr: "),
        (
            ["trusted_targets=my_package"],
            "trusted_targets=my_package must be a list: write trusted_targets=[my_package].",
        ),
        (["callbacks=[default,earlystopping]"], EARLYSTOPPING),
        (["callbacks=[default,early_stopping,zz]"], "Unknown choice callbacks=zz: expected one of"),
        (["~callbacks.savemodel"], "Unknown key callbacks.savemodel: did you mean 'save_model'?"),
        (["~modl"], "Unknown key modl: did you mean 'model'?"),
        (
            ["lr=interval(1e-3,1)"],
            "'lr=interval(1e-3,1)' varies lr: add -m to sweep, or set lr to a single value.",
        ),
        (["model=mlp,cnn"], "'model=mlp,cnn' varies model: add -m to sweep, or set model to a "),
        (["--cfg", "job", "lr=1,2"], "'lr=1,2' varies lr: add -m to sweep"),
        (
            ["model=nosuch"],
            "Unknown choice model=nosuch: expected one of autoencoder, cnn, mlp, resnet.",
        ),
        (["experiment=nosuch"], "Unknown choice experiment=nosuch: expected one of "),
        (["zzz=1"], "Unknown key zzz: expected one of callbacks, "),
        (["foo bar"], "'foo bar' is not a valid override: write key=value"),
        (
            ["lr=interval(1)"],
            "'lr=interval(1)' cannot be parsed: missing a required argument: 'end'.",
        ),
        (["model.hidden=[1"], "'model.hidden=[1' is not a valid override"),
        (
            ["data._target_=os.system"],
            "data._target_=os.system is not trusted: choose from the public classes of torch.nn",
        ),
        (
            ["+hydra.callbacks.x._target_=os.system"],
            "hydra.callbacks.x._target_=os.system is not trusted",
        ),
        (["hydra.launcher._target_=os.system"], "hydra.launcher._target_=os.system is not trusted"),
        (
            ["hydra.sweeper.custom_search_space=os.system"],
            "hydra.sweeper.custom_search_space=os.system is not trusted",
        ),
        (
            ["model._target_=${nosuch}"],
            "model._target_ cannot be resolved: Interpolation key 'nosuch' not found.",
        ),
        (["model._target_=${oc.env:NOSUCH}"], "model._target_ cannot be resolved: "),
        (["--config-dir", "nowhere"], "--config-dir nowhere must be an existing folder."),
        (["--config-name", "nosuch"], "The config 'nosuch' does not exist: "),
        (["--cfg", "job", "seeds=1"], "Unknown key seeds: did you mean 'seed'?"),
        (["-m", "lr=1,2", "n_epochs=3"], "Unknown key n_epochs: did you mean 'n_epoch'?"),
    ],
)
def test_a_mistake_is_reported_in_one_sentence(argv: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check_command_line(argv)
    text = str(caught.value)
    assert text.startswith(message)
    assert "\n" not in text
    assert text.endswith((".", "?"))
    assert not isinstance(caught.value.__cause__, ConfigError), "reported twice"


@pytest.mark.parametrize(
    "argv",
    [
        [],
        ["--help"],
        ["--hydra-help"],
        ["-m", "lr=0.1,0.2", "model.hidden=choice(32,64)", "optimizer=sgd,adam"],
        ["callbacks=[default,early_stopping]", "~callbacks.progress"],
        ["tracker=none", "+my_own.key=1"],
        ["~data", "+data._target_=nntrain.data.digits"],
        ["+my_own.key=1", "+my_own.other=2", "~my_own.other"],
        ["experiment=digits_cnn", "debug=short"],
        ["hydra.mode=MULTIRUN", "lr=0.1,0.2"],
        ["sweep=digits", "-m"],
    ],
)
def test_a_valid_command_line_passes(argv: list[str]) -> None:
    assert check_command_line(argv) == argv


def test_a_users_config_folder_is_used(tmp_path: Path) -> None:
    (tmp_path / "mine" / "model").mkdir(parents=True)
    (tmp_path / "mine" / "model" / "tiny.yaml").write_text("_target_: my_package.tiny\n")
    argv = ["--config-dir", str(tmp_path / "mine"), "model=tiny"]
    with pytest.raises(ConfigError, match=r"add 'trusted_targets=\[my_package\]'"):
        check_command_line(argv)
    check_command_line([*argv, "trusted_targets=[my_package]"])


def test_a_config_path_is_a_folder_beside_nntrains_own_relative_to_the_current_one(
    tmp_path: Path,
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "own.yaml").write_text("defaults: [config, _self_]\nlr: 0.5\n")
    argv = ["--config-path", "mine", "--config-name", "own", "n_epoch=1"]
    added = ["--config-path", "pkg://nntrain.conf", "--config-dir", str(tmp_path / "mine")]
    assert check_command_line(argv) == [*argv, *added]
    for wrong, message in [
        (["--config-path", "no"], "--config-path no must be an existing folder"),
        (["--config-path", "mine", "--config-dir", "mine"], "drop one of them"),
    ]:
        with pytest.raises(ConfigError, match=message):
            check_command_line(wrong)


def test_trust_of_the_users_own_file_needs_no_override(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config" / "nntrain").mkdir(parents=True)
    (tmp_path / "config" / "nntrain" / "trust.yaml").write_text("trusted_targets: [my_package]")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    argv = ["model._target_=my_package.tiny"]
    assert check_command_line(argv) == argv
    assert trusted_in([*argv, "trusted_targets=[other]"]) == ["other", "my_package"]


@pytest.mark.parametrize("key", ["resume", "hydra.run.dir"])
def test_a_path_that_the_machine_refuses_is_one_sentence(key: str) -> None:
    with pytest.raises(ConfigError, match=r"File name too long") as caught:
        check_command_line([f"{key}={'x' * 300}"])
    assert "\n" not in str(caught.value)
