"""The page of a report in a headless Chromium: the picture shows, a click sorts, and no request leaves the page."""

import json
import math
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import backdraw
from backdraw.study import measure

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
FOUND = next((path for name in NAMES if (path := shutil.which(name))), None)
pytestmark = [
    pytest.mark.needs("numpy"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:matplotlib"),
    pytest.mark.skipif(FOUND is None, reason=f"no browser: none of {', '.join(NAMES)} is on the PATH"),
]


class Browser:
    """A Chromium spoken to by DevTools messages over two pipes: JSON, each ended by a zero byte."""

    def __init__(self, folder: Path) -> None:
        read, their_write = os.pipe()
        their_read, write = os.pipe()
        # The protocol has them as 3 and 4 of the process.
        options = "--headless=new --no-sandbox --disable-gpu --disable-dev-shm-usage --no-first-run --remote-debugging-pipe"
        command = f'exec 3<&{their_read} 4>&{their_write}; exec "$0" {options} --user-data-dir="$1" about:blank'
        self.process = subprocess.Popen(
            ["bash", "-c", command, str(FOUND), str(folder)], pass_fds=(their_read, their_write),
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(their_read)
        os.close(their_write)
        self.out, self.into = os.fdopen(write, "wb"), os.fdopen(read, "rb")
        self.count, self.events, self.rest = 0, [], b""
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]

    def send(self, method: str, **params: Any) -> Any:
        """Call a method, and return its result; what happens before it is kept in `events`."""
        self.count += 1
        session = {"sessionId": self.session} if hasattr(self, "session") else {}
        self.out.write(json.dumps({"id": self.count, "method": method, "params": params, **session}).encode() + b"\0")
        self.out.flush()
        while (said := self.receive()).get("id") != self.count:
            self.events.append(said)
        assert "error" not in said, said["error"]
        return said["result"]

    def receive(self) -> Any:
        """Return the next message."""
        while b"\0" not in self.rest:
            got = os.read(self.into.fileno(), 65536)
            assert got, "the browser has ended"
            self.rest += got
        message, _, self.rest = self.rest.partition(b"\0")
        return json.loads(message)

    def evaluate(self, expression: str) -> Any:
        """Return the value of a JavaScript expression."""
        found = self.send("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def open(self, page: Path) -> None:
        """Open a file, and wait until it is loaded."""
        for domain in ("Page", "Network", "Log", "Runtime"):
            self.send(f"{domain}.enable")
        self.send("Page.navigate", url=page.as_uri())
        while not any(e.get("method") == "Page.loadEventFired" for e in self.events):
            self.events.append(self.receive())

    def close(self) -> None:
        """End the browser."""
        self.process.terminate()
        self.process.wait(10)
        self.out.close()
        self.into.close()


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    """Start a browser, and end it."""
    found = Browser(tmp_path / "profile")
    yield found
    found.close()


def test_the_page(browser: Browser, tmp_path: Path) -> None:
    f = lambda x: (x - 0.45) ** 2  # noqa: E731
    names = ("rloo", "reinforce", "disarm", "rloo:samples=4", "arm")
    report = measure(f, backdraw.Bernoulli(np.asarray(0.3)), names, 50, rng=backdraw.key(1), problem="bits")
    page = tmp_path / "study.html"
    page.write_text(report.to_html(), encoding="utf-8")
    browser.open(page)
    assert browser.evaluate("document.title").startswith("bits: Bernoulli")

    shown = (
        "(() => { const i = document.images[0]; return [i.complete, i.naturalWidth, i.getBoundingClientRect().height]; })()"
    )
    complete, width, height = browser.evaluate(shown)
    assert complete
    assert width > 1000
    assert height > 100

    def column(i: int) -> list[str]:
        return browser.evaluate(f"[...document.querySelectorAll('tbody tr')].map(r => r.cells[{i}].innerText)")

    def click(i: int) -> str:
        """Click where the heading is drawn, as a hand does, and return how the column is then said to be sorted."""
        button = f"document.querySelectorAll('th button')[{i}]"
        browser.evaluate(f"{button}.scrollIntoView({{inline: 'center'}})")
        x, y = browser.evaluate(f"(r => [r.x + r.width / 2, r.y + r.height / 2])({button}.getBoundingClientRect())")
        for kind in ("mousePressed", "mouseReleased"):
            browser.send("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)
        return browser.evaluate(f"document.querySelectorAll('th')[{i}].getAttribute('aria-sort')")

    assert column(0) == [r.name for r in report.rows]
    assert click(0) == "ascending"
    assert column(0) == sorted(names)
    assert click(0) == "descending"
    assert column(0) == sorted(names, reverse=True)
    assert click(5) == "ascending"  # the variance: by its value, not as text
    assert column(0) == [r.name for r in sorted(report.rows, key=lambda r: r.variance.value)]
    assert browser.evaluate("document.querySelectorAll('th[aria-sort]').length") == 1

    # What it asked for is itself and its picture, and when told to ask for more, its policy refuses.
    asked = {e["params"]["request"]["url"] for e in browser.events if e.get("method") == "Network.requestWillBeSent"}
    assert page.as_uri() in asked
    assert all(url == page.as_uri() or url.startswith("data:") for url in asked)
    assert not [e for e in browser.events if e.get("method") in ("Log.entryAdded", "Runtime.exceptionThrown")]
    assert browser.evaluate("fetch('http://127.0.0.1:9/').then(() => 'fetched', error => error.name)") == "TypeError"
    said = [e["params"]["entry"]["text"] for e in browser.events if e.get("method") == "Log.entryAdded"]
    assert any("Content Security Policy" in text for text in said), said
    assert all(math.isfinite(float(x)) for x in browser.evaluate("[innerWidth, document.body.scrollWidth]"))
