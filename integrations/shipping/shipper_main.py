"""The script that the training process runs as the shipper."""

import sys

from nntrain.integrations.shipping.signals import survive_stop_signals

if __name__ == "__main__":
    survive_stop_signals()

    from nntrain.integrations.shipping.shipper import main

    main(fd=int(sys.argv[1]), mark=int(sys.argv[2]), pid=int(sys.argv[3]))
