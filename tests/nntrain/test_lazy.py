import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGES = ("nntrain", "nntrain.integrations", "nntrain.sweeps", "nntrain.testing")


def typed_names(package: str) -> dict[str, str]:
    """Returns the names that type checkers see in a package, with the module of each."""
    source = Path(str(importlib.import_module(package).__file__)).read_text()
    block = next(node for node in ast.parse(source).body if isinstance(node, ast.If))
    assert ast.unparse(block.test) == "TYPE_CHECKING"
    imports = [node for node in block.body if isinstance(node, ast.ImportFrom)]
    assert len(imports) == len(block.body)
    return {
        str(alias.asname): str(node.module)
        for node in imports
        for alias in node.names
        if alias.asname == alias.name  # type checkers treat only these as public
    }


@pytest.mark.parametrize("package", PACKAGES)
def test_python_and_type_checkers_see_the_same_names_of_a_package(package: str) -> None:
    module = importlib.import_module(package)
    typed = typed_names(package)

    assert module.__all__ == sorted(typed)
    assert set(module.__all__) <= set(dir(module))
    for name, home in typed.items():
        assert getattr(module, name) is getattr(importlib.import_module(home), name)


def test_an_unknown_name_of_a_package_is_an_attribute_error() -> None:
    with pytest.raises(ImportError, match="cannot import name 'Lerner' from 'nntrain'"):
        exec("from nntrain import Lerner")
    with pytest.raises(
        AttributeError, match=r"module 'nntrain\.sweeps' has no attribute 'current_trail'"
    ):
        importlib.import_module("nntrain.sweeps").current_trail  # noqa: B018


def test_importing_the_packages_loads_nothing_but_the_standard_library() -> None:
    code = f"""
import sys
before = set(sys.modules)
for package in {PACKAGES}:
    __import__(package)
new = {{name.partition('.')[0] for name in set(sys.modules) - before}}
print(sorted(name for name in new if name not in sys.stdlib_module_names))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['nntrain']"
