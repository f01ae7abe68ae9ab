"""`python -m nntrain.sync`: sends undelivered records from journals to the trackers."""

import sys

from nntrain.app.sync import main

if __name__ == "__main__":
    sys.exit(main())
