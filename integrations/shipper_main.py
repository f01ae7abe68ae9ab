"""The file that the shipper's process is started with: stands in for the package `nntrain`, then ships."""

import importlib.util
import sys

spec = importlib.util.find_spec("nntrain")
assert spec is not None
sys.modules["nntrain"] = importlib.util.module_from_spec(spec)  # see nntrain.integrations.standin

from nntrain.integrations.shipper import main  # noqa: E402

if __name__ == "__main__":
    main(fd=int(sys.argv[1]), pid=int(sys.argv[2]))
