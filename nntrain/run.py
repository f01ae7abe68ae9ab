"""`python -m nntrain.run`: trains what the configuration describes, or sweeps over it with `-m`."""

from __future__ import annotations

import sys
from typing import NoReturn

import hydra

from nntrain.app.command_line import CONFIG_NAME, CONFIG_PATH, check_command_line
from nntrain.app.job import job, tell
from nntrain.config.errors import ConfigError
from nntrain.core.ending import end_at_once, end_process
from nntrain.integrations.shipping.client import shared_shipper
from nntrain.sweeps.registration import register


def main() -> NoReturn:
    """The command line; ends the process."""
    end_process(command())


def command() -> int:
    """Runs the command line; returns the exit code."""
    register()  # an editable install hides the sweeper from Hydra
    try:
        sys.argv[1:] = check_command_line(sys.argv[1:])
        hydra.main(version_base="1.3", config_path=CONFIG_PATH, config_name=CONFIG_NAME)(job)()
    except ConfigError as err:
        return tell(err)
    except KeyboardInterrupt:
        shared_shipper().leave()
        print("nntrain: interrupted", file=sys.stderr)
        end_at_once(130)
    except SystemExit as err:
        if isinstance(err.code, int):
            return err.code
        raise
    return 0


if __name__ == "__main__":
    from nntrain import run  # by its own name, so that workers of a sweep can be told what to run

    run.main()
