"""The MLflow UI, in headless Chromium, lists the run and draws its curves."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from tests.common.mlflow_store import only_run

CHROMEDRIVER = shutil.which("chromedriver")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.browser,
    pytest.mark.skipif(
        CHROMEDRIVER is None and not os.environ.get("CI"), reason="needs Chromium: apt install chromium chromium-driver"
    ),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),  # the driver's sockets are closed by its process
]

TIMEOUT_S = 90


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture(scope="module")
def server(default_run: tuple[Path, str]) -> Iterator[str]:
    """`mlflow ui` beside the default run's store, as the run's last line says."""
    port = free_port()
    command = [sys.executable, "-m", "mlflow", "ui", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    with open(default_run[0] / "ui.log", "w") as log:
        process = subprocess.Popen(command, cwd=default_run[0], stdout=log, stderr=log, start_new_session=True)
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
def browser() -> Iterator[webdriver.Chrome]:
    options = webdriver.ChromeOptions()
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1600,1200"):
        options.add_argument(argument)
    driver = webdriver.Chrome(options=options, service=Service(CHROMEDRIVER))
    yield driver
    driver.quit()


def text_of(browser: webdriver.Chrome) -> str:
    return browser.find_element(By.TAG_NAME, "body").text


def wait_for_text(browser: webdriver.Chrome, text: str) -> None:
    WebDriverWait(browser, TIMEOUT_S).until(lambda driver: text in text_of(driver), f"{text!r} never appeared")


def test_the_run_is_listed(browser: webdriver.Chrome, server: str, default_run: tuple[Path, str]) -> None:
    _, run = only_run(default_run[0])
    browser.get(f"{server}/#/experiments/{run.info.experiment_id}/runs")
    wait_for_text(browser, run.info.run_name)
    wait_for_text(browser, "1 matching run")


@pytest.mark.parametrize("metric", ["batch/loss", "lr/0", "valid/accuracy", "act/linear0/mean"])
def test_a_curve_is_drawn(browser: webdriver.Chrome, server: str, default_run: tuple[Path, str], metric: str) -> None:
    client, run = only_run(default_run[0])
    n_point = len(client.get_metric_history(run.info.run_id, metric))
    assert n_point > 1
    browser.get(f"{server}/#/experiments/{run.info.experiment_id}/runs/{run.info.run_id}/model-metrics")
    search = WebDriverWait(browser, TIMEOUT_S).until(
        lambda driver: driver.find_element(By.CSS_SELECTOR, "input[placeholder='Search metric charts']")
    )
    browser.execute_script("arguments[0].value = ''", search)
    search.send_keys(f"^{metric}$")
    wait_for_text(browser, f"({metric})")
    path = WebDriverWait(browser, TIMEOUT_S).until(lambda driver: line_of(driver))
    assert path.count("L") >= min(n_point, 10) - 1


def line_of(browser: webdriver.Chrome) -> str:
    """The path of the first curve that plotly drew; empty before it is drawn."""
    lines = browser.find_elements(By.CSS_SELECTOR, ".scatterlayer .trace path.js-line")
    return max((line.get_attribute("d") or "" for line in lines), key=len, default="")
