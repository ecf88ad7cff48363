# SPDX-License-Identifier: Apache-2.0
"""Connections to upstreams: framed as HTTP/1.1 says, kept while both sides keep them, never believed beyond that."""

import asyncio
import datetime as dt
import socket
import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from shieldwall.core.errors import ConfigError, UpstreamError
from shieldwall.gateway.link import Address, Headers, Link, Pool

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
ASK = [b"POST /v1/x HTTP/1.1\r\nhost: h\r\ncontent-length: 2\r\n\r\n", b"{}"]


class Server:
    """Answers each request of a connection with the next of its answers; `None` closes."""

    def __init__(self, *answers: bytes | None) -> None:
        self.answers = answers
        self.connections = 0
        self.address = Address("127.0.0.1", 0, tls=False, base=b"", name=b"h")

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        self.connections += 1
        try:
            for answer in self.answers:
                await reader.readuntil(b"\r\n\r\n")
                await reader.readexactly(2)
                if answer is None:
                    break
                writer.write(answer)
                await writer.drain()
            else:
                await reader.read(1)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


@asynccontextmanager
async def talking(server: Server, tls: ssl.SSLContext | None = None, limit: int = 8) -> AsyncIterator[Pool]:
    """A pool, and the server on a free port."""
    listening = await asyncio.start_server(server.serve, "127.0.0.1", 0, ssl=tls)
    port = listening.sockets[0].getsockname()[1]
    server.address = server.address._replace(port=port, tls=tls is not None)
    pool = Pool(limit, 5.0)
    try:
        yield pool
    finally:
        pool.close()
        listening.close()
        # Some turns for both sides to hear that it is over.
        await asyncio.sleep(0.02)


