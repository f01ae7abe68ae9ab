"""docs/sweeps.md lists all keys, samplers, and pruners, and its links are valid."""

import dataclasses
import re
from pathlib import Path

import pytest
from hydra_plugins.nntrain_sweeper.config import SweeperConfig

import nntrain
from tests.sweeps.small_app import PRUNERS, SAMPLERS

PAGE = Path(nntrain.__file__).parents[1] / "docs/sweeps.md"


def section(title: str) -> str:
    """Returns the text below a heading."""
    return PAGE.read_text().split(f"\n## {title}\n")[1].split("\n## ")[0]


def first_column(title: str) -> list[str]:
    return re.findall(r"^\| `(\w+)`", section(title), re.MULTILINE)


def test_the_table_has_every_key_with_its_default() -> None:
    defaults = {"sampler": "tpe", "pruner": "median"}
    for one in dataclasses.fields(SweeperConfig):
        if one.name not in ("defaults", "_target_", "_recursive_", *defaults):
            default = one.default_factory() if one.default is dataclasses.MISSING else one.default  # type: ignore[misc]
            defaults[one.name] = "null" if default is None else str(default)
    rows = re.findall(r"^\| `(\w+)` \| `?([^|`]+?)`? \|", section("All keys"), re.MULTILINE)
    assert dict(rows) == defaults


@pytest.mark.parametrize(
    ("title", "known"), [("Which sampler", SAMPLERS), ("Which pruner", PRUNERS)]
)
def test_the_tables_have_every_config(title: str, known: dict[str, object]) -> None:
    assert sorted(first_column(title)) == sorted(known)


def test_every_link_works() -> None:
    text = PAGE.read_text()
    headings = {
        re.sub(r"[^\w -]", "", line[3:]).lower().replace(" ", "-")
        for line in text.splitlines()
        if line.startswith("## ")
    }
    links = re.findall(r"\]\((?!https?:)([^)]+)\)", text)
    assert links
    assert [
        link
        for link in links
        if not (
            link[1:] in headings if link[0] == "#" else (PAGE.parent / link.split("#")[0]).exists()
        )
    ] == []
