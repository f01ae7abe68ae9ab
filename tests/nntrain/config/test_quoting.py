"""A printed override can be pasted: the shell and Hydra read the value that was meant."""

import random
import shlex

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from nntrain.config.quoting import shell_override

CHARACTERS = "ab/\\\"'${}=, ()[]%?#:é\n~!*&;|<>"


def read_back(printed: str) -> str:
    """Returns the value that nntrain reads after the text was pasted into a shell."""
    (word,) = shlex.split(printed)
    (override,) = OverridesParser.create().parse_overrides([word])
    return str(OmegaConf.create({override.key_or_group: override.value()})["resume"])


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("/runs/2026-01-31/r_1", "resume=/runs/2026-01-31/r_1"),
        ("/runs/lr=0.1, (v2)", """'resume="/runs/lr=0.1, (v2)"'"""),
        ("123", """'resume="123"'"""),
        ("null", """'resume="null"'"""),
    ],
)
def test_values_are_quoted_only_where_necessary(value: str, expected: str) -> None:
    assert shell_override("resume", value) == expected
    assert read_back(expected) == value


def test_every_value_is_read_back() -> None:
    rng = random.Random(0)
    for _ in range(1000):
        value = "/" + "".join(rng.choices(CHARACTERS, k=rng.randint(0, 12)))
        assert read_back(shell_override("resume", value)) == value
