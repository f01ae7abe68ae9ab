"""The MLflow UI in headless Chromium lists runs, compares them, and plots their curves."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import quote

import matplotlib.image
import pytest
from mlflow.entities import Run
from mlflow.tracking import MlflowClient
from selenium import webdriver
from selenium.common.exceptions import TimeoutException
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait

from nntrain.integrations.journal.records import RunRecord, read_journal
from tests.common.cli import nntrain_run
from tests.common.training import REPOSITORY

CHROMEDRIVER = shutil.which("chromedriver")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.browser,
    pytest.mark.skipif(
        CHROMEDRIVER is None and not os.environ.get("CI"),
        reason="needs Chromium: apt install chromium chromium-driver",
    ),
    # selenium may leave sockets to ChromeDriver open
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]

TIMEOUT_S = 90

LR = {"high": "0.01", "low": "0.001"}
"""The learning rates of the compared runs by name."""

LONG = "low"
"""The run that is long enough for system metrics to be measured."""

Curve: TypeAlias = tuple[list[float], list[float]]
"""The points of a curve: steps and values."""


@dataclass(frozen=True, slots=True)
class Trained:
    """The folder of an MLflow store, the runs in the store, and their journals, by run name."""

    folder: Path
    runs: dict[str, Run]
    journals: dict[str, RunRecord]

    def curve(self, name: str, metric: str) -> Curve:
        """Returns the points of a metric in the journal of a run."""
        series = self.journals[name].metrics[metric]
        return series.step.tolist(), series.value.tolist()

    def curves(self, metric: str) -> dict[str, Curve]:
        """Returns the points of a metric for all runs."""
        return {name: self.curve(name, metric) for name in self.runs}

    def page(self, name: str, tab: str = "") -> str:
        """Returns the page of a run in the UI."""
        info = self.runs[name].info
        return f"#/experiments/{info.experiment_id}/runs/{info.run_id}{tab}"

    @property
    def experiment(self) -> str:
        """The ID of the experiment to which all runs belong."""
        (found,) = {run.info.experiment_id for run in self.runs.values()}
        return str(found)


WITH_PAUSES = [
    "trusted_targets=[tests]",
    "+callbacks.witness={_target_: tests.e2e.user.Witness, path: long.seen, batch_ms: 150}",
]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """Trains two runs that differ in their learning rates."""
    folder = tmp_path_factory.mktemp("compared")
    for name, lr in LR.items():
        args = [
            "n_epoch=3",
            f"lr={lr}",
            f"tracker.mlflow.run_name={name}",
            *(WITH_PAUSES if name == LONG else []),
        ]
        done = nntrain_run(*args, cwd=folder, PYTHONPATH=str(REPOSITORY))
        assert done.returncode == 0, done.stderr
    client = MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    found = client.search_runs(
        [experiment.experiment_id for experiment in client.search_experiments()]
    )
    journals = [read_journal(path) for path in folder.glob("outputs/*/*/journal.jsonl")]
    return Trained(
        folder,
        {run.info.run_name: run for run in found},
        {journal.trackers["mlflow"]["run_name"]: journal for journal in journals},
    )


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture(scope="module")
def server(trained: Trained) -> Iterator[str]:
    """Starts `mlflow ui` in the folder of the store, with the command that a run prints."""
    port = free_port()
    command = [
        sys.executable,
        "-m",
        "mlflow",
        "ui",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--workers",
        "1",
    ]
    with open(trained.folder / "ui.log", "w") as log:
        process = subprocess.Popen(
            command, cwd=trained.folder, stdout=log, stderr=log, start_new_session=True
        )
    url = f"http://127.0.0.1:{port}"
    try:
        wait_until_it_answers(url)
        yield url
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def wait_until_it_answers(url: str) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while True:
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=5):
                return
        except OSError:
            assert time.monotonic() < deadline, "mlflow ui did not answer"
            time.sleep(0.5)


@pytest.fixture(scope="module")
def driver() -> Iterator[webdriver.Chrome]:
    options = webdriver.ChromeOptions()
    for argument in (
        "--headless=new",
        "--no-sandbox",
        "--disable-dev-shm-usage",
        "--window-size=1600,1200",
    ):
        options.add_argument(argument)
    driver = webdriver.Chrome(options=options, service=Service(CHROMEDRIVER))
    yield driver
    driver.quit()


class Browser:
    """The UI as a user sees it; methods wait until elements appear."""

    def __init__(self, driver: webdriver.Chrome, url: str) -> None:
        self.driver = driver
        self.url = url

    def open(self, page: str) -> None:
        """Opens a page in a clean browser, without elements or search terms of earlier pages."""
        self.driver.get("about:blank")
        self.driver.execute_cdp_cmd(
            "Storage.clearDataForOrigin", {"origin": self.url, "storageTypes": "all"}
        )
        self.driver.get(f"{self.url}/{page}")

    def wait_for(self, script: str, *args: str) -> Any:
        """Runs a script until its result is truthy, and returns the result."""
        wait = WebDriverWait(self.driver, TIMEOUT_S)
        return wait.until(
            lambda driver: driver.execute_script(script, *args),
            f"{args} did not appear on {self.driver.current_url}",
        )

    def find(self, selector: str) -> WebElement:
        """Returns an element by its CSS selector, and scrolls long lists to find it."""
        found: WebElement = self.wait_for(FIND, selector)
        return found

    def click(self, selector: str) -> None:
        """Clicks on an element, even if another element covers it."""
        self.driver.execute_script("arguments[0].click()", self.find(selector))

    def wait_for_text(self, text: str) -> None:
        """Waits until the page contains the text; whitespace may differ."""
        self.wait_for(
            "return document.body.innerText.replace(/\\s+/g, ' ').includes(arguments[0])", text
        )

    def row(self, head: str) -> list[str]:
        """Returns the cells of the table row with this header."""
        cells: list[str] = self.wait_for(ROW, head)
        return cells

    def search_charts(self, metric: str) -> None:
        """Filters the charts by the name of a metric."""
        self.find("input[placeholder='Search metric charts']").send_keys(f"^{metric}$")

    def curves(self, metric: str) -> dict[str, Curve]:
        """Returns the plotted curves of a metric by run name, taken from the legend."""
        return {
            trace["name"]: (trace["x"], trace["y"])
            for trace in self.driver.execute_script(TRACES, metric)
        }

    def n_line(self) -> int:
        """Returns the number of visible lines of different shape."""
        n: int = self.driver.execute_script(N_LINE)
        return n

    def assert_drawn(self, metric: str, expected: Mapping[str, Curve]) -> None:
        """Checks that exactly these curves of a metric are drawn.

        MLflow picks the color of a run by a hash of its id, so two runs may share a color.
        """
        with suppress(TimeoutException):
            WebDriverWait(self.driver, TIMEOUT_S).until(
                lambda _: self.n_line() == len(expected) == len(self.curves(metric))
            )
        assert self.curves(metric) == expected
        assert self.n_line() == len(expected)


FIND = """
const found = document.querySelector(arguments[0]);
const lists = document.querySelectorAll('.ReactVirtualized__Grid');
if (!found) for (const list of lists) list.scrollTop += list.clientHeight;
return found;
"""

ROW = """
const rows = [...document.querySelectorAll('tr')];
const row = rows.find(row => row.querySelector('th')?.textContent === arguments[0]);
return row && [...row.querySelectorAll('td')].map(cell => cell.textContent);
"""

TRACES = """
return [...document.querySelectorAll('.js-plotly-plot')].flatMap(plot => plot.data)
  .filter(trace => trace.metricKey === arguments[0])
  .map(({name, x, y}) => ({name, x: [...x], y: [...y]}));
