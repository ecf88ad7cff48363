# SPDX-License-Identifier: Apache-2.0
"""Where requests go: chosen by the configuration alone, sent as they came but for what belongs to one hop."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest

from shieldwall.core.errors import ConfigError, InvalidInput, UpstreamError, UpstreamTimeout
from shieldwall.gateway.demo import DemoUpstream
from shieldwall.gateway.models import list_models
from shieldwall.gateway.settings import Settings, UpstreamSettings
from shieldwall.gateway.upstream import Reply, Route, Upstreams

DEMO = DemoUpstream()


class Peer:
    """An endpoint that remembers every request as it came over the wire, and answers with given bytes."""

    def __init__(self, answer: bytes) -> None:
        self.answer = answer
        self.requests: list[bytes] = []
        self.port = 0
        self.closed = asyncio.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection: request after request until the other side closes."""
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                lines = head.lower().split(b"\r\n")
                size = next((int(line.split(b":")[1]) for line in lines if line.startswith(b"content-length")), 0)
                self.requests.append(head + await reader.readexactly(size))
                writer.write(self.answer)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            self.closed.set()
        finally:
            writer.close()

    def names(self, index: int = -1) -> dict[str, str]:
        """Headers of a request, names in lower case."""
        lines = self.requests[index].partition(b"\r\n\r\n")[0].decode("latin-1").split("\r\n")[1:]
        return {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}


OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\nX-Odd: caf\xe9\r\n\r\n{}"


class HangsUp(Peer):
    """A peer that closes after its bytes, whole or not."""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(self.answer)
        writer.close()


@asynccontextmanager
async def serving(one: Peer) -> AsyncIterator[Peer]:
    """The peer on a free port of this machine."""
    server = await asyncio.start_server(one.serve, "127.0.0.1", 0)
    one.port = server.sockets[0].getsockname()[1]
    try:
        yield one
    finally:
        server.close()


def peer(answer: bytes = OK) -> AbstractAsyncContextManager[Peer]:
    """A peer that answers every request alike."""
    return serving(Peer(answer))


@asynccontextmanager
async def upstreams(*settings: UpstreamSettings, **limits: float) -> AsyncIterator[Upstreams]:
    """A pool in the running loop."""
    named = {f"u{index}": each for index, each in enumerate(settings)}
    pool = Upstreams.open(named, Settings(**{"connect_timeout_s": 5.0, **limits}), DEMO)  # type: ignore[arg-type]
    try:
        yield pool
    finally:
        await pool.close()


async def read_on(reply: Reply) -> None:
    """Read until reading ends with an error; close what is left."""
    try:
        while True:
            await reply.read()
    finally:
        reply.close()


def routes(*settings: tuple[str, str, tuple[str, ...]]) -> Upstreams:
    """Routes without a network: name, dialect, patterns."""
    each = [UpstreamSettings(url="demo:", dialect=dialect, models=models) for _, dialect, models in settings]
    return Upstreams([Route(name, one, DEMO) for (name, _, _), one in zip(settings, each, strict=True)])


TABLE = routes(
    ("exact", "openai", ("small-1",)),
    ("pattern", "openai", ("small-*", "[ab]-model")),
    ("claude", "anthropic", ("*",)),
    ("demo", "demo", ("demo",)),
    ("rest", "openai", ("*",)),
)


@pytest.mark.parametrize(
    ("model", "dialect", "name"),
    [
        ("small-1", "openai", "exact"),
        ("small-2", "openai", "pattern"),
        ("a-model", "openai", "pattern"),
        ("c-model", "openai", "rest"),
        ("Small-1", "openai", "rest"),
        ("small-1", "anthropic", "claude"),
        ("demo", "openai", "demo"),
        ("demo", "anthropic", "claude"),
        ("[ab]-model", "openai", "pattern"),
        ("a\nb", "openai", "rest"),
    ],
)
def test_the_first_upstream_that_takes_the_model_serves_it(model: str, dialect: str, name: str) -> None:
    """By order in the file, by name or shell pattern, by dialect; letters count as they are written."""
    assert TABLE.route(model, dialect).name == name


