"""`python -m nntrain.sync`: sends undelivered records from journals to the trackers."""

import sys

from nntrain.app.sync import main
from nntrain.core.streams import open_streams, use_utf8

if __name__ == "__main__":
    use_utf8()
    open_streams()
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        print("nntrain.sync: interrupted: run the command again to go on.", file=sys.stderr)
        sys.exit(130)