"""

IMAGE_SIZE = """
const image = document.querySelector(arguments[0]);
return image?.naturalWidth && [image.naturalWidth, image.naturalHeight];
"""

N_LINE = """
const lines = document.querySelectorAll('.js-plotly-plot .scatterlayer .trace path.js-line');
const drawn = [...lines].filter(path => path.getTotalLength() > 0);
return new Set(drawn.map(path => path.getAttribute('d'))).size;
"""


@pytest.fixture
def browser(driver: webdriver.Chrome, server: str) -> Browser:
    return Browser(driver, server)


# --- one run


def test_the_runs_are_listed(browser: Browser, trained: Trained) -> None:
    browser.open(f"#/experiments/{trained.experiment}/runs")
    for name in LR:
        browser.wait_for_text(name)
    browser.wait_for_text("2 matching runs")


@pytest.mark.parametrize("metric", ["batch/loss", "lr/0", "valid/accuracy", "act/linear0/mean"])
def test_a_curve_is_drawn(browser: Browser, trained: Trained, metric: str) -> None:
    browser.open(trained.page("high", "/model-metrics"))
    browser.search_charts(metric)
    browser.wait_for_text(f"({metric})")
    browser.assert_drawn(metric, {"high": trained.curve("high", metric)})


def test_the_status_and_the_outcome_are_shown(browser: Browser, trained: Trained) -> None:
    browser.open(trained.page("high"))
    browser.wait_for_text("Status Finished")
    browser.wait_for_text("nntrain.outcome : completed")


def test_system_metrics_are_drawn(browser: Browser, trained: Trained) -> None:
    latest = {
        key: value
        for key, value in trained.runs[LONG].data.metrics.items()
        if key.startswith("system/")
    }
    assert latest.keys() >= {"system/cpu_percent", "system/memory_rss_mib"}
    browser.open(trained.page(LONG, "/system-metrics"))
    for key, value in latest.items():
        browser.wait_for_text(f"{LONG} ({key})")
        _, drawn = browser.curves(key)[LONG]
        assert drawn[-1] == value


def test_a_figure_is_shown(browser: Browser, trained: Trained) -> None:
    (figure,) = [
        file.path for file in trained.journals["high"].files if file.name == "plots/loss.png"
    ]
    height, width, _ = matplotlib.image.imread(figure).shape
    browser.open(trained.page("high", "/artifacts/plots/loss.png"))
    assert browser.wait_for(IMAGE_SIZE, "img[alt='plots/loss.png']") == [width, height]


def test_the_console_log_is_shown(browser: Browser, trained: Trained) -> None:
    printed = (trained.journals["high"].run.folder / "console.log").read_text()
    assert "valid/accuracy" in printed
    browser.open(trained.page("high", "/artifacts/console.log"))
    browser.wait_for("return document.body.textContent.includes(arguments[0])", printed)


# --- comparing two runs


def compare_page(trained: Trained) -> str:
    runs = quote(json.dumps([trained.runs[name].info.run_id for name in LR]))
    experiments = quote(json.dumps([trained.experiment]))
    return f"#/compare-runs?runs={runs}&experiments={experiments}"


def test_runs_selected_in_the_list_are_compared(browser: Browser, trained: Trained) -> None:
    browser.open(f"#/experiments/{trained.experiment}/runs")
    browser.wait_for_text("2 matching runs")
    browser.click("input[aria-label='Select all runs']")
    browser.click("[data-testid='runs-compare-button']")
    browser.wait_for_text("Comparing 2 Runs from 1 Experiment")
    shown = dict(zip(browser.row("Run Name:"), browser.row("lr"), strict=True))
    assert shown == LR


def test_the_compare_page_shows_the_outcomes_of_the_runs(
    browser: Browser, trained: Trained
) -> None:
    browser.open(compare_page(trained))
    assert browser.row("Run Name:") == list(LR)
    assert browser.row("nntrain.outcome") == ["completed", "completed"]


@pytest.mark.parametrize("metric", ["batch/loss", "valid/loss"])
def test_the_compare_page_leads_to_the_curves_of_both_runs(
    browser: Browser, trained: Trained, metric: str
) -> None:
    browser.open(compare_page(trained))
    browser.click(f"a[title='Plot chart'][href*='metric=%22{quote(metric, safe='')}%22']")
    browser.assert_drawn(metric, trained.curves(metric))
    for name in LR:
        browser.wait_for_text(f"{name} ({metric})")


@pytest.mark.parametrize("metric", ["batch/loss", "valid/loss"])
def test_the_chart_view_draws_the_curves_of_both_runs(
    browser: Browser, trained: Trained, metric: str
) -> None:
    browser.open(f"#/experiments/{trained.experiment}/runs?compareRunsMode=CHART")
    browser.search_charts(metric)
    browser.assert_drawn(metric, trained.curves(metric))