def test_a_model_nobody_takes_is_refused() -> None:
    """The error says where to look and repeats no name a client chose."""
    with pytest.raises(InvalidInput) as caught:
        routes(("only", "openai", ("small",))).route("violet-anvil", "openai")

    assert caught.value.where == "/model"
    assert "violet" not in f"{caught.value}{caught.value.hint}"


@pytest.mark.parametrize("base", ["", "/", "/v1", "/v1/", "/proxy", "/proxy/v1"])
async def test_a_base_address_is_taken_with_or_without_v1(base: str) -> None:
    """The path of a request is always `…/v1` and the route, its query as it came."""
    async with peer() as one, upstreams(UpstreamSettings(url=one.url + base)) as pool:
        reply = await pool.routes[0].upstream.send("POST", "/chat/completions?a=%2F&b=c+d", {}, b"{}")
        reply.close()

    prefix = "/proxy" if "proxy" in base else ""
    assert one.requests[0].startswith(f"POST {prefix}/v1/chat/completions?a=%2F&b=c+d HTTP/1.1\r\n".encode())


async def test_the_body_and_its_headers_pass_untouched() -> None:
    """Byte for byte, with every header that is the client's to say."""
    body = b'{ "model":"m",\t"x":"\\u00e9\xc3\xa9" }'
    sent = {b"content-type": b"application/json", b"anthropic-version": b"2023-06-01", b"x-stainless-lang": b"python"}

    async with peer() as one, upstreams(UpstreamSettings(url=one.url)) as pool:
        reply = await pool.routes[0].upstream.send("POST", "/messages", sent, body)
        answer = (reply.status, await reply.read(), dict(reply.raw_headers)[b"X-Odd"])
        reply.close()

    assert one.requests[0].partition(b"\r\n\r\n")[2] == body
    names = one.names()
    assert {name: names[name.decode()] for name in sent} == {name: value.decode() for name, value in sent.items()}
    assert answer == (200, b"{}", b"caf\xe9")


async def test_what_belongs_to_one_hop_stays_here() -> None:
    """Framing, proxy, cookie and origin headers, and whatever `Connection` names (RFC 9110 section 7.6.1)."""
    hop = {
        b"connection": b"keep-alive, X-Private",
        b"x-private": b"leak-1",
        b"keep-alive": b"timeout=9",
        b"te": b"trailers",
        b"trailer": b"x",
        b"upgrade": b"h2c",
        b"proxy-authorization": b"leak-2",
        b"proxy-connection": b"keep-alive",
        b"cookie": b"leak-3",
        b"expect": b"100-continue",
        b"host": b"gateway.example.org",
        b"x-forwarded-for": b"leak-4",
        b"forwarded": b"for=leak-5",
        b"x-real-ip": b"leak-6",
        b"accept-encoding": b"gzip, br",
    }

    async with peer() as one, upstreams(UpstreamSettings(url=one.url)) as pool:
        (await pool.routes[0].upstream.send("POST", "/messages", hop, b"{}")).close()

    names = one.names()
    assert b"leak-" not in one.requests[0]
    assert names.keys() & {name.decode() for name in hop} <= {"host", "accept-encoding", "connection"}
    assert names["host"] == f"127.0.0.1:{one.port}"
    assert names["accept-encoding"] == "identity"


@pytest.mark.parametrize(
    ("dialect", "name", "value"), [("openai", "authorization", "Bearer pk-1"), ("anthropic", "x-api-key", "pk-1")]
)
async def test_the_clients_key_is_replaced_by_the_providers(
    monkeypatch: pytest.MonkeyPatch, dialect: str, name: str, value: str
) -> None:
    """The virtual key never leaves; the provider's goes out as its dialect wants it."""
    monkeypatch.setenv("U_API_KEY", " pk-1\n")
    ours = {b"authorization": b"Bearer sw-virtual", b"x-api-key": b"sw-virtual"}

    async with peer() as one, upstreams(UpstreamSettings(url=one.url, dialect=dialect, key_env="U_API_KEY")) as pool:
        (await pool.routes[0].upstream.send("POST", "/messages", ours, b"{}")).close()

    assert b"sw-virtual" not in one.requests[0]
    assert one.names()[name] == value


