# SPDX-License-Identifier: Apache-2.0
"""The console in a real Chromium, over a real server: what a person sees, and what a hostile value does not do."""

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterator, MutableMapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

from shieldwall.adapters import BusShare, MemoryBus
from shieldwall.console import Console, Settings
from shieldwall.core.event import Direction, Event
from shieldwall.core.verdict import Action, Category, Finding, PolicyRef, Tier, Verdict
from shieldwall.gateway import AsgiConn, Keys

pytestmark = pytest.mark.slow

CHROMIUM = "/usr/bin/chromium"
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    # A name that is not this machine: browsers trust such a plain connection less.
    "--host-resolver-rules=MAP console.example 127.0.0.1",
]
HOSTILE = '"><script>document.title="owned"</script><img src=x onerror="document.title=\'owned\'">'
WIDTHS = [(1400, 900), (360, 740)]


class Site:
    """A console on a port of this machine, in a thread with a loop of its own."""

    def __init__(self, path: Path, settings: Settings) -> None:
        self.bus = MemoryBus()
        self.seen = BusShare(self.bus)
        self.registry = Keys(path / "keys.json")
        self.key = self.registry.create("night-shift", role="viewer")
        self.now = 1_000.0
        self.console = Console(
            self.seen, self.bus, self.registry, secure=False, settings=settings, clock=lambda: self.now
        )
        config = uvicorn.Config(self._app, port=0, http="httptools", lifespan="off", log_config=None, interface="asgi3")
        self._server = uvicorn.Server(config)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run)

    async def _app(self, scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
        await self.console.handle(AsgiConn(scope, receive, send))

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        with contextlib.closing(self._loop):
            self._loop.run_until_complete(self._server.serve())

    def start(self) -> None:
        self._thread.start()
        while not self._server.started:
            self._thread.join(0.01)
        self.port = self._server.servers[0].sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/console/"

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self.console.close)
        self._server.should_exit = True
        self._thread.join(20)
        assert not self._thread.is_alive()

    def inside(self, act: Callable[[], None]) -> None:
        """Run something in the server's loop, and wait for it."""
        done = threading.Event()
        self._loop.call_soon_threadsafe(lambda: (act(), done.set()))
        assert done.wait(5)

    def offer(self, number: int, action: Action = Action.ALLOW, **fields: Any) -> None:
        """Let a verdict happen."""
        score = fields.pop("score", 0.0)
        rules = fields.pop("rules", ())
        time_us = fields.pop("us", 180 + number * 37 % 400)
        begin = datetime(2026, 3, 4, 9, 30, tzinfo=UTC)
        event = Event(
            id=f"0195607e-9a40-7c21-8b5f-{number:012x}",
            time=begin + timedelta(seconds=1.37 * number),
            principal=fields.pop("principal", "support-bot"),
            model=fields.pop("model", "gpt-5-mini"),
            route=fields.pop("route", "/v1/chat/completions"),
            direction=fields.pop("direction", Direction.REQUEST),
        )
        verdict = Verdict(
            event=event.id,
            action=action,
            score=score,
            findings=tuple(Finding(rule=rule, category=Category.INJECTION, score=score) for rule in rules),
            policy=PolicyRef(id="attack", digest="0" * 64),
            tiers=(Tier("rules", time_us),),
        )
        self.inside(lambda: self.seen.offer(event, verdict))

    def offer_a_morning(self) -> None:
        """Traffic as a person would see it: mostly quiet."""
        override = ("shieldwall.injection.override.1",)
        leak = ("shieldwall.leak.aws-access-key.1",)
        for number in range(40):
            answer = Direction.RESPONSE if number % 2 else Direction.REQUEST
            agent = {"principal": "research-agent", "model": "claude-sonnet-4-5", "route": "/v1/messages"}
            match number:
                case 7:
                    self.offer(number, Action.FLAG, score=0.55, rules=("shieldwall.jailbreak.persona.3",))
                case 18 | 31:
                    self.offer(number, Action.REDACT, rules=leak, direction=Direction.RESPONSE)
                case 24 | 35:
                    rules = (*override, "shieldwall.extraction.system-prompt.2")
                    self.offer(number, Action.BLOCK, score=0.97, rules=rules, us=612, **agent)
                case 37:
                    self.offer(number, Action.HOLD, score=0.81, rules=("shieldwall.flow.untrusted-tool.1",), **agent)
                case _ if number % 3:
                    self.offer(number, direction=answer)
                case _:
                    self.offer(number, direction=answer, **agent)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path, Settings(heartbeat_s=0.3, failure_spacing_s=0.01))
    site.start()
    try:
        yield site
    finally:
        site.stop()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        try:
            yield browser
        finally:
            browser.close()


@contextlib.contextmanager
def visit(browser: Browser, **options: Any) -> Iterator[tuple[BrowserContext, Page, list[str]]]:
    """A fresh visitor: its window, and what the browser complained about."""
    context = browser.new_context(**({"viewport": {"width": 1400, "height": 900}} | options))
    page = context.new_page()
    page.set_default_timeout(5_000)
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    try:
        yield context, page, complaints
    finally:
        context.close()


