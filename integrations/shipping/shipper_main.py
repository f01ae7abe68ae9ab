"""The file that the shipper's process is started with: stands in for the package `nntrain`, then ships."""

import importlib.util
import sys


def stand_in() -> None:
    """Puts an unexecuted module in the place of the package; see `nntrain.integrations.standin`."""
    spec = importlib.util.find_spec("nntrain")
    assert spec is not None
    sys.modules["nntrain"] = importlib.util.module_from_spec(spec)


if __name__ == "__main__":
    stand_in()

    from nntrain.integrations.shipping.shipper import main

    main(fd=int(sys.argv[1]), pid=int(sys.argv[2]))
