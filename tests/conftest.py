"""Shape annotations are checked while the tests run, and only then; not in the facade, which answers wrong types in words."""

import shutil

import pytest
from jaxtyping import install_import_hook

ROOMS = [
    "curvature",
    "evaluate",
    "fitted",
    "gradients",
    "inference",
    "influence",
    "linop",
    "objective",
    "parallel",
    "questions",
    "report",
    "review",
    "router",
    "solve",
    "space",
    "store",
    "tiles",
]
install_import_hook([f"upweight.{room}" for room in ROOMS], "beartype.beartype")

CHROMIUM = ("chromium", "chromium-browser", "google-chrome", "chrome")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture(scope="session")
def chromium():
    """A headless Chromium, the machine's own: none is ever downloaded."""
    found = next((path for name in CHROMIUM if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip("no Chromium on this machine: `make browser` installs Debian's")
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=found, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def visit(chromium):
    """Open pages from disk; afterwards no request, dialog, error or policy violation may have happened on any."""
    opened = []

    def open_page(path, **context):
        visited = Visited(chromium.new_context(viewport={"width": 1280, "height": 900}, **context), path)
        opened.append(visited)
        return visited.page

    yield open_page
    for visited in opened:
        visited.close()
        assert visited.seen == []


class Visited:
    """A page, and everything on it that should not happen."""

    def __init__(self, context, path):
        self.context, self.seen = context, []
        context.set_default_timeout(60_000)
        context.add_init_script(
            "document.addEventListener('securitypolicyviolation', e => console.error('CSP ' + e.violatedDirective))"
        )
        self.page = page = context.new_page()
        page.on("request", lambda request: self.note("request", request.url))
        page.on("dialog", lambda dialog: (self.seen.append(f"dialog {dialog.message}"), dialog.dismiss()))
        page.on("pageerror", lambda error: self.seen.append(f"error {error}"))
        page.on("console", lambda message: self.seen.append(f"console {message.text}"))
        page.on("popup", lambda popup: self.seen.append(f"popup {popup.url}"))
        page.goto(path.as_uri())
        page.wait_for_selector("html[data-ready=yes]")

    def note(self, what, url):
        if not url.startswith(("file:", "data:", "blob:")):
            self.seen.append(f"{what} {url}")

    def close(self):
        self.context.close()
