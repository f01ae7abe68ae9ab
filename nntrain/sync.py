"""`python -m nntrain.sync`: delivers undelivered journals to their trackers."""

import sys

from nntrain.app.sync import main

if __name__ == "__main__":
    sys.exit(main())
