# SPDX-License-Identifier: Apache-2.0
"""The console through the ASGI callables: who gets in, what is shown to whom, and what is refused."""

import asyncio
import contextlib
import html
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shieldwall.adapters import BusShare, MemoryBus
from shieldwall.console import Console, Settings
from shieldwall.console.page import Line, line_event
from shieldwall.core.event import Direction, Event
from shieldwall.core.verdict import Action, Category, Finding, PolicyRef, Tier, Verdict
from shieldwall.gateway import ROLES, AsgiConn, Keys

HOST = b"console.example:8787"
HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "' onmouseover='alert(1)",
    "</template><script>alert(1)</script>",
    "&lt;script&gt;",
    "line\nid: forged\ndata: {}\n\n",
    "\u202eevil\u2066",
]
CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; form-action 'self'; "
    "img-src 'self'; base-uri 'none'; frame-ancestors 'none'"
)


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


class Answer:
    """What came back. A stream's chunks can be waited for one by one."""

    def __init__(self) -> None:
        self.status = 0
        self.headers: list[tuple[str, str]] = []
        self.body = b""
        self.chunks: asyncio.Queue[bytes] = asyncio.Queue()
        self.leave = asyncio.Event()
        self.task: asyncio.Task[None] | None = None

    def header(self, name: str) -> str:
        return next((value for key, value in self.headers if key == name), "")

    @property
    def text(self) -> str:
        return self.body.decode()

    @property
    def cookie(self) -> str:
        return self.header("set-cookie").partition(";")[0]

    async def chunk(self) -> str:
        return (await asyncio.wait_for(self.chunks.get(), 5)).decode()


class Peer:
    """A browser's part of HTTP: sends a request to the console and keeps the answer."""

    def __init__(self, handle: Callable[[AsgiConn], Awaitable[None]]) -> None:
        self._handle = handle

    def start(
        self,
        method: str,
        path: str,
        *,
        body: bytes = b"",
        cookie: str = "",
        query: bytes = b"",
        **headers: str,
    ) -> Answer:
        answer = Answer()
        sent = {b"host": HOST} | {name.replace("_", "-").encode(): value.encode() for name, value in headers.items()}
        if cookie:
            sent[b"cookie"] = cookie.encode()
        messages = [{"type": "http.request", "body": body, "more_body": False}]

        async def receive() -> dict[str, Any]:
            if messages:
                return messages.pop()
            await answer.leave.wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            if message["type"] == "http.response.start":
                answer.status = message["status"]
                answer.headers = [(name.decode(), value.decode()) for name, value in message["headers"]]
            else:
                answer.body += message["body"]
                answer.chunks.put_nowait(message["body"])

        scope = {"method": method, "path": path, "query_string": query, "headers": list(sent.items())}
        conn = AsgiConn(scope, receive, send)
        answer.task = asyncio.ensure_future(self._handle(conn))  # type: ignore[arg-type]
        return answer

    async def ask(self, method: str, path: str, **more: Any) -> Answer:
        answer = self.start(method, path, **more)
        assert answer.task is not None
        await asyncio.wait_for(answer.task, 5)
        return answer

    async def post(self, path: str, fields: dict[str, str], *, cookie: str = "", **headers: str) -> Answer:
        headers = {"content_type": "application/x-www-form-urlencoded"} | headers
        return await self.ask("POST", path, body=urlencode(fields).encode(), cookie=cookie, **headers)


