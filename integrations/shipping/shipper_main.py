"""The script that the training process runs as the shipper."""

import sys

from nntrain.integrations.shipping.shipper import main

if __name__ == "__main__":
    main(fd=int(sys.argv[1]), pid=int(sys.argv[2]))