async def test_a_key_file_is_read(tmp_path: Path) -> None:
    """As deployments mount secrets: the key and perhaps a line's end."""
    (tmp_path / "key").write_text("pk-2\n")

    async with peer() as one, upstreams(UpstreamSettings(url=one.url, key_file=str(tmp_path / "key"))) as pool:
        (await pool.routes[0].upstream.send("POST", "/x", {}, b"{}")).close()

    assert one.names()["authorization"] == "Bearer pk-2"


@pytest.mark.parametrize("content", [None, b"", b" \n", b"pk 2", b"pk\x002", b"pk\n2", "clé".encode(), b"\xff"])
async def test_an_unusable_key_file_stops_the_start(tmp_path: Path, content: bytes | None) -> None:
    """Missing, empty, or not a key: said before the first request, and without a word of what is in it."""
    path = tmp_path / "key"
    if content is not None:
        path.write_bytes(content)

    with pytest.raises(ConfigError, match="key_file") as caught:
        async with upstreams(UpstreamSettings(url="http://127.0.0.1:1", key_file=str(path))):
            pass

    assert "pk" not in f"{caught.value}"


@pytest.mark.parametrize("value", [None, "", "  ", "pk 1", "pk\n1", "clé"])
async def test_an_unusable_key_in_the_environment_stops_the_start(
    monkeypatch: pytest.MonkeyPatch, value: str | None
) -> None:
    """The variable is named, what it holds is not."""
    monkeypatch.delenv("U_API_KEY", raising=False)
    if value is not None:
        monkeypatch.setenv("U_API_KEY", value)

    with pytest.raises(ConfigError, match="environment variable U_API_KEY") as caught:
        async with upstreams(UpstreamSettings(url="http://127.0.0.1:1", key_env="U_API_KEY")):
            pass

    assert "pk" not in f"{caught.value}{caught.value.hint}"


@pytest.mark.parametrize(
    "url", ["", "ftp://example.org", "file:///etc/passwd", "example.org", "//example.org", "http://[::1", "http://a:b"]
)
async def test_an_address_that_is_none_stops_the_start(url: str) -> None:
    """Only http and https are spoken, and the address must be one."""
    with pytest.raises(ConfigError, match="url"):
        async with upstreams(UpstreamSettings(url=url)):
            pass


def test_an_unknown_dialect_is_refused() -> None:
    """An upstream speaks one of the two, or is the demo."""
    with pytest.raises(ConfigError, match="dialect"):
        UpstreamSettings(url="http://127.0.0.1:1", dialect="esperanto")


async def test_a_redirect_is_not_followed() -> None:
    """An upstream does not send us elsewhere: its answer is the answer, and the other address is never asked."""
    async with peer() as elsewhere:
        moved = f"HTTP/1.1 307 Moved\r\nLocation: {elsewhere.url}/v1/x\r\nContent-Length: 0\r\n\r\n".encode()
        async with peer(moved) as one, upstreams(UpstreamSettings(url=one.url)) as pool:
            reply = await pool.routes[0].upstream.send("POST", "/x", {}, b"{}")
            reply.close()

    assert reply.status == 307
    assert (len(one.requests), elsewhere.requests) == (1, [])


async def test_no_proxy_is_taken_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is connected to stands in the configuration alone."""
    async with peer() as proxy, peer() as one:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, proxy.url)
        for name in ("NO_PROXY", "no_proxy"):
            monkeypatch.delenv(name, raising=False)
        async with upstreams(UpstreamSettings(url=one.url)) as pool:
            (await pool.routes[0].upstream.send("POST", "/x", {}, b"{}")).close()

    assert (len(one.requests), proxy.requests) == (1, [])


async def test_cookies_are_not_kept() -> None:
    """What an upstream sets for one client does not come back with the next one's request."""
    setting = OK.replace(b"X-Odd: caf\xe9", b"Set-Cookie: a=b")

    # By name: cookie jars that do keep cookies keep none for a bare address.
    async with peer(setting) as one, upstreams(UpstreamSettings(url=f"http://localhost:{one.port}")) as pool:
        for _ in range(2):
            (await pool.routes[0].upstream.send("POST", "/x", {}, b"{}")).close()

    assert "cookie" not in one.names(1)


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 200 OK\r\nContent-", b"SSH-2.0-x\r\n\r\n"])
async def test_an_upstream_that_hangs_up_is_an_error_of_ours(answer: bytes) -> None:
    """Without a word, in the middle of the head, or speaking something else: an UpstreamError that names no address."""
    one = HangsUp(answer)
    async with serving(one), upstreams(UpstreamSettings(url=one.url)) as pool:
        with pytest.raises(UpstreamError) as caught:
            await pool.routes[0].upstream.send("POST", "/x", {}, b"{}")

    assert "127.0.0.1" not in str(caught.value)