class House:
    """A console with what it stands on."""

    def __init__(self, path: Path, *, secure: bool = False, **bounds: Any) -> None:
        self.bus = MemoryBus()
        self.seen = BusShare(self.bus)
        self.registry = Keys(path / "keys.json")
        self.keys = {role: self.registry.create(f"{role}-key", role=role) for role in ROLES}
        self.clock = Clock()
        settings = Settings(**({"failure_spacing_s": 0.001} | bounds))
        self.console = Console(self.seen, self.bus, self.registry, secure=secure, settings=settings, clock=self.clock)
        self.peer = Peer(self.console.handle)

    async def log_in(self, role: str = "viewer") -> str:
        return (await self.peer.post("/console/login", {"key": self.keys[role]})).cookie

    def offer(self, number: int = 1, action: Action = Action.BLOCK, **fields: Any) -> None:
        """Let a verdict happen."""
        rules = fields.pop("rules", ("shieldwall.injection.override.1",))
        event = Event(
            id=fields.pop("id", f"event-{number}"),
            time=datetime(2026, 3, 4, 5, 6, 7, 89_000, UTC),
            principal=fields.pop("principal", "app"),
            model=fields.pop("model", "demo"),
            route=fields.pop("route", "/v1/chat/completions"),
            direction=fields.pop("direction", Direction.REQUEST),
        )
        findings = tuple(Finding(rule=rule, category=Category.INJECTION, score=0.97) for rule in rules)
        policy = PolicyRef(id="attack", digest="0" * 64)
        tiers = (Tier("rules", 1_234),)
        verdict = Verdict(event=event.id, action=action, score=0.97, findings=findings, policy=policy, tiers=tiers)
        self.seen.offer(event, verdict)

    def subscriptions(self) -> int:
        return len(self.bus._topics.get("verdicts", ()))


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path)


@contextlib.asynccontextmanager
async def stream(house: House, cookie: str, **headers: str) -> AsyncIterator[Answer]:
    """An open stream, its first chunk not yet taken."""
    answer = house.peer.start("GET", "/console/events", cookie=cookie, **headers)
    assert answer.task is not None
    try:
        yield answer
    finally:
        answer.leave.set()
        await asyncio.wait_for(answer.task, 5)


@pytest.mark.parametrize("role", ["viewer", "operator", "auditor", "approver"])
async def test_a_key_of_a_role_that_may_look_opens_the_console(house: House, role: str) -> None:
    """The four roles of people who watch get a session, and the page says who they are."""
    answer = await house.peer.post("/console/login", {"key": f" {house.keys[role]}\n"})
    shown = await house.peer.ask("GET", "/console/", cookie=answer.cookie)

    assert (answer.status, answer.header("location")) == (303, "/console/")
    assert f"{role}-key <small>{role}</small>" in shown.text


async def test_a_key_that_only_calls_models_is_refused_with_a_sentence(house: House) -> None:
    """Application keys lie in many places; none of them opens the console."""
    answer = await house.peer.post("/console/login", {"key": house.keys["user"]})

    assert answer.status == 403
    assert "A key of role user may call models, but not open the console." in answer.text
    assert answer.cookie == ""


@pytest.mark.parametrize("wrong", ["", "sw-", "sw-0-0", "nonsense", "sw-é-\ud7ff", "x" * 3_000])
async def test_a_wrong_key_is_refused(house: House, wrong: str) -> None:
    """Nothing that is not a key of this node opens a session, and the answer does not repeat it."""
    answer = await house.peer.post("/console/login", {"key": wrong})

    assert answer.status == 401
    assert "not known here" in answer.text
    assert answer.cookie == ""
    assert len(wrong) < 3 or html.escape(wrong) not in answer.text


async def test_a_key_with_one_wrong_character_is_refused(house: House) -> None:
    """The id alone is worth nothing."""
    key = house.keys["operator"]

    answer = await house.peer.post("/console/login", {"key": key[:-1] + ("0" if key[-1] != "0" else "1")})

    assert answer.status == 401


async def test_the_cookie_cannot_be_read_by_script_or_sent_by_other_sites(house: House) -> None:
    """The flags that keep a session where it belongs."""
    answer = await house.peer.post("/console/login", {"key": house.keys["viewer"]})

    name, *flags = answer.header("set-cookie").split("; ")
    assert re.fullmatch(r"shieldwall=[A-Za-z0-9_-]{43}", name)
    assert flags == ["Path=/console/", "Max-Age=43200", "HttpOnly", "SameSite=Strict"]


async def test_behind_tls_the_cookie_never_travels_without_it(tmp_path: Path) -> None:
    """`Secure`, and a name that browsers refuse from a page without TLS."""
    house = House(tmp_path, secure=True)

    answer = await house.peer.post("/console/login", {"key": house.keys["viewer"]})

    assert answer.header("set-cookie").startswith("__Secure-shieldwall=")
    assert answer.header("set-cookie").endswith("; Secure")
    assert "viewer-key" in (await house.peer.ask("GET", "/console/", cookie=answer.cookie)).text


