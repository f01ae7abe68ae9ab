"""Tools for testing your own callbacks, metrics and trackers with pytest.

Subclass `CallbackContract` or `TrackerContract` in a test module, and pytest runs the complete test
suite for your class. Only these two classes require pytest.
"""

import sys
from typing import TYPE_CHECKING

from nntrain.lazy import lazy_names

if TYPE_CHECKING:
    from nntrain.integrations.memory import MemoryTracker as MemoryTracker
    from nntrain.integrations.shipping.client import InProcess as InProcess
    from nntrain.testing.callbacks import CallbackContract as CallbackContract
    from nntrain.testing.spies import RaiseAt as RaiseAt
    from nntrain.testing.spies import SpyCallback as SpyCallback
    from nntrain.testing.spies import counted_reads as counted_reads
    from nntrain.testing.toys import Lists as Lists
    from nntrain.testing.toys import flat_weights as flat_weights
    from nntrain.testing.toys import regression_lists as regression_lists
    from nntrain.testing.toys import small_learner as small_learner
    from nntrain.testing.trackers import TrackerContract as TrackerContract
else:
    __getattr__, __dir__, __all__ = lazy_names(
        __name__,
        {
            "nntrain.integrations.memory": "MemoryTracker",
            "nntrain.integrations.shipping.client": "InProcess",
            "nntrain.testing.callbacks": "CallbackContract",
            "nntrain.testing.spies": "RaiseAt SpyCallback counted_reads",
            "nntrain.testing.toys": "Lists flat_weights regression_lists small_learner",
            "nntrain.testing.trackers": "TrackerContract",
        },
    )

if "pytest" in sys.modules:
    import pytest

    # makes failed assertions in these modules show the compared values
    pytest.register_assert_rewrite(
        "nntrain.testing.callbacks", "nntrain.testing.tracker_store", "nntrain.testing.trackers"
    )
