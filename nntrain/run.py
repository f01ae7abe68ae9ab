"""`python -m nntrain.run`: trains a model, or runs a sweep if `-m` is given."""

from __future__ import annotations

import sys
from typing import NoReturn

import hydra
from hydra_plugins.nntrain_sweeper.registration import register

from nntrain.app.command_line import CONFIG_NAME, CONFIG_PATH, check_command_line
from nntrain.app.job import job, tell
from nntrain.config.errors import ConfigError
from nntrain.core.ending import end_at_once, end_process


def main() -> NoReturn:
    """Runs the command and exits the process."""
    end_process(command())


def command() -> int:
    """Runs the command and returns the exit code."""
    # In an editable install, Hydra does not find the plugin by itself.
    register()
    try:
        sys.argv[1:] = check_command_line(sys.argv[1:])
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


if __name__ == "__main__":
    from nntrain import run  # sweep workers import this module by name, not as __main__

    run.main()