async def test_the_memory_holds_no_cookie(house: House) -> None:
    """Only the hash is kept: a copy of the sessions logs nobody in."""
    value = (await house.log_in()).partition("=")[2]

    sessions = house.console._sessions._by_digest
    kept = [getattr(each, name) for each in sessions.values() for name in each.__slots__]
    assert len(sessions) == 1
    assert value not in kept
    assert value.encode() not in kept
    assert list(sessions) != [value.encode()]


@pytest.mark.parametrize("path", ["/console/", "/console/events"])
async def test_without_a_session_no_verdict_is_shown(house: House, path: str) -> None:
    """Neither nobody, nor a guess, nor a key in a header sees anything."""
    house.offer(model="secret-project")

    for more in ({}, {"cookie": "shieldwall=guess"}, {"authorization": f"Bearer {house.keys['operator']}"}):
        answer = await house.peer.ask("GET", path, **more)

        assert "secret-project" not in answer.text
        assert answer.status == (200 if path == "/console/" else 403)


async def test_logging_out_ends_the_session(house: House) -> None:
    """The cookie is worth nothing afterwards, and the browser is told to drop it."""
    cookie = await house.log_in()
    token = await _token(house, cookie)

    answer = await house.peer.post("/console/logout", {"token": token}, cookie=cookie)

    assert answer.status == 303
    assert "shieldwall=; Path=/console/; Max-Age=0;" in answer.header("set-cookie")
    assert "viewer-key" not in (await house.peer.ask("GET", "/console/", cookie=cookie)).text


@pytest.mark.parametrize("fields", [{}, {"token": ""}, {"token": "guess"}, {"token": "é"}])
async def test_a_logout_without_the_sessions_token_is_refused(house: House, fields: dict[str, str]) -> None:
    """The token stands in the page only, which no other site can read."""
    cookie = await house.log_in()

    answer = await house.peer.post("/console/logout", fields, cookie=cookie)

    assert answer.status == 403
    assert "viewer-key" in (await house.peer.ask("GET", "/console/", cookie=cookie)).text


async def test_the_token_of_one_session_is_not_that_of_another(house: House) -> None:
    """A token is per session, so one's own does not end the session of somebody else."""
    mine, other = await house.log_in("viewer"), await house.log_in("operator")

    answer = await house.peer.post("/console/logout", {"token": await _token(house, mine)}, cookie=other)

    assert answer.status == 403


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.example"},
        {"origin": "http://console.example"},
        {"origin": "http://console.example:8787.evil.example"},
        {"origin": "ftp://console.example:8787"},
        {"origin": "null"},
        {"origin": ""},
        {"origin": "http://[broken"},
        {"sec_fetch_site": "cross-site"},
        {"sec_fetch_site": "same-site", "origin": "http://console.example:8787"},
        {"sec_fetch_site": "same-origin", "origin": "https://evil.example"},
    ],
)
async def test_a_form_of_another_site_is_refused(house: House, headers: dict[str, str]) -> None:
    """Also the login: a browser must not be logged in to somebody else's session without its owner's will."""
    answer = await house.peer.post("/console/login", {"key": house.keys["viewer"]}, **headers)

    assert answer.status == 403
    assert "another site" in answer.text
    assert answer.cookie == ""


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://console.example:8787"},
        {"origin": "https://CONSOLE.example:8787"},
        {"sec_fetch_site": "same-origin", "origin": "null"},
        {"sec_fetch_site": "same-origin"},
        {},
    ],
)
async def test_a_form_of_our_own_page_is_taken(house: House, headers: dict[str, str]) -> None:
    """However the browser says it; a client that says nothing is no browser."""
    answer = await house.peer.post("/console/login", {"key": house.keys["viewer"]}, **headers)

    assert answer.status == 303


async def test_with_tls_a_form_of_the_same_host_without_tls_is_refused(tmp_path: Path) -> None:
    """Whoever can change the plain page of a host must not log browsers in."""
    house = House(tmp_path, secure=True)

    answer = await house.peer.post(
        "/console/login", {"key": house.keys["viewer"]}, origin="http://console.example:8787"
    )

    assert answer.status == 403


