"""Usual logging configurations pass; `tests/nntrain/app/test_hostile.py` has the others."""

from typing import Any

import pytest
from omegaconf import OmegaConf

from nntrain.app.command_line import check_command_line
from nntrain.config.errors import ConfigError
from nntrain.config.log_config import CLASSES, check_logging
from nntrain.sweeps import register

register()  # an editable install hides the sweeper from Hydra


@pytest.mark.parametrize("log", ["default", "disabled", "none", "stdout", "nntrain"])
def test_hydras_own_choices_pass(log: str) -> None:
    argv = [f"hydra/job_logging={log}"]
    argv += [f"hydra/hydra_logging={'default' if log in ('nntrain', 'stdout') else log}"]
    assert check_command_line(argv) == argv


def config(**handler: Any) -> Any:
    """Returns a configuration with one log handler."""
    return OmegaConf.create({"hydra": {"job_logging": {"handlers": {"x": handler}}}, "name": "a.B"})


@pytest.mark.parametrize("name", CLASSES)
def test_known_handlers_pass(name: str) -> None:
    check_logging(config(**{"class": name, "level": "INFO", "filename": "${hydra.run.dir}/x"}))


@pytest.mark.parametrize("value", ["a.B", "${name}"])
@pytest.mark.parametrize("key", ["class", "()"])
def test_a_class_of_a_trusted_package_passes(key: str, value: str) -> None:
    check_logging(config(**{key: value, "stream": "ext://a.stream"}), ["a"])
    with pytest.raises(ConfigError) as caught:
        check_logging(config(**{key: value}))
    message = str(caught.value)
    assert message.startswith(f"hydra.job_logging.handlers.x.{key}=a.B is not trusted: choose from")
    assert message.endswith("add 'trusted_targets=[a]' to the command if you trust its code.")


def test_a_class_that_is_unknown_before_the_run_is_an_error() -> None:
    with pytest.raises(ConfigError, match=r"handlers\.x\.class cannot be resolved"):
        check_logging(config(**{"class": "${hydra.runtime.output_dir}"}))
