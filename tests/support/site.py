"""The site of docs/, as a reader's browser has it: built once, read as HTML, and shown by Chromium."""

from __future__ import annotations

import json
import os
import queue
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from gofer.testing.agents import Guard

__all__ = ["CHROMIUM", "HtmlPage", "build", "dead_links", "measure", "read_site"]

#: A browser without a window, if this machine has one.
CHROMIUM = next(filter(None, map(shutil.which, ["chromium-headless-shell", "chromium", "google-chrome"])), None)

#: Shows each page in a frame of the given width, and reports what is wider. What scrolls by itself may be.
_MEASURE = """
<!doctype html><title>measure</title><body><script>
const wide = (frame, width) => {
  const page = frame.contentDocument, view = frame.contentWindow, found = [];
  if (page.documentElement.scrollWidth > width) found.push(`the page: ${page.documentElement.scrollWidth} px`);
  for (const one of page.body.querySelectorAll('*')) {
    const box = one.getBoundingClientRect(), style = view.getComputedStyle(one);
    if (!box.width || !box.height || style.visibility === 'hidden' || box.right <= width + 0.5) continue;
    let around = one.parentElement;
    while (around !== page.body && (view.getComputedStyle(around).overflowX === 'visible'
      || around.getBoundingClientRect().right > width + 0.5)) around = around.parentElement;
    if (around !== page.body) continue;
    found.push(`<${one.localName} class="${one.getAttribute('class') || ''}">: to ${Math.round(box.right)} px: `
      + one.textContent.trim().slice(0, 60));
  }
  for (const one of page.images) if (!one.naturalWidth) found.push(`${one.src} is not shown`);
  return found;
};
(async () => {
  const report = {};
  for (const name of PAGES) {
    const frame = document.createElement('iframe');
    frame.style.cssText = 'width:WIDTHpx;height:800px;border:0';
    const loaded = new Promise(done => { frame.onload = done; });
    frame.src = name;
    document.body.append(frame);
    await loaded;
    await new Promise(done => frame.contentWindow.requestAnimationFrame(() => setTimeout(done, 0)));
    report[name] = wide(frame, WIDTH);
    frame.remove();
  }
  await fetch('/report', {method: 'POST', body: JSON.stringify(report)});
})().catch(error => fetch('/report', {method: 'POST', body: JSON.stringify({error: [String(error)]})}));
</script>
"""


def build(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Build the site of a folder that has a mkdocs.yml."""
    return subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", *options],
        cwd=folder,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=100,
        check=False,
    )


@dataclass
class HtmlPage:
    """What other pages can point at in a page, what it points at, and its pictures without a text alternative."""

    anchors: set[str] = field(default_factory=set)
    links: list[str] = field(default_factory=list)
    without_alternative: list[str] = field(default_factory=list)


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.page = HtmlPage()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.page.anchors.update(filter(None, (found.get("id"), found.get("name") if tag == "a" else None)))
        self.page.links.extend(filter(None, (found.get("href"), found.get("src"))))
        if tag == "img" and not found.get("alt"):
            self.page.without_alternative.append(str(found.get("src")))


def read_site(site: Path) -> dict[str, HtmlPage]:
    """Read all pages of a site, by their path in it."""
    pages = {}
    for path in sorted(site.rglob("*.html")):
        reader = _Reader()
        reader.feed(path.read_text("utf-8"))
        pages[str(path.relative_to(site))] = reader.page
    return pages


def dead_links(site: Path, pages: dict[str, HtmlPage]) -> list[str]:
    """Return every link inside the site that leads to no file, or to no anchor of its page."""
    dead = []
    for name, page in pages.items():
        for link in page.links:
            url = urlsplit(link)
            if url.scheme or url.netloc or name == "404.html":  # that one is shown for any path, and has absolute links
                continue
            target = (site / name).parent / unquote(url.path) if url.path else site / name
            target = Path(os.path.normpath(target))
            if target.is_dir():
                target /= "index.html"
            anchors = (
                pages[str(target.relative_to(site))].anchors if target.suffix == ".html" and target.exists() else None
            )
            if not target.exists():
                dead.append(f"{name}: {link}: no such file")
            elif url.fragment and anchors is not None and unquote(url.fragment) not in anchors:
                dead.append(f"{name}: {link}: no such anchor")
    return dead


@contextmanager
def _served(site: Path, extra: dict[str, str], reports: queue.Queue[Any]) -> Iterator[str]:
    class Handler(SimpleHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path not in extra:
                return super().do_GET()
            self._answer(extra[self.path].encode())
            return None

        def do_POST(self) -> None:
            reports.put(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self._answer(b"")

        def _answer(self, body: bytes) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(site))) as server:
        server.daemon_threads = False  # so that its end waits for them
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


def measure(site: Path, names: list[str], width: int, folder: Path) -> dict[str, list[str]]:
    """Have Chromium show pages in a frame of some pixels; return for each what is wider, and pictures that fail.

    Args:
        folder: where Chromium keeps its profile.
    """
    assert CHROMIUM is not None
    reports: queue.Queue[dict[str, list[str]]] = queue.Queue()
    script = _MEASURE.replace("PAGES", json.dumps([f"/{name}" for name in names])).replace("WIDTH", str(width))
    with _served(site, {"/measure": script}, reports) as url:
        guard = Guard()  # it ends the browser, and what that has started, when this process is killed
        browser = subprocess.Popen(
            [
                *(CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run"),
                *(f"--user-data-dir={folder}", "--remote-debugging-port=0", "--window-size=1400,900"),
                f"{url}/measure",
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            guard.watch(browser.pid, group=True)
            return reports.get(timeout=90)
        finally:
            guard.release()
            os.killpg(browser.pid, signal.SIGKILL)  # the command may be a script that has started the browser
            browser.wait(30)
