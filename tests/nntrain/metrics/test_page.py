import doctest
from pathlib import Path


def test_the_examples_of_the_page_print_the_documented_results() -> None:
    path = Path(__file__).parents[3] / "docs/metrics.md"
    page = doctest.DocTestParser().get_doctest(path.read_text(), {}, path.name, str(path), 0)
    assert len(page.examples) > 10
    assert doctest.DocTestRunner().run(page).failed == 0