def log_in(page: Page, site: Site, url: str = "") -> None:
    page.goto(url or site.url)
    page.get_by_label("Key").fill(site.key)
    page.get_by_role("button", name="Log in").click()
    expect(page.get_by_role("heading", name="Verdicts")).to_be_visible()


def test_a_verdict_arrives_without_reload(site: Site, browser: Browser) -> None:
    """The row, the counts and the title change while the page stays."""
    site.offer(1)
    with visit(browser) as (_, page, complaints):
        log_in(page, site)
        expect(page.locator("#status-text")).to_have_text("Live")
        page.evaluate("window.stayed = true")

        rules = ("shieldwall.injection.override.1", "shieldwall.extraction.system-prompt.2")
        site.offer(2, Action.BLOCK, score=0.97, rules=rules, us=1_234, principal="billing")

        newest = page.locator("#rows tr").first
        expect(newest).to_contain_text("billing")
        expect(newest.locator("li")).to_have_text(list(rules))
        expect(page.locator('[data-count="block"]')).to_have_text("1")
        expect(page.locator('[data-count="all"]')).to_have_text("2")
        expect(page).to_have_title("1 blocked · Shieldwall")
        expect(page.locator("#rows tr")).to_have_count(2)
        assert page.evaluate("window.stayed") is True
        live = newest.evaluate("row => { row.classList.remove('new'); return row.outerHTML; }")
        page.reload()
        assert _shape(page.locator("#rows tr").first.evaluate("row => row.outerHTML")) == _shape(live)
        assert complaints == []


def test_a_hostile_model_name_is_shown_and_does_not_run(site: Site, browser: Browser) -> None:
    """Neither in the page as it was made, nor in a row that came live."""
    site.offer(1, model=HOSTILE, principal=HOSTILE, rules=(HOSTILE,))
    with visit(browser) as (_, page, complaints):
        log_in(page, site)
        expect(page.locator("#status-text")).to_have_text("Live")

        site.offer(2, model=HOSTILE, principal=HOSTILE, route=HOSTILE, rules=(HOSTILE,))

        expect(page.locator("#rows tr")).to_have_count(2)
        for row in page.locator("#rows tr").all():
            expect(row.locator("td.model")).to_have_text(HOSTILE)
            expect(row.locator("li")).to_have_text(HOSTILE)
        assert page.locator("main img, main script").count() == 0
        assert "owned" not in page.title()
        assert complaints == []


def test_script_that_got_into_the_page_would_not_run(site: Site, browser: Browser) -> None:
    """The second line: the browser itself refuses what the headers do not allow."""
    with visit(browser) as (_, page, complaints):
        page.goto(site.url)

        page.evaluate("""() => {
            const script = document.createElement("script");
            script.textContent = "document.title = 'owned'";
            document.body.append(script);
            const style = document.createElement("style");
            style.textContent = "body { color: red }";
            document.head.append(style);
        }""")

        assert page.title() == "Log in · Shieldwall"
        assert len([each for each in complaints if "Content Security Policy" in each]) == 2


def test_the_page_is_readable_without_script(site: Site, browser: Browser) -> None:
    """Log in, read, choose one action, log out: all of it without a line of script."""
    site.offer_a_morning()
    with visit(browser, java_script_enabled=False) as (_, page, _complaints):
        log_in(page, site)

        expect(page.locator("#rows tr")).to_have_count(40)
        expect(page.locator("#status-text")).to_contain_text("this page reloads")
        expect(page.locator("#pause")).to_be_hidden()
        page.locator("label.tile.block").click()
        expect(page.locator("#rows tr:visible")).to_have_count(2)
        page.get_by_role("button", name="Log out").click()
        expect(page.get_by_label("Key")).to_be_visible()


def test_a_pause_holds_rows_back_and_loses_none(site: Site, browser: Browser) -> None:
    """Reading needs a page that stands still; counts go on, the rows come when it goes on."""
    with visit(browser) as (_, page, _complaints):
        log_in(page, site)
        expect(page.locator("#status-text")).to_have_text("Live")
        expect(page.get_by_text("No verdict yet")).to_be_visible()
        page.get_by_role("button", name="Pause").click()

        site.offer(1)
        site.offer(2)

        expect(page.get_by_role("button", name="Resume (2 new)")).to_be_visible()
        expect(page.locator('[data-count="all"]')).to_have_text("2")
        expect(page.locator("#rows tr")).to_have_count(0)
        page.get_by_role("button", name="Resume").click()
        expect(page.locator("#rows tr")).to_have_count(2)
        expect(page.get_by_text("No verdict yet")).to_be_hidden()


