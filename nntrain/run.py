"""`python -m nntrain.run`: trains a model, or runs a sweep if `-m` is given."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import NoReturn

import hydra
from hydra_plugins.nntrain_sweeper.registration import register

from nntrain.app.command_line import check_command_line, trusted_in
from nntrain.app.composing import CONFIG_NAME, CONFIG_PATH
from nntrain.app.job import Job, tell
from nntrain.config.door import guard
from nntrain.config.errors import ConfigError
from nntrain.config.redact import learn_arguments
from nntrain.core.ending import end_at_once, end_on_sigterm_as_pid_1, end_process
from nntrain.core.streams import is_undecoded, open_streams, use_utf8


def main() -> NoReturn:
    """Runs the command and exits the process."""
    end_on_sigterm_as_pid_1()
    use_utf8()
    open_streams()
    guard()
    end_process(command())


def command() -> int:
    """Runs the command and returns the exit code."""
    # In an editable install, Hydra does not find the plugin by itself.
    register()
    learn_arguments(sys.argv[1:])
    try:
        _check_current_folder()
        _check_encoding(sys.argv[1:])
        sys.argv[1:] = check_command_line(sys.argv[1:])
        job = Job(tuple(trusted_in(sys.argv[1:])))
        hydra.main(version_base="1.3", config_path=CONFIG_PATH, config_name=CONFIG_NAME)(job)()
    except ConfigError as err:
        return tell(err)
    except KeyboardInterrupt:
        from nntrain.integrations.shipping.client import shared_shipper

        shared_shipper().leave()
        print("nntrain: interrupted", file=sys.stderr)
        end_at_once(130)
    except SystemExit as err:
        if isinstance(err.code, int):
            return err.code
        raise
    return 0


def _check_current_folder() -> None:
    try:
        os.getcwd()
    except OSError as err:
        reason = f"The current folder cannot be used ({err.strerror})"
        raise ConfigError(f"{reason}: change to another folder with cd.") from err


def _check_encoding(argv: Sequence[str]) -> None:
    for word in argv:
        if is_undecoded(word):
            encoding = sys.getfilesystemencoding()
            raise ConfigError(f"{word!a} is not valid text in {encoding}: type it again.")


if __name__ == "__main__":
    from nntrain import run  # sweep workers import this module by name, not as __main__

    run.main()
