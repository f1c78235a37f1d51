"""The website that `make book` has built, and a browser without a network.

Where something is missing these tests are skipped, and say what; `make test-site` sets GMBOOK_REQUIRE_SITE, and then it
is an error.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
HTML = ROOT / "book" / "_build" / "html"
SOURCES = (("book", "*"), ("chapters", "*.md"), ("src", "*.py"), ("tests", "test_*.py"), ("tools", "*.py"))
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--host-resolver-rules=MAP * ~NOTFOUND"),
    *("--proxy-server=127.0.0.1:9", "--window-size=1400,1000"),
)


def lacking() -> str:
    """Why the site cannot be tested; empty if it can."""
    if not (HTML.parent / "built").exists():
        return "the website is not built: run `make book`"
    built = (HTML.parent / "built").stat().st_mtime  # the beginning of the last build that succeeded
    for folder, pattern in SOURCES:
        for path in (ROOT / folder).rglob(pattern):
            inside = path.is_file() and not {"_build", "__pycache__", "site"} & set(path.parts[len(ROOT.parts) :])
            if inside and path.stat().st_mtime > built:
                return f"the website is older than {path.relative_to(ROOT)}: run `make book`"
    return ""


def refuse(reason: str) -> None:
    """Skip, or fail where the site is what is to be tested."""
    if os.environ.get("GMBOOK_REQUIRE_SITE"):
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def html() -> Path:
    """The folder of the built site."""
    if reason := lacking():
        refuse(reason)
    return HTML


@pytest.fixture(scope="session")
def browser(html: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Chromium, driven by selenium, with a fresh profile and its network cut off."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    if chromium is None or driver is None:
        refuse("no Chromium here: on Debian and Ubuntu install the packages chromium and chromium-driver")
    try:
        from selenium import webdriver
        from selenium.webdriver.chrome.service import Service
    except ImportError:
        refuse("selenium is missing: `make test-site` installs it, or pip install -e '.[site]'")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    opened = webdriver.Chrome(options=options, service=Service(driver))
    opened.set_script_timeout(120)
    # the page has the keyboard, as with a reader: a start tab may have kept it
    opened.execute_cdp_cmd("Emulation.setFocusEmulationEnabled", {"enabled": True})
    yield opened
    opened.quit()


class Page:
    """A page in the browser, once its mathematics is set."""

    def __init__(self, browser: Any, html: Path):
        self.browser, self.html = browser, html

    def open(self, name: str) -> Page:
        """Load a page from the disk, `name` relative to the site, and wait for MathJax."""
        for log in ("browser", "performance"):
            self.browser.get_log(log)
        self.browser.get(f"file://{self.html}/{name}")
        self.browser.execute_async_script(
            "const done = arguments[0];"
            "const wait = () => window.MathJax === undefined ? done() : MathJax.startup && MathJax.startup.promise ?"
            " MathJax.startup.promise.then(() => done()) : setTimeout(wait, 20); wait();"
        )
        return self

    def run(self, script: str, *arguments: Any) -> Any:
        """What a script returns."""
        return self.browser.execute_script(script, *arguments)

    def width(self, pixels: int) -> None:
        """Make the window so wide."""
        metrics = {"width": pixels, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        self.browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)

    def mode(self, name: str) -> None:
        """Show it "light" or "dark", as the button does."""
        self.run("for (const key of ['mode', 'theme']) document.documentElement.dataset[key] = arguments[0]", name)

    def errors(self) -> list[str]:
        """What the console complains of since the page was opened."""
        return [e["message"] for e in self.browser.get_log("browser") if e["level"] in ("SEVERE", "WARNING")]

    def requests(self) -> set[str]:
        """The addresses asked for since the page was opened; not those of the tab with which Chromium starts."""
        messages = (json.loads(entry["message"])["message"] for entry in self.browser.get_log("performance"))
        asked = [m["params"] for m in messages if m["method"] == "Network.requestWillBeSent"]
        return {one["request"]["url"] for one in asked if not one["documentURL"].startswith("chrome://")}


@pytest.fixture
def page(browser: Any, html: Path) -> Page:
    """A page, at its widest and light, to be opened."""
    opened = Page(browser, html)
    opened.width(1400)
    return opened