def test_a_flood_leaves_the_latest_rows_and_right_counts(site: Site, browser: Browser) -> None:
    """More verdicts than the page keeps, faster than it draws."""
    with visit(browser) as (_, page, complaints):
        log_in(page, site)
        expect(page.locator("#status-text")).to_have_text("Live")

        for number in range(700):
            site.offer(number)

        expect(page.locator('[data-count="allow"]')).to_have_text("700")
        expect(page.locator("#rows tr").first).to_have_attribute(
            "data-key", "0195607e-9a40-7c21-8b5f-0000000002bb.request"
        )
        expect(page.locator("#rows tr")).to_have_count(200)
        assert complaints == []


def test_the_page_says_when_its_session_is_over(site: Site, browser: Browser) -> None:
    """No page looks live that is not: the stream ends with the session, and a reload asks for the key."""
    with visit(browser) as (_, page, _complaints):
        log_in(page, site)
        expect(page.locator("#status-text")).to_have_text("Live")

        site.now += 12 * 3_600

        expect(page.locator("#status-text")).to_have_text("Logged out: reload to log in again")
        page.reload()
        expect(page.get_by_label("Key")).to_be_visible()


def test_the_page_finds_its_way_back_after_a_break(site: Site, browser: Browser) -> None:
    """A connection that broke is opened again, and what happened meanwhile is there, once."""
    site.offer(1)
    with visit(browser) as (_, page, _complaints):
        log_in(page, site)
        expect(page.locator("#status-text")).to_have_text("Live")
        streams = site.console
        site.inside(streams.close)
        expect(page.locator("#status-text")).to_have_text("Reconnecting")

        site.offer(2)
        site.inside(streams._closing.clear)

        expect(page.locator("#status-text")).to_have_text("Live")
        expect(page.locator("#rows tr")).to_have_count(2)


def test_a_wrong_key_and_a_plain_connection(site: Site, browser: Browser) -> None:
    """Over plain HTTP to another machine a browser says less about a form; login and logout work all the same."""
    url = f"http://console.example:{site.port}/console/"
    with visit(browser) as (context, page, _complaints):
        page.goto(url)
        page.get_by_label("Key").fill("sw-0-0")
        page.get_by_role("button", name="Log in").click()
        expect(page.get_by_role("alert")).to_contain_text("not known here")

        log_in(page, site, url)

        cookie = context.cookies()[0]
        assert (cookie["httpOnly"], cookie["sameSite"], cookie["path"]) == (True, "Strict", "/console/")
        assert page.evaluate("document.cookie") == ""
        page.get_by_role("button", name="Log out").click()
        expect(page.get_by_label("Key")).to_be_visible()
        assert context.cookies() == []


def test_a_form_of_another_site_does_not_log_anybody_in(site: Site, browser: Browser) -> None:
    """A page elsewhere sends our login form: the browser tells, and we refuse."""
    with visit(browser) as (context, page, _complaints):
        page.route("http://evil.example/", lambda route: route.fulfill(content_type="text/html", body=_evil(site)))
        page.goto("http://evil.example/")

        page.get_by_role("button").click()

        expect(page.get_by_text("sent from another site")).to_be_visible()
        assert context.cookies() == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", WIDTHS)
def test_the_page_fits_its_window(
    site: Site, browser: Browser, scheme: str, size: tuple[int, int], tmp_path: Path
) -> None:
    """On a phone and on a desk, light and dark: nothing sticks out sideways, and text stands out from its ground."""
    site.offer_a_morning()
    site.offer(41, Action.FLAG, model="m" * 128, principal="p" * 64, rules=("r" * 120,), route="/v1/" + "x" * 250)
    with visit(browser, viewport={"width": size[0], "height": size[1]}, color_scheme=scheme) as (_, page, _complaints):
        log_in(page, site)

        assert page.evaluate("document.documentElement.scrollWidth") <= size[0]
        assert page.evaluate(_CONTRAST) >= 4.5


_CONTRAST = """() => {
  // The least contrast of any visible text to the nearest opaque ground behind it (WCAG 2.2, relative luminance).
  const parse = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map((v) => v / 255)
    .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const ground = (element) => {
    for (let each = element; each; each = each.parentElement) {
      const colour = parse(getComputedStyle(each).backgroundColor);
      if (colour.length === 3 || colour[3] === 1) return colour;
    }
    return [255, 255, 255];
  };
  let least = 21;
  for (const element of document.querySelectorAll("body *")) {
    const own = Array.from(element.childNodes).some((node) => node.nodeType === 3 && node.data.trim());
    if (!own || !element.checkVisibility()) continue;
    const [a, b] = [light(parse(getComputedStyle(element).color)), light(ground(element))];
    least = Math.min(least, (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05));
  }
  return least;
}"""


def _evil(site: Site) -> str:
    return (
        f'<form method="post" action="{site.url}login">'
        f'<input name="key" value="{site.key}"><button>Free cake</button></form>'
    )


def _shape(row: str) -> str:
    """A row without the spaces and the empty attributes that carry nothing."""
    return "".join(row.split()).replace('title=""', "")