async def until_gone(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Keep a connection open until the other side closes it."""
    with suppress(ConnectionError):
        await reader.read(1)
    writer.close()


async def ask(pool: Pool, address: Address) -> tuple[int, bytes, Link]:
    """One exchange, read to its end and given back."""
    async with asyncio.timeout(10):
        link = await pool.take(address)
        try:
            await link.request(ASK)
            parts = []
            while data := await link.read():
                parts.append(data)
            return link.status, b"".join(parts), link
        finally:
            link.release()


async def test_a_connection_serves_again() -> None:
    """Three exchanges, one connection."""
    server = Server(OK, OK, OK)
    async with talking(server) as pool:
        answers = [(await ask(pool, server.address))[:2] for _ in range(3)]

    assert answers == [(200, b"{}")] * 3
    assert server.connections == 1


@pytest.mark.parametrize(
    ("answer", "body"),
    [
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n", b"abcde"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\nx-trailer: 1\r\n\r\n", b"a"),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\n" + OK, b"{}"),
        (b"HTTP/1.1 204 No Content\r\n\r\n", b""),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", b""),
    ],
)
async def test_each_framing_is_read(answer: bytes, body: bytes) -> None:
    """Chunks, trailers, interim answers and answers without a body; the connection is good for more."""
    server = Server(answer, OK)
    async with talking(server) as pool:
        first = await ask(pool, server.address)
        second = await ask(pool, server.address)

    assert (first[1], second[1], server.connections) == (body, b"{}", 1)
    assert "link" not in first[2].headers


async def test_an_answer_without_a_length_ends_with_the_connection() -> None:
    """RFC 9112 section 6.3, the last case."""
    server = Server()

    async def once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nall of it")
        writer.close()

    server.serve = once  # type: ignore[method-assign]
    async with talking(server) as pool:
        status, body, link = await ask(pool, server.address)

    assert (status, body, link.is_open) == (200, b"all of it", False)


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}",
        b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\n{}",
        OK + OK,
        OK + b"garbage",
    ],
)
async def test_a_connection_that_says_or_sends_more_is_not_used_again(answer: bytes) -> None:
    """An answer nobody asked for must not become the answer to the next request."""
    server = Server(answer, OK)
    async with talking(server) as pool:
        assert (await ask(pool, server.address))[1] == b"{}"
        await asyncio.sleep(0.05)
        assert (await ask(pool, server.address))[1] == b"{}"

    assert server.connections == 2


@pytest.mark.parametrize(
    "answer",
    [
        b"nonsense\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"a" * 100_000 + b"\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
        None,
    ],
)
async def test_what_is_no_answer_is_an_error_of_ours(answer: bytes | None) -> None:
    """And the place of the connection is free again."""
    server = Server(answer)
    async with talking(server, limit=1) as pool:
        for _ in range(2):
            with pytest.raises(UpstreamError):
                await ask(pool, server.address)


@pytest.mark.parametrize("body", [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nzz\r\n"])
async def test_a_body_that_stops_being_one_breaks_off(body: bytes) -> None:
    """What was read until then is not taken for the whole."""
    server = Server(body)
    async with talking(server) as pool:
        with pytest.raises(UpstreamError, match="broke off"):
            await ask(pool, server.address)


async def test_a_closed_idle_connection_is_not_used() -> None:
    """The endpoint closed it meanwhile: the next request opens another."""
    server = Server()

    async def once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server.connections += 1
        await reader.readuntil(b"\r\n\r\n")
        await reader.readexactly(2)
        writer.write(OK)
        writer.close()

    server.serve = once  # type: ignore[method-assign]
    async with talking(server) as pool:
        await ask(pool, server.address)
        await asyncio.sleep(0.05)
        await ask(pool, server.address)

    assert server.connections == 2


async def test_a_slow_reader_slows_the_endpoint() -> None:
    """Of an endless answer only so much is held here."""
    server = Server(b"HTTP/1.1 200 OK\r\nContent-Length: 50000000\r\n\r\n" + b"x" * 40_000_000)
    async with talking(server) as pool:
        link = await pool.take(server.address)
        await link.request(ASK)
        await asyncio.sleep(0.2)
        held = len(link.taken())
        link.release()

    assert 0 < held < 1 << 20


async def test_a_request_beyond_the_limit_waits_for_a_place() -> None:
    """And gets it when another is done, or was cancelled."""
    server = Server(OK, OK)
    async with talking(server, limit=1) as pool:
        first = await pool.take(server.address)
        waiting = asyncio.create_task(ask(pool, server.address))
        lost = asyncio.create_task(ask(pool, server.address))
        await asyncio.sleep(0.02)
        assert not waiting.done()
        lost.cancel()
        first.abort()
        first.release()

        assert (await waiting)[1] == b"{}"


@pytest.mark.parametrize(
    "more",
    [b"x-trailer: " + b"a" * 200_000, b"".join(b"x-%d: a\r\n" % number for number in range(20_000))],
)
async def test_an_answer_without_an_end_is_left(more: bytes) -> None:
    """Trailers that go on and on cost a bounded number of bytes."""
    server = Server(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n" + more)
    async with talking(server) as pool:
        with pytest.raises(UpstreamError, match="broke off"):
            await ask(pool, server.address)


async def test_interim_answers_without_an_end_are_left() -> None:
    """A hundred thousand times `wait` is not an answer."""
    server = Server(b"HTTP/1.1 100 Continue\r\n\r\n" * 100_000)
    async with talking(server) as pool:
        with pytest.raises(UpstreamError):
            await ask(pool, server.address)


async def test_a_status_that_is_none_is_no_answer() -> None:
    """Nobody waits ten minutes for another."""
    server = Server(b"HTTP/1.1 000 X\r\nContent-Length: 2\r\n\r\n{}")
    async with talking(server) as pool:
        with pytest.raises(UpstreamError):
            await ask(pool, server.address)


async def test_what_arrived_while_nobody_asked_is_not_the_next_answer() -> None:
    """An endpoint says 408 to an idle connection while the loop is busy: the connection is left, not believed."""
    server = Server()

    async def once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server.connections += 1
        await reader.readuntil(b"\r\n\r\n")
        await reader.readexactly(2)
        writer.write(OK)
        await until_gone(reader, writer)

    server.serve = once  # type: ignore[method-assign]
    async with talking(server) as pool:
        _, _, link = await ask(pool, server.address)
        peer, own = socket.socketpair()
        real, link._transport = link._transport, Waiting(own)  # type: ignore[assignment]
        peer.send(b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 5\r\n\r\nstale")
        status, _, other = await ask(pool, server.address)
        assert real is not None
        real.abort()
        peer.close()
        own.close()

    assert (status, other is link, server.connections) == (200, False, 2)


class Waiting:
    """A transport on whose socket something arrived that the loop did not hand over yet."""

    def __init__(self, own: socket.socket) -> None:
        self.own = own

    def get_extra_info(self, _: str) -> socket.socket:
        return self.own

    def is_closing(self) -> bool:
        return False

    def abort(self) -> None:
        pass


async def test_a_request_that_was_not_taken_whole_ends_the_connection() -> None:
    """The endpoint answers early; what is left of the body must not run into the next request."""
    server, over = Server(), asyncio.Event()

    async def early(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server.connections += 1
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 2\r\n\r\n{}")
        await over.wait()
        writer.close()

    server.serve = early  # type: ignore[method-assign]
    async with talking(server) as pool:
        link = await pool.take(server.address)
        await link.request([b"POST /v1/x HTTP/1.1\r\nhost: h\r\ncontent-length: 30000000\r\n\r\n", bytes(30_000_000)])
        assert (link.status, await link.read(), await link.read()) == (413, b"{}", b"")
        link.release()
        over.set()

        assert not link.is_open


async def test_a_half_answer_is_not_the_whole_when_we_hang_up() -> None:
    """Closing the pool ends an answer of unstated length; it was not over."""
    server = Server(b"HTTP/1.1 200 OK\r\n\r\nhalf")
    async with talking(server) as pool:
        link = await pool.take(server.address)
        await link.request(ASK)
        first = await link.read()
        pool.close()
        with pytest.raises(UpstreamError):
            await link.read()

    assert first == b"half"


async def test_connections_that_are_not_needed_are_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a burst, those that were idle too long go although others are used."""
    monkeypatch.setattr("shieldwall.gateway.link._IDLE_S", 0.05)
    server = Server(*[OK] * 10)
    async with talking(server) as pool:
        links = [await pool.take(server.address) for _ in range(6)]
        for link in links:
            await link.request(ASK)
            while await link.read():
                pass
            link.release()
        await asyncio.sleep(0.1)
        await ask(pool, server.address)

        assert sum(link.is_open for link in links) == 0


def test_a_header_sent_twice_is_both() -> None:
    """What one reader takes first and another last is seen as both (RFC 9110 section 5.2)."""
    headers = Headers([(b"Content-Encoding", b"gzip"), (b"content-encoding", b"identity"), (b"X", b"1")])

    assert dict(headers) == {"content-encoding": "gzip, identity", "x": "1"}


async def test_connections_that_share_a_buffer_do_not_mix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many answers at once, over TLS, each larger than what is read at a time."""
    context = certificate(tmp_path, ["localhost"])
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "server.pem"))
    server = Server()
    server.address = server.address._replace(host="localhost")

    async def large(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server.connections += 1
        mark = b"%04d" % server.connections
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 400000\r\n\r\n")
        for _ in range(100):
            writer.write(mark * 1_000)
            await asyncio.sleep(0)
        await until_gone(reader, writer)

    server.serve = large  # type: ignore[method-assign]
    async with talking(server, context, limit=16) as pool:
        answers = await asyncio.gather(*(ask(pool, server.address) for _ in range(16)))

    assert sorted({body[:4] for _, body, _ in answers}) == [b"%04d" % number for number in range(1, 17)]
    assert all(body == body[:4] * 100_000 for _, body, _ in answers)


def certificate(directory: Path, names: Sequence[str]) -> ssl.SSLContext:
    """A server's context with a certificate nobody vouches for."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0])])
    now = dt.datetime.now(dt.UTC)
    built = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    built = (
        built.serial_number(1).not_valid_before(now - dt.timedelta(days=1)).not_valid_after(now + dt.timedelta(days=1))
    )
    signed = built.add_extension(
        x509.SubjectAlternativeName([x509.DNSName(each) for each in names]), critical=False
    ).sign(key, hashes.SHA256())
    pem = directory / "server.pem"
    pem.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        + signed.public_bytes(serialization.Encoding.PEM)
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    return context


async def test_an_endpoint_nobody_vouches_for_is_not_spoken_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A self-signed certificate is refused; one the system trusts, for the name asked for, is taken."""
    context = certificate(tmp_path, ["localhost"])
    server = Server(OK)
    server.address = server.address._replace(host="localhost")
    async with talking(server, context) as pool:
        with pytest.raises(OSError, match="CERTIFICATE_VERIFY_FAILED"):
            await ask(pool, server.address)

    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "server.pem"))
    async with talking(server, context) as pool:
        assert (await ask(pool, server.address))[1] == b"{}"
        with pytest.raises(OSError, match="CERTIFICATE_VERIFY_FAILED"):
            await ask(pool, server.address._replace(host="127.0.0.1"))


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://a.example", ("a.example", 80, False, b"", b"a.example")),
        ("https://a.example/v1", ("a.example", 443, True, b"/v1", b"a.example")),
        ("https://a.example:8443/x/", ("a.example", 8443, True, b"/x", b"a.example:8443")),
        ("http://[::1]:8000", ("::1", 8000, False, b"", b"[::1]:8000")),
        ("https://bücher.example", ("xn--bcher-kva.example", 443, True, b"", b"xn--bcher-kva.example")),
    ],
)
def test_an_address_is_read(url: str, expected: tuple[object, ...]) -> None:
    """Host, port, TLS, base path, and the name the endpoint is called by."""
    assert tuple(Address.of(url)) == expected


@pytest.mark.parametrize(
    "url",
    ["", "a.example", "ftp://a.example", "http://", "http://a.example:99999", "http://a.example/a b", "http://u:p@a.example",
     "http://a.example/?q=1", "http://a.example\r\nx: y", "http://[::1", "http://a example"],
)  # fmt: skip
def test_what_is_no_address_is_refused(url: str) -> None:
    """At start, not at the first request."""
    with pytest.raises(ConfigError):
        Address.of(url)