async def test_an_unused_session_ends(house: House) -> None:
    """Half an hour without use; use in between starts it anew."""
    cookie = await house.log_in()
    shown = []

    for minutes in (29, 29, 31):
        house.clock.now += 60 * minutes
        shown.append("viewer-key" in (await house.peer.ask("GET", "/console/", cookie=cookie)).text)

    assert shown == [True, True, False]


async def test_a_session_ends_after_a_shift_whatever_happens(house: House) -> None:
    """Twelve hours, also when it is used every minute."""
    cookie = await house.log_in()
    minutes = 0

    while "viewer-key" in (await house.peer.ask("GET", "/console/", cookie=cookie)).text:
        house.clock.now += 60
        minutes += 1

    assert minutes == 12 * 60


async def test_one_key_cannot_push_out_the_sessions_of_others(tmp_path: Path) -> None:
    """Sessions are bounded per key first; the one unused for longest gives way."""
    house = House(tmp_path, max_sessions=3, max_sessions_per_key=2)
    other = await house.log_in("operator")

    mine = [await house.log_in("viewer") for _ in range(5)]

    shown = [(await house.peer.ask("GET", "/console/", cookie=each)).text for each in mine]
    assert ["viewer-key" in each for each in shown] == [False, False, False, True, True]
    assert "operator-key" in (await house.peer.ask("GET", "/console/", cookie=other)).text


async def test_sessions_are_bounded_over_all_keys(tmp_path: Path) -> None:
    """The whole number is bounded too, and sessions that are over make room first."""
    house = House(tmp_path, max_sessions=2)

    cookies = [await house.log_in(role) for role in ("viewer", "operator", "auditor")]

    shown = [(await house.peer.ask("GET", "/console/", cookie=each)).text for each in cookies]
    assert ["Log out" in each for each in shown] == [False, True, True]
    assert len(house.console._sessions) == 2


async def test_a_second_login_replaces_the_first(house: House) -> None:
    """A browser has one session: who logs in as somebody else leaves nothing behind."""
    first = await house.log_in("viewer")

    second = await house.peer.post("/console/login", {"key": house.keys["operator"]}, cookie=first)

    assert "viewer-key" not in (await house.peer.ask("GET", "/console/", cookie=first)).text
    assert "operator-key" in (await house.peer.ask("GET", "/console/", cookie=second.cookie)).text


async def test_wrong_keys_wait_and_right_keys_do_not(tmp_path: Path) -> None:
    """A crowd of guesses is held, then turned away; somebody with a key gets in meanwhile."""
    house = House(tmp_path, failure_spacing_s=60, failure_wait_s=180)
    body = urlencode({"key": "sw-0-0"}).encode()
    form = {"content_type": "application/x-www-form-urlencoded"}
    guesses = [house.peer.start("POST", "/console/login", body=body, **form) for _ in range(5)]
    await asyncio.sleep(0)

    right = await house.peer.post("/console/login", {"key": house.keys["viewer"]})

    statuses = [guess.status for guess in guesses]
    assert right.status == 303
    assert statuses == [0, 0, 0, 429, 429]
    assert guesses[-1].header("retry-after") == "180"
    for guess in guesses:
        guess.leave.set()
    await asyncio.gather(*(guess.task for guess in guesses if guess.task))


async def test_turns_come_back_with_time(tmp_path: Path) -> None:
    """Who mistypes later is told so again, and not that too many tried."""
    house = House(tmp_path, failure_spacing_s=0.01, failure_wait_s=0.01)
    statuses = []

    for _ in range(3):
        statuses.append((await house.peer.post("/console/login", {"key": "wrong"})).status)
        house.clock.now += 0.006

    assert statuses == [401, 429, 401]


async def test_the_page_shows_counts_and_verdicts(house: House) -> None:
    """Readable without script: each field of each verdict, newest first, and the counts of all."""
    house.offer(1, Action.ALLOW, rules=(), model="first-model")
    house.offer(2, Action.BLOCK, principal="billing", direction=Direction.RESPONSE)

    page = (await house.peer.ask("GET", "/console/", cookie=await house.log_in())).text

    rows = re.findall(r'<tr class="(\w+)" data-key="([^"]+)">(.*?)</tr>', page.partition("<template")[0], re.DOTALL)
    assert [row[:2] for row in rows] == [("block", "event-2.response"), ("allow", "event-1.request")]
    newest = rows[0][2]
    for shown in (
        "2026-03-04",
        "05:06:07.089",
        ">response<",
        ">block<",
        "0.97",
        "shieldwall.injection.override.1",
        ">demo<",
        ">billing<",
        "/v1/chat/completions",
        ">event-2<",
        ">1,234<",
    ):
        assert shown in newest
    counts = dict(re.findall(r'data-count="(\w+)">([\d,]+)<', page))
    assert counts == {"all": "2", "allow": "1", "flag": "0", "redact": "0", "hold": "0", "block": "1"}


