"""Each text that leaves the process goes through the door in `nntrain/config/door.py`."""

import ast
import re

import pytest

from tests.test_architecture import ROOT, calls

DOOR = "nntrain/config/door.py"

# Files that are written as bytes, and why they contain no secret of the configuration.
BYTES = {
    "integrations/capture/console.py": "each line goes through `Redactor.text`",
    "integrations/capture/niceness.py": "a number for the kernel",
    "integrations/journal/files.py": "copies of files, and figures through `hidden_texts`",
    "integrations/journal/writer.py": "each record goes through `safe`",
    "integrations/mlflow/store.py": "a lock, and copies of a database",
    "integrations/shipping/client.py": "a pipe to the shipper, not a file",
    "integrations/shipping/continuation.py": "a copy of a journal",
    "integrations/shipping/lock.py": "a lock",
    "integrations/shipping/shipper.py": "the journal's closing records, from what is in it",
    "integrations/shipping/state.py": "positions, and errors through `redact`",
    "nntrain/config/door.py": "the door",
    "nntrain/core/partial.py": "checkpoints",
    "nntrain/core/sinks.py": "opens files for the modules in this table",
    "nntrain/core/streams.py": "the console, which `guard` covers",
    "nntrain/testing/journals.py": "damages files in tests",
    "sweeps/study/storage.py": "the study file, through `SafeAttributes`",
    "sweeps/workers/output.py": "the console of a worker, which `guard` covers",
    "sweeps/workers/supervisor.py": "the console of a worker, which `guard` covers, and a pipe",
}
TEXT_WRITERS = re.compile(
    r"(?:.*\.)?(?:write_text|write_html|to_csv|to_html_file)|OmegaConf\.save"
    r"|(?:json|yaml)\.(?:safe_)?dump(?:_all)?|(?:logging\.)?FileHandler"
)
OPENERS = re.compile(r"(?:.*\.)?(?:open|fdopen|FileIO|ConsoleFile|open_below|create_below)")
WRITING = re.compile(r"'[wax]b?\+?'|'rb?\+b?'|f'\{mode\}b'|O_WRONLY|O_RDWR|O_CREAT")
TEXT_MODE = re.compile(r"'[wax]\+?'|'r\+'")


def writers(text: str | None = None) -> list[tuple[str, str, bool]]:
    """Returns the file, the call and whether it writes text, of each call that writes a file."""
    found = []
    for path, call, _ in calls() if text is None else _calls_in(text):
        name, source = ast.unparse(call.func), ast.unparse(call)
        place = str(path.relative_to(ROOT))
        if TEXT_WRITERS.fullmatch(name):
            found.append((place, source, True))
        elif OPENERS.fullmatch(name) and WRITING.search(source):
            is_raw = name.endswith(("FileIO", "ConsoleFile"))
            found.append((place, source, not is_raw and bool(TEXT_MODE.search(source))))
        elif name.endswith((".write_bytes", "create_below")):
            found.append((place, source, False))
    return found


def _calls_in(text: str) -> list[tuple[object, ast.Call, list[ast.AST]]]:
    return [
        (ROOT / "new.py", node, [])
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Call)
    ]


def test_no_module_writes_a_text_file_but_through_the_door() -> None:
    assert [one[:2] for one in writers() if one[2] and one[0] != DOOR] == []


def test_each_module_that_writes_bytes_is_listed_with_the_reason() -> None:
    assert {place for place, _, is_text in writers() if not is_text} <= set(BYTES)


@pytest.mark.parametrize(
    "code",
    [
        "open(path, 'w')",
        "open(path, mode='x', encoding='utf-8')",
        "path.open('a')",
        "path.write_text(text)",
        "OmegaConf.save(config, path)",
        "json.dump(record, file)",
        "yaml.safe_dump(record, file)",
        "os.fdopen(fd, 'w')",
        "figure.write_html(path)",
        "frame.to_csv(path)",
        "logging.FileHandler(path)",
    ],
)
def test_a_writer_that_goes_around_the_door_is_found(code: str) -> None:
    assert [one[2] for one in writers(code)] == [True]


@pytest.mark.parametrize("code", ["write_yaml(path, value)", "open(path)", "open_text(path, 'x')"])
def test_the_door_and_readers_are_no_fault(code: str) -> None:
    assert writers(code) == []
