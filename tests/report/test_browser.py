"""The page in a real browser, headless Chromium."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from pages import pool_report, whole_report
from PIL import Image

from pituning.report import report_page

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
BROWSER = next(filter(None, map(shutil.which, BROWSERS)), None)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(BROWSER is None, reason="no Chromium on the PATH (Debian: apt-get install chromium)"),
]

ITS_OWN = re.compile(r"https?://([\w-]+\.)*(google|googleapis|gvt1)\.com/")  # what Chromium asks for itself
THEMES = {"dark": 0, "light": 1}

# Runs in a copy of the page, once it is laid out; the answers come back as the text of an element.
PROBE = """<pre id="probe"></pre><script>addEventListener("load", () => {
  const all = (query) => [...document.querySelectorAll(query)];
  const boxes = all(".graph text").map((text) => text.getBoundingClientRect());
  const overlaps = boxes.flatMap((a, i) => boxes.slice(i + 1).filter((b) =>
    a.left < b.right && b.left < a.right && a.top < b.bottom && b.top < a.bottom));
  const seen = [];
  for (const element of all("a, summary, [tabindex]")) {
    element.focus();
    if (document.activeElement === element) seen.push(element.tagName);
  }
  document.getElementById("probe").textContent = JSON.stringify({
    titles: all("h2").map((title) => title.textContent),
    visible: all("section, svg, table, figure").filter((e) => !e.getClientRects().length).length === 0,
    pictures: all("img").map((image) => image.naturalWidth),
    labels: boxes.length,
    overlaps: overlaps.length,
    wide: document.documentElement.scrollWidth - innerWidth,
    unfocused: all("a, summary, [tabindex]").length - seen.length,
    broken: all("a").filter((link) => !document.querySelector(link.getAttribute("href"))).length,
    style: getComputedStyle(document.body).backgroundColor,
  });
});</script>"""


@dataclass(frozen=True)
class Seen:
    """What the browser made of a page."""

    dom: str
    console: list[str]
    asked: list[str]

    @property
    def probe(self) -> Any:
        found = re.search(r'<pre id="probe">(.*?)</pre>', self.dom)
        assert found
        return json.loads(found.group(1))


@pytest.fixture
def browse(tmp_path: Path) -> Callable[..., Seen]:
    def run(html: str, *options: str, width: int = 1200, theme: str = "light") -> Seen:
        page, log = tmp_path / "page.html", tmp_path / "net.json"
        page.write_text(html, encoding="utf-8")
        fixed = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--hide-scrollbars",
            "--force-color-profile=srgb",
        ]
        fixed += ["--host-resolver-rules=MAP * ~NOTFOUND", f"--user-data-dir={tmp_path / 'profile'}"]
        fixed += ["--enable-logging=stderr", f"--log-net-log={log}", f"--window-size={width},2000"]
        fixed += [f"--blink-settings=preferredColorScheme={THEMES[theme]}"]
        command = [str(BROWSER), *fixed, *(options or ["--dump-dom"]), page.as_uri()]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        urls = set(re.findall(r'"url":"(\w+://[^"]*)"', log.read_text()))
        asked = [url for url in urls if not ITS_OWN.match(url) and not url.startswith(("file:", "chrome"))]
        return Seen(done.stdout, re.findall(r"CONSOLE.*", done.stderr), asked)

    return run


def test_the_browser_tells_of_errors_and_requests(browse: Callable[..., Seen]) -> None:
    seen = browse('<img src="http://example.org/a.png"><script>undefinedName()</script>')
    assert "undefinedName" in seen.console[0]
    assert seen.asked == ["http://example.org/a.png"]


@pytest.mark.parametrize("theme", THEMES)
@pytest.mark.parametrize("width", [1200, 500])
def test_whole_page(width: int, theme: str, browse: Callable[..., Seen]) -> None:
    seen = browse(report_page(whole_report()) + PROBE, width=width, theme=theme)
    assert (seen.console, seen.asked) == ([], [])
    probe = seen.probe
    assert probe["titles"] == [
        *("Scores", "Examples", "Weights", "Between experts", "Training", "Task graph"),
        *("Similarity", "Clusters", "Nearest tasks", "Do it again"),
    ]
    assert probe["visible"]
    assert probe["pictures"] == [40]
    assert (probe["labels"], probe["overlaps"]) == (20, 0)
    assert probe["wide"] <= 0
    assert (probe["unfocused"], probe["broken"]) == (0, 0)
    assert probe["style"] == {"light": "rgb(252, 252, 251)", "dark": "rgb(20, 22, 26)"}[theme]


@pytest.mark.parametrize("tasks", [2, 20, 100])
def test_page_of_a_pool(tasks: int, browse: Callable[..., Seen]) -> None:
    seen = browse(report_page(pool_report(tasks)) + PROBE)
    assert (seen.console, seen.asked) == ([], [])
    assert (seen.probe["labels"], seen.probe["overlaps"]) == (tasks, 0)
    assert seen.probe["wide"] <= 0


@pytest.mark.parametrize("theme", THEMES)
def test_picture_is_drawn_in_the_theme(theme: str, browse: Callable[..., Seen], tmp_path: Path) -> None:
    file = tmp_path / "page.png"
    browse(report_page(whole_report()), f"--screenshot={file}", theme=theme)
    with Image.open(file) as picture:
        pixels = picture.convert("RGB")
        paper = pixels.getpixel((2, 2))
        colours = pixels.getcolors(maxcolors=1 << 20)
    assert paper == {"light": (252, 252, 251), "dark": (20, 22, 26)}[theme]
    assert colours is not None
    assert len(colours) > 50