async def test_the_page_keeps_its_bound_and_its_counts_go_on(house: House) -> None:
    """Rows are the latest that the share keeps; counts are of everything since the start."""
    for number in range(1_250):
        house.offer(number)

    page = (await house.peer.ask("GET", "/console/", cookie=await house.log_in())).text

    assert page.partition("<template")[0].count("<tr class=") == 200
    assert 'data-count="block">1,250<' in page


@pytest.mark.parametrize("hostile", HOSTILE)
async def test_hostile_values_are_text_in_the_page(house: House, hostile: str) -> None:
    """Whatever a client calls its model, the page has no more markup than before."""
    cookie = await house.log_in()
    house.offer(model="plain", principal="plain", route="plain", rules=("plain",), id="plain")
    before = (await house.peer.ask("GET", "/console/", cookie=cookie)).text
    house.seen.latest.clear()
    house.offer(model=hostile, principal=hostile, route=hostile, rules=(hostile,), id=hostile)

    page = (await house.peer.ask("GET", "/console/", cookie=cookie)).text

    assert _tags(page) == _tags(before)
    assert page.count(html.escape(hostile)) == 9  # four cells with their tooltips, and the rule


@settings(max_examples=200, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(st.text(), st.text(), st.lists(st.text(), max_size=3))
def test_any_value_stays_one_event_of_the_stream(event: str, model: str, rules: list[str]) -> None:
    """No value can end its event early or begin another: an id line, a data line, an empty line."""
    line = Line(
        event=event,
        time="",
        direction="request",
        action="flag",
        score=0.5,
        rules=tuple(rules),
        model=model,
        principal="",
        route="",
        us=1,
    )

    lines = re.split(rb"\r\n|\r|\n", line_event(line))

    assert [part.partition(b": ")[0] for part in lines] == [b"id", b"data", b"", b""]
    assert msgspec.json.decode(lines[1].partition(b": ")[2], type=Line) == line


async def test_an_unknown_action_gets_no_class_of_its_own(house: House) -> None:
    """A class name from outside could hide a row: the style sheet knows five."""
    cookie = await house.log_in()
    house.offer()
    house.seen.latest.append(msgspec.structs.replace(house.seen.latest.pop(), action="unseen"))

    page = (await house.peer.ask("GET", "/console/", cookie=cookie)).text

    assert '<tr class="other" data-key="event-1.request">' in page


async def test_a_verdict_arrives_on_the_stream(house: House) -> None:
    """One event per verdict, with an id and JSON, and the counts after it."""
    async with stream(house, await house.log_in()) as answer:
        opening = await answer.chunk()

        house.offer(7)

        ident, data, _, kind, counts = (await answer.chunk()).splitlines()[:5]
        assert answer.header("content-type") == "text/event-stream"
        assert "retry: 3000" in opening
        assert ident == "id: event-7.request"
        assert msgspec.json.decode(data.removeprefix("data: "))["rules"] == ["shieldwall.injection.override.1"]
        assert kind == "event: counts"
        assert msgspec.json.decode(counts.removeprefix("data: "))["block"] == 1


async def test_a_flood_comes_in_few_chunks_and_in_order(house: House) -> None:
    """Watching stays cheap for the loop that guards: verdicts that come together leave together."""
    async with stream(house, await house.log_in()) as answer:
        await answer.chunk()
        for number in range(600):
            house.offer(number)

        chunks = [await answer.chunk()]
        while "id: event-599.request" not in chunks[-1]:
            chunks.append(await answer.chunk())

    assert re.findall(r"id: event-(\d+)", "".join(chunks)) == [str(number) for number in range(600)]
    assert len(chunks) < 10


async def test_a_new_stream_says_what_happened_since_the_page(house: House) -> None:
    """Verdicts between the page and the stream are not lost: all of the latest come, once."""
    for number in range(3):
        house.offer(number)

    async with stream(house, await house.log_in()) as answer:
        opening = await answer.chunk()

    assert re.findall(r"id: (\S+)", opening) == ["event-0.request", "event-1.request", "event-2.request"]


async def test_a_stream_goes_on_where_it_broke_off(house: House) -> None:
    """A browser that reconnects names the last event it has, and gets the ones after it."""
    for number in range(3):
        house.offer(number)

    async with stream(house, await house.log_in(), last_event_id="event-1.request") as answer:
        opening = await answer.chunk()

    assert re.findall(r"id: (\S+)", opening) == ["event-2.request"]


async def test_a_quiet_stream_says_that_it_lives(tmp_path: Path) -> None:
    """A comment now and then keeps proxies from closing the connection; an open page counts as use."""
    house = House(tmp_path, heartbeat_s=0.02)
    cookie = await house.log_in()

    async with stream(house, cookie) as answer:
        await answer.chunk()
        for _ in range(3):
            house.clock.now += 20 * 60
            while await answer.chunk() != ": still here\n\n":
                pass

    assert "viewer-key" in (await house.peer.ask("GET", "/console/", cookie=cookie)).text


async def test_a_stream_ends_with_its_session(house: House) -> None:
    """After twelve hours nothing more is said, not even the verdict that woke the stream."""
    async with stream(house, await house.log_in()) as answer:
        await answer.chunk()
        house.clock.now += 12 * 3_600

        house.offer(model="secret-project")

        assert await answer.chunk() == "event: end\ndata: {}\n\n"
        assert await answer.chunk() == ""
        assert "secret-project" not in answer.text


async def test_a_stream_ends_with_the_logout(house: House) -> None:
    """At once, not at the next heartbeat."""
    cookie = await house.log_in()
    async with stream(house, cookie) as answer:
        await answer.chunk()

        await house.peer.post("/console/logout", {"token": await _token(house, cookie)}, cookie=cookie)

        assert await answer.chunk() == "event: end\ndata: {}\n\n"


async def test_a_stopping_node_ends_the_streams(house: House) -> None:
    """An open page must not hold up a node that stops; the browser is not told to give up."""
    async with stream(house, await house.log_in()) as answer:
        await answer.chunk()

        house.console.close()

        assert await answer.chunk() == ""
        assert house.subscriptions() == 0


async def test_a_client_that_leaves_leaves_nothing_behind(house: House) -> None:
    """The subscription, the tasks and the place among the streams are given back."""
    cookie = await house.log_in()
    async with stream(house, cookie) as answer:
        await answer.chunk()
        during = house.subscriptions()
    await asyncio.sleep(0)

    assert during == 1
    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert house.subscriptions() == 0
    assert house.console._streams == 0


async def test_streams_are_bounded(tmp_path: Path) -> None:
    """One too many is told to come back later; a place that falls free can be taken."""
    house = House(tmp_path, max_streams=1)
    cookie = await house.log_in()
    async with stream(house, cookie) as first:
        await first.chunk()

        refused = await house.peer.ask("GET", "/console/events", cookie=cookie)

        assert refused.status == 503
        assert refused.header("retry-after") == "60"
    async with stream(house, cookie) as second:
        assert "retry: 3000" in await second.chunk()


async def test_what_is_no_verdict_is_left_out_of_the_stream(house: House) -> None:
    """A bus may be shared: a message of another make costs nobody the stream."""
    async with stream(house, await house.log_in()) as answer:
        await answer.chunk()
        for message in (b"", b"{", b"[]", b'{"event": 1}', b"\xff"):
            house.bus.publish("verdicts", message)
            assert "data: {}" not in await answer.chunk()

        house.offer(9)

        assert "id: event-9.request" in await answer.chunk()


async def test_a_bus_that_ends_ends_the_stream_without_harm(house: House) -> None:
    """The browser then asks again by itself."""

    class Ended:
        def publish(self, topic: str, message: bytes) -> None: ...

        async def subscribe(self, topic: str) -> AsyncIterator[bytes]:
            for message in ():
                yield message

    house.console._bus = Ended()

    answer = await house.peer.ask("GET", "/console/events", cookie=await house.log_in())

    assert answer.status == 200
    assert "event: end" not in answer.text


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/console/", 200),
        ("GET", "/console", 307),
        ("GET", "/console/static/console.css", 200),
        ("GET", "/console/static/console.js", 200),
        ("GET", "/console/static/icon.svg", 200),
        ("GET", "/console/events", 403),
        ("GET", "/console/nothing", 404),
        ("GET", "/console/static/../session.py", 404),
        ("POST", "/console/static/", 404),
        ("GET", "/console/<script>", 404),
        ("GET", "/console/login", 405),
        ("GET", "/console/logout", 405),
        ("POST", "/console/", 405),
        ("DELETE", "/console/events", 405),
        ("POST", "/console/login", 415),
    ],
)
async def test_every_answer_carries_the_strict_headers(house: House, method: str, path: str, status: int) -> None:
    """Also errors, redirects and files; nothing is kept by caches, framed or guessed at."""
    answer = await house.peer.ask(method, path)

    assert answer.status == status
    assert answer.header("content-security-policy") == CSP
    assert answer.header("x-content-type-options") == "nosniff"
    assert answer.header("referrer-policy") == "no-referrer"
    assert answer.header("cache-control") == "no-store"
    assert "<script>" not in answer.text
    assert (answer.header("allow") != "") == (status == 405)