async def test_an_upstream_that_is_not_there_is_an_error_of_ours() -> None:
    """Nobody listens: an UpstreamError that names no address."""
    async with peer() as gone:
        pass

    async with upstreams(UpstreamSettings(url=gone.url)) as pool:
        with pytest.raises(UpstreamError) as caught:
            await pool.routes[0].upstream.send("POST", "/x", {}, b"{}")

    assert "127.0.0.1" not in str(caught.value)


async def test_an_answer_that_breaks_off_is_an_error_of_ours() -> None:
    """What came is not taken for the whole."""
    hangs_up = HangsUp(OK.replace(b"Length: 2", b"Length: 9"))
    async with serving(hangs_up) as one, upstreams(UpstreamSettings(url=one.url)) as pool:
        reply = await pool.routes[0].upstream.send("POST", "/x", {}, b"{}")
        first = await reply.read()
        with pytest.raises(UpstreamError, match="broke off"):
            await read_on(reply)

    assert first == b"{}"


async def test_silence_has_an_end() -> None:
    """Before the head and inside the body: UpstreamTimeout once the stated wait is over."""
    for answer, reads in ((b"", False), (OK.replace(b"Length: 2", b"Length: 9"), True)):
        async with (
            peer(answer) as one,
            upstreams(
                UpstreamSettings(url=one.url), answer_timeout_s=2.0 if reads else 0.05, idle_timeout_s=0.05
            ) as pool,
        ):
            with pytest.raises(UpstreamTimeout):
                await read_on(await pool.routes[0].upstream.send("POST", "/x", {}, b"{}"))


async def test_closing_in_mid_answer_tells_the_upstream() -> None:
    """A reply that is not read to its end closes the connection: the model stops writing for nobody."""
    async with (
        peer(OK.replace(b"Length: 2", b"Length: 999999")) as one,
        upstreams(UpstreamSettings(url=one.url)) as pool,
    ):
        reply = await pool.routes[0].upstream.send("POST", "/x", {}, b"{}")
        await reply.read()
        reply.close()
        async with asyncio.timeout(10):
            await one.closed.wait()

    assert one.closed.is_set()


async def test_models_are_listed_as_the_configuration_admits_them() -> None:
    """Names written out stand as they are; where a pattern stands, what the upstream lists and the pattern takes."""
    listing = b'{"data": [{"id": "small-1"}, {"id": "large-1"}, {"id": 7}, {"id": "small-\\u0007"}, "x"]}'
    answer = OK.replace(b"Length: 2", b"Length: %d" % len(listing)).replace(b"{}", listing)

    async with (
        peer(answer) as one,
        upstreams(
            UpstreamSettings(url=one.url, models=("small-*",)),
            UpstreamSettings(url="http://127.0.0.1:1", models=("fixed", "any-*")),
        ) as pool,
    ):
        whole = await list_models(pool, "openai", "")
        single = await list_models(pool, "openai", "/small-1")
        missing = await list_models(pool, "openai", "/large-1")
        other = await list_models(pool, "anthropic", "")

    assert whole is not None
    assert [name in whole for name in (b'"small-1"', b'"fixed"', b"large", b"\\u0007")] == [True, True, False, False]
    assert single is not None
    assert b'"owned_by":"u0"' in single
    assert missing is None
    assert other is not None
    assert b'"data":[]' in other
