"""`python -m nntrain.sync`: delivers what trackers have not got of the journals under the given folders."""

import sys

from nntrain.app.sync import main

if __name__ == "__main__":
    sys.exit(main())