async def test_what_stands_behind_the_question_mark_changes_nothing(house: House) -> None:
    """Query strings are ignored: a link can carry nothing into the page."""
    cookie = await house.log_in()
    house.offer()

    plain = await house.peer.ask("GET", "/console/", cookie=cookie)
    queried = await house.peer.ask("GET", "/console/", cookie=cookie, query=b"show=block&key=%3Cscript%3E")

    assert queried.body == plain.body


@pytest.mark.parametrize("declared", ["10000", "12", "x"])
async def test_a_form_that_is_too_large_is_not_read(house: House, declared: str) -> None:
    """Whether it says its length or not."""
    form = {"content_type": "application/x-www-form-urlencoded", "content_length": declared}

    answer = await house.peer.ask("POST", "/console/login", body=b"key=" + b"x" * 9_996, **form)

    assert answer.status == 413
    assert answer.header("connection") == "close"


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(body=st.one_of(st.binary(max_size=300), st.just(b"a=1&" * 50), st.just(b"key=%ff%00&key=2;=&&")))
def test_no_form_breaks_the_console(tmp_path_factory: pytest.TempPathFactory, body: bytes) -> None:
    """Any bytes are a wrong key or an unreadable form, never a failure of ours."""
    house = House(tmp_path_factory.mktemp("keys"), failure_spacing_s=0.0)

    answer = asyncio.run(
        house.peer.ask("POST", "/console/login", body=body, content_type="application/x-www-form-urlencoded"),
    )

    assert answer.status in {400, 401}


