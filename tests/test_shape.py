"""The shape script finds all imports, and the repository follows the rules of the script."""

import importlib.util
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]


def load_script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("shape", ROOT / ".ci" / "shape.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["shape"] = module  # dataclasses look up their module there
    spec.loader.exec_module(module)
    return module


shape = load_script()


def make_tree(root: Path, files: dict[str, str], package_dir: dict[str, str] | None = None) -> Path:
    """Writes files by module name (`a.b.__init__` for the `__init__` of a package)."""
    package_dir = package_dir or {}
    packages = {name.rpartition(".")[0] for name in files}
    listed = "".join(f'"{name}" = "{folder}"\n' for name, folder in package_dir.items())
    (root / "pyproject.toml").write_text(
        f"[tool.setuptools]\npackages = {sorted(packages)}\n[tool.setuptools.package-dir]\n{listed}"
    )
    for name, text in files.items():
        package, _, stem = name.rpartition(".")
        folder = root / package_dir.get(package, package.replace(".", "/"))
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{stem}.py").write_text(text)
    return root


def problems(root: Path, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """Returns the lines that `--check` prints; asserts that the check fails if it prints any."""
    code = shape.main(["--check", str(root)])
    lines = capsys.readouterr().out.splitlines()
    assert code == (1 if lines else 0)
    return lines


def imports_in(root: Path) -> dict[str, set[str]]:
    graph: dict[str, set[str]] = shape.import_graph(shape.read_modules(root))
    return graph


# reading imports


def test_every_form_of_import_is_read(tmp_path: Path) -> None:
    text = (
        "import nntrain.a\nfrom nntrain import b\nfrom nntrain.c import f\nfrom .d import g\n"
        "def late():\n    from nntrain import e\n"
        "import torch\n"
    )
    others = {f"nntrain.{name}": "" for name in "abcde"}
    files = {"nntrain.__init__": "", "nntrain.user": text, **others}
    assert imports_in(make_tree(tmp_path, files))["nntrain.user"] == set(others)


@pytest.mark.parametrize("guard", ["TYPE_CHECKING", "typing.TYPE_CHECKING"])
def test_only_imports_that_run_are_read(guard: str, tmp_path: Path) -> None:
    text = f"if {guard}:\n    import nntrain.a\nelse:\n    import nntrain.b\n"
    files = {"nntrain.__init__": "", "nntrain.user": text, "nntrain.a": "", "nntrain.b": ""}
    assert imports_in(make_tree(tmp_path, files))["nntrain.user"] == {"nntrain.b"}


def test_a_lazy_name_is_an_import_of_the_module_that_defines_it(tmp_path: Path) -> None:
    files = {
        "nntrain.__init__": "if TYPE_CHECKING:\n    from nntrain.core import Callback as Callback",
        "nntrain.core.__init__": "from nntrain.core.callback import Callback",
        "nntrain.core.callback": "class Callback: ...",
        "nntrain.user": "from nntrain import Callback",
    }
    assert imports_in(make_tree(tmp_path, files))["nntrain.user"] == {"nntrain.core.callback"}


def test_packages_are_read_from_the_folders_they_are_mapped_to(tmp_path: Path) -> None:
    files = {
        "nntrain.__init__": "",
        "nntrain.sweeps.__init__": "",
        "nntrain.sweeps.study": "",
        "nntrain.sweeps.spec.plan": "from nntrain.sweeps import study",
        "hydra_plugins.nntrain_sweeper.config": "import nntrain.sweeps.spec.plan",
        "nntrain.sweeps.start": "from hydra_plugins.nntrain_sweeper import config",
    }
    folders = {
        "nntrain.sweeps": "sweeps",
        "nntrain.sweeps.spec": "sweeps/spec",
        "hydra_plugins.nntrain_sweeper": "sweeps/plugin",
    }
    root = make_tree(tmp_path, files, folders)
    assert (root / "sweeps" / "plugin" / "config.py").exists()
    assert shape.rooms_of("nntrain.sweeps", imports_in(root)) == {
        "study": set(),
        "spec": {"study"},
        "plugin": {"spec"},
        "start": {"plugin"},
    }


def test_a_folder_below_a_mapped_folder_does_not_need_a_mapping() -> None:
    folder = shape.folder_of("nntrain.sweeps.spec.deep", {"nntrain.sweeps": "elsewhere"})
    assert folder == Path("elsewhere/spec/deep")


# counting


def test_the_number_of_floors_is_the_longest_chain_of_rooms() -> None:
    assert shape.count_floors({"a": {"b", "d"}, "b": {"c"}, "c": {"d"}, "d": set()}) == 4


def test_a_circle_is_one_floor() -> None:
    assert shape.count_floors({"top": {"a"}, "a": {"b"}, "b": {"a", "low"}, "low": set()}) == 3


def test_the_figures_match_the_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    documented = '"""A."""\ndef f(a: int, b) -> int:\n    """B.\n    """\n    return a\n'
    text = documented + "\ndef _g():\n    pass\n"
    root = make_tree(tmp_path, {"nntrain.__init__": "", "nntrain.a": text + "#\n" * 400})
    assert shape.main([str(root)]) == 0
    table, figures = capsys.readouterr().out.split("\n\n")
    assert table.splitlines()[1].split() == ["nntrain", "1", "1", "0"]
    assert [line.split(maxsplit=1)[1].strip() for line in figures.splitlines()] == [
        "2, 408 lines",
        "2",
        "3 lines, 2 without docstring",
        "4 lines, nntrain.a.f",
        "50.0 % of 4 parameters and results",
        "66.7 % of 3 public modules, classes and functions",
        "400    nntrain.a, 408 lines",
    ]


# rules


def test_a_circle_with_a_package_is_found(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = {
        "nntrain.__init__": "",
        "nntrain.sweeps.__init__": "",
        "nntrain.sweeps.study.__init__": "",
        "nntrain.sweeps.study.trials": "def late():\n    import nntrain.sweeps.errors",
        "nntrain.sweeps.errors": "from nntrain.sweeps.context import current",
        "nntrain.sweeps.context": "from nntrain.sweeps.study import trials",
    }
    assert problems(make_tree(tmp_path, files), capsys) == [
        "import cycle in nntrain.sweeps: context -> study, errors -> context, study -> errors"
    ]


def test_a_circle_of_modules_only_is_allowed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = {
        "nntrain.__init__": "",
        "nntrain.recorder": "import nntrain.plots",
        "nntrain.plots": "import nntrain.recorder",
    }
    assert problems(make_tree(tmp_path, files), capsys) == []


@pytest.mark.parametrize(
    ("module", "target"),
    [
        ("nntrain.config.errors", "nntrain.core.events"),
        ("nntrain.config.errors", "nntrain.result"),
        ("nntrain.core.events", "nntrain.learner"),
        ("nntrain.callbacks.ema", "nntrain.learner"),
        ("nntrain.integrations.log", "nntrain.sweeps.context"),
        ("nntrain.sweeps.context", "nntrain.integrations.log"),
        ("nntrain.sweeps.context", "nntrain.app.job"),
        ("nntrain.app.job", "nntrain.run"),
    ],
)
def test_an_import_against_the_direction_is_found(
    module: str, target: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = make_tree(tmp_path, {"nntrain.__init__": "", module: f"import {target}", target: ""})
    assert problems(root, capsys) == [
        f"{module} must not import {target}: see FLOORS in .ci/shape.py"
    ]


def test_imports_of_lower_floors_and_of_neighbors_are_allowed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = {
        "nntrain.__init__": "",
        "nntrain.result": "",
        "nntrain.core.events": "import nntrain.result",
        "nntrain.statistics.base": "import nntrain.core.events, nntrain.models.dense",
        "nntrain.models.dense": "",
        "nntrain.recorder": "import nntrain.statistics.base",
        "nntrain.sweeps.pruning": "import nntrain.recorder",
        "nntrain.app.job": "import nntrain.sweeps.pruning",
        "nntrain.run": "import nntrain.app.job",
    }
    assert problems(make_tree(tmp_path, files), capsys) == []


# the repository


def test_the_repository_follows_the_rules(capsys: pytest.CaptureFixture[str]) -> None:
    assert problems(ROOT, capsys) == []


def test_the_architecture_document_shows_the_floors() -> None:
    picture = "".join(f"    {floor}\n" for floor in reversed(shape.FLOORS))
    assert picture in (ROOT / "docs" / "architecture.md").read_text()


def test_every_room_on_a_floor_exists() -> None:
    rooms = {name.split(".")[1] for name in shape.read_modules(ROOT) if "." in name}
    named = {room for floor in shape.FLOORS for room in floor.split() if room not in "|*"}
    assert named - rooms == set()


def test_every_folder_with_code_is_listed_for_the_build() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    tops = ("nntrain", "integrations", "sweeps", "conf")
    folders = {path.parent for top in tops for path in (ROOT / top).rglob("*.py")}
    listed = {
        ROOT / shape.folder_of(name, settings["package-dir"]) for name in settings["packages"]
    }
    assert folders == listed


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="this is not a git checkout")
def test_git_ignores_no_source_file() -> None:
    modules = shape.read_modules(ROOT).values()
    paths = [str(module.path.relative_to(ROOT)) for module in modules]
    command = ["git", "-C", str(ROOT), "check-ignore", "--no-index", *paths]
    assert subprocess.run(command, capture_output=True, text=True, check=False).stdout == ""