async def test_a_client_that_leaves_in_the_middle_of_a_form_is_let_go(house: House) -> None:
    """Nobody is there to answer, and nothing is raised."""
    messages = [{"type": "http.request", "body": b"key=", "more_body": True}, {"type": "http.disconnect"}]
    sent = []

    async def receive() -> dict[str, Any]:
        return messages.pop(0)

    async def send(message: Any) -> None:
        sent.append(message)

    headers = [(b"host", HOST), (b"content-type", b"application/x-www-form-urlencoded")]
    scope = {"method": "POST", "path": "/console/login", "query_string": b"", "headers": headers}

    await house.console.handle(AsgiConn(scope, receive, send))

    assert sent == []


def test_the_script_never_makes_markup_of_text() -> None:
    """The ways in which text becomes markup or code do not occur in the script."""
    source = (Path(__file__).parents[2] / "src/shieldwall/console/static/console.js").read_text("utf-8")

    assert "textContent" in source
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|Function\(|srcdoc", source)


async def _token(house: House, cookie: str) -> str:
    page = (await house.peer.ask("GET", "/console/", cookie=cookie)).text
    found = re.search(r'name="token" value="([^"]+)"', page)
    assert found is not None
    return found[1]


def _tags(page: str) -> list[str]:
    """All markup with the values taken out."""
    return re.sub(r'="[^"]*"', "=", "".join(re.findall(r"<[^>]*>", page.partition('id="rows"')[2]))).split(">")
