# SPDX-License-Identifier: Apache-2.0
"""Witnesses are asked over real sockets: some answer, some are down, slow, dripping or lying; the publisher never waits
longer than it said, and what does not hold is never part of a checkpoint.
"""

import http.server
import socket
import socketserver
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from shieldwall.core.errors import ConfigError, InvalidInput, UpstreamError, UpstreamTimeout
from shieldwall.ledger.caller import Caller
from shieldwall.ledger.cosignature import cosign, open_checkpoint
from shieldwall.ledger.cosigners import Collected, Cosigners, Settings, WitnessState
from shieldwall.ledger.merkle import prove_consistency
from shieldwall.ledger.note import parse_note, write_signatures
from shieldwall.ledger.trust import parse_policy, verify_checkpoint
from shieldwall.ledger.witness import Witness
from tests.ledger.made_log import LOG, NOW, ORIGIN, WITNESSES, Memory, leaf, make_policy, root_of, sign

ENTRIES = [b"entry %d" % number for number in range(40)]
QUICK = Settings(wait_s=0.6, linger_s=0.3, timeout_s=0.8, max_rest_s=0.05)

Answering = Callable[[str, str, bytes], tuple[int, dict[str, str], bytes] | None]
"""Method, path, body to status, headers, body; None to say nothing at all."""


class Server:
    """A real HTTP server on loopback; `answer` says what it does."""

    def __init__(self, answer: Answering) -> None:
        self.answer = answer
        self.asked: list[tuple[str, str, bytes]] = []
        self.connections = 0
        self.silence = threading.Event()
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self) -> None:
                outer.connections += 1
                super().setup()

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length", 0)))
                outer.asked.append((self.command, self.path, body))
                found = outer.answer(self.command, self.path, body)
                if found is None:
                    outer.silence.wait(10)
                    self.close_connection = True
                    return
                status, headers, data = found
                self.send_response(status)
                for name, value in {"content-length": str(len(data)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(data)

            def do_GET(self) -> None:
                self.do_POST()

            def log_message(self, *_: Any) -> None:
                """Say nothing."""

        class Quiet(socketserver.ThreadingMixIn, http.server.HTTPServer):
            daemon_threads = True

            def handle_error(self, *_: Any) -> None:
                """A connection that was cut is what is being tested."""

        self.server = Quiet(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/w"
        self._thread = threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self.silence.set()
        self.server.shutdown()
        self.server.server_close()
        self._thread.join()


def honest(number: int, clock: Callable[[], float] = lambda: NOW) -> Answering:
    """A real witness with a key of the policy."""
    witness = Witness(Memory(), {ORIGIN: [LOG.key]}, [WITNESSES[number]], clock=clock)

    def answer(method: str, path: str, body: bytes) -> tuple[int, dict[str, str], bytes]:
        if method == "POST":
            assert path == "/w/add-checkpoint"
            found = witness.add_checkpoint(body)
        else:
            found = witness.latest(path.removeprefix("/w/").removesuffix("/checkpoint"))
        return found.status, {"content-type": found.content_type}, found.body

    return answer


def says(status: int, body: bytes = b"", **headers: str) -> Answering:
    """Always the same answer."""
    return lambda *_: (status, {name.replace("_", "-"): value for name, value in headers.items()}, body)


@pytest.fixture
def start() -> Iterator[Callable[..., Server]]:
    servers: list[Server] = []

    def begin(answer: Answering) -> Server:
        servers.append(Server(answer))
        return servers[-1]

    yield begin
    for server in servers:
        server.stop()


@pytest.fixture
def collect_from() -> Iterator[Callable[..., Cosigners]]:
    made: list[Cosigners] = []

    def make(urls: list[str], quorum: int = 2, settings: Settings = QUICK, **kwargs: Any) -> Cosigners:
        kwargs = {"clock": lambda: NOW, **kwargs}
        made.append(Cosigners(make_policy(quorum, urls=urls), settings=settings, **kwargs))
        return made[-1]

    yield make
    for each in made:
        each.close()


def proofs(size: int, entries: list[bytes] = ENTRIES) -> Callable[[int], list[bytes]]:
    leaves = [leaf(entry) for entry in entries[:size]]
    return lambda old: prove_consistency(
        old, size, lambda places: [root_of(leaves[i << level : i + 1 << level]) for level, i in places]
    )


def collect(cosigners: Cosigners, size: int, entries: list[bytes] = ENTRIES) -> Collected:
    return cosigners.collect(sign(entries[:size]), proofs(size, entries))


def down() -> str:
    """The URL of a port at which nobody listens."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{sock.getsockname()[1]}/w"


def until(is_so: Callable[[], bool]) -> None:
    end = time.monotonic() + 10
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_all_that_are_well_cosign(start: Any, collect_from: Any) -> None:
    """The checkpoint is trusted by the policy; the second request carries a proof over the same connection."""
    servers = [start(honest(number)) for number in range(5)]
    cosigners = collect_from([server.url for server in servers], quorum=5)

    first, second = collect(cosigners, 5), collect(cosigners, 12)

    for found, size in ((first, 5), (second, 12)):
        assert found.is_quorum
        assert (found.ahead, found.proof) == ((), b"")
        trusted = verify_checkpoint(make_policy(5), found.note)
        assert trusted.checkpoint.size == size
        assert {known.name for known, _ in trusted.witnesses} == set(found.witnesses)
    assert [body.split(b"\n")[0] for _, _, body in servers[0].asked] == [b"old 0", b"old 5"]
    assert [server.connections for server in servers] == [1] * 5
    assert {(each.state, each.size, each.time, each.trouble) for each in cosigners.status} == {
        (WitnessState.GOOD, 12, NOW, "")
    }


def test_a_quorum_is_enough_while_others_are_down_slow_and_lying(start: Any, collect_from: Any) -> None:
    """Two of five are well: the checkpoint is witnessed in time, and each trouble is seen in its status."""
    note = parse_note(sign(ENTRIES[:5]))
    wrong = write_signatures([cosign(parse_note(sign(ENTRIES[:6])).text, WITNESSES[4], NOW)])
    urls = [start(honest(0)).url, start(honest(1)).url, down(), start(lambda *_: None).url, start(says(200, wrong)).url]
    cosigners = collect_from(urls)
    began = time.monotonic()

    found = collect(cosigners, 5)

    assert time.monotonic() - began < 10
    assert found.is_quorum
    assert set(found.witnesses) == {b"w0", b"w1"}
    assert parse_note(found.note).signatures[0].name == ORIGIN
    assert len(parse_note(found.note).signatures) == 3
    assert parse_note(found.note).text == note.text
    until(lambda: cosigners.status[3].failures > 0)
    states = [each.state for each in cosigners.status]
    assert states == [WitnessState.GOOD] * 2 + [WitnessState.STALLED] * 2 + [WitnessState.REFUSING]
    assert all(each.trouble for each in cosigners.status[2:])
    assert "no answer within 0.8 s" in cosigners.status[3].trouble


def test_a_stalled_quorum_is_told_and_seen_while_it_is_waited_for(start: Any, collect_from: Any) -> None:
    """Nothing is raised: the note comes back with what there is."""
    urls = [start(honest(0)).url, start(lambda *_: None).url, down(), down(), down()]
    cosigners = collect_from(urls, settings=Settings(wait_s=0.3, linger_s=0.1, timeout_s=5))

    found = collect(cosigners, 5)

    assert not found.is_quorum
    assert found.witnesses == (b"w0",)
    until(lambda: cosigners.status[1].state is WitnessState.STALLED)
    assert cosigners.status[1].waiting_s > 0.3
    assert "no answer for" in cosigners.status[1].trouble
    assert open_checkpoint(found.note, [LOG.key, WITNESSES[0].key]).checkpoint.size == 5


def test_no_witness_at_all_is_no_trouble() -> None:
    """A policy without quorum is met at once; one whose witnesses have no URL is not, and says why."""
    none = Cosigners(parse_policy(f"log {LOG.key}\nquorum none\n".encode()))
    silent = Cosigners(make_policy(1))

    assert collect(none, 5) == Collected(sign(ENTRIES[:5]), (), is_quorum=True, ahead=(), proof=b"")
    assert not collect(silent, 5).is_quorum
    assert {each.state for each in silent.status} == {WitnessState.SILENT}
    none.close()
    silent.close()


def test_a_witness_that_comes_back_is_asked_again(start: Any, collect_from: Any) -> None:
    """It has missed some; it tells its size, and is given the proof from there."""
    answer = honest(0)
    server = start(answer)
    cosigners = collect_from([server.url], quorum=1)
    assert collect(cosigners, 3).is_quorum
    server.answer = says(500)
    assert not collect(cosigners, 5).is_quorum
    assert "500" in cosigners.status[0].trouble
    server.answer = answer
    time.sleep(0.1)

    assert collect(cosigners, 9).is_quorum
    assert cosigners.status[0].failures == 0


def test_after_a_restart_of_ours_the_witness_tells_its_size(start: Any, collect_from: Any) -> None:
    """The state of a witness is with the witness: 409 says which it is."""
    server = start(honest(0))
    assert collect(collect_from([server.url], quorum=1), 7).is_quorum

    assert collect(collect_from([server.url], quorum=1), 30).is_quorum
    assert [body.split(b"\n")[0] for _, _, body in server.asked] == [b"old 0", b"old 0", b"old 7"]


def test_a_connection_closed_in_the_meantime_is_opened_again(start: Any, collect_from: Any) -> None:
    """A server may close what is idle; that is no failure."""
    server = start(honest(0))
    real = server.answer

    def closing(method: str, path: str, body: bytes) -> Any:
        status, headers, data = real(method, path, body)
        return status, {**headers, "connection": "close"}, data

    server.answer = closing
    cosigners = collect_from([server.url], quorum=1)

    assert [collect(cosigners, size).is_quorum for size in (3, 4, 5)] == [True] * 3
    assert server.connections == 3


def test_a_log_that_was_set_back_is_shown_its_own_signature(start: Any, collect_from: Any) -> None:
    """A restored backup: the witness has seen more, and has the log's signature on it."""
    server = start(honest(0))
    assert collect(collect_from([server.url], quorum=1), 30).is_quorum

    found = collect(collect_from([server.url], quorum=1), 12)

    assert not found.is_quorum
    assert found.ahead == (b"w0",)
    assert open_checkpoint(found.proof, [LOG.key]).checkpoint.size == 30


def test_a_claim_to_be_ahead_proves_nothing(start: Any, collect_from: Any) -> None:
    """One that lies about it is seen, and cannot stop the log."""
    liar = start(says(409, b"1000\n", content_type="text/x.tlog.size"))
    cosigners = collect_from([liar.url, start(honest(1)).url, start(honest(2)).url])

    found = collect(cosigners, 12)

    assert found.is_quorum
    assert (found.ahead, found.proof) == ((b"w0",), b"")
    assert cosigners.status[0].state is WitnessState.AHEAD
    assert "1000" in cosigners.status[0].trouble


TEXT = parse_note(sign(ENTRIES[:5])).text
OTHER_TEXT = parse_note(sign([b"forged"] * 5)).text
LIES = {
    "of another checkpoint": says(200, write_signatures([cosign(OTHER_TEXT, WITNESSES[0], NOW)])),
    "by a key not known": says(200, write_signatures([cosign(TEXT, WITNESSES[1], NOW)])),
    "of a minute ago": says(200, write_signatures([cosign(TEXT, WITNESSES[0], NOW - 61)])),
    "of the future": says(200, write_signatures([cosign(TEXT, WITNESSES[0], NOW + 61)])),
    "one good, one bad": says(200, write_signatures([cosign(text, WITNESSES[0], NOW) for text in (TEXT, OTHER_TEXT)])),
    "no signature": says(200, b"ok\n"),
    "nothing": says(200),
    "not UTF-8": says(200, b"\xff\n"),
    "endless": says(200, b"x" * 70_000),
    "cut off": says(200, b"short", content_length="70"),
    "no length": says(200, b"", content_length="many"),
    "a bomb": says(200, bytes.fromhex("1f8b08000000000000ff") + b"x" * 50, content_encoding="gzip"),
    "brotli": says(200, b"x", content_encoding="br"),
    "a redirect": says(302, location="http://127.0.0.1:9/"),
    "another redirect": says(308, location="/elsewhere"),
    "403": says(403, b"no"),
    "409 without a size": says(409, b"5\n"),
    "409 with no number": says(409, b"-5\n", content_type="text/x.tlog.size"),
    "409 with a long one": says(409, b"5" * 40 + b"\n", content_type="text/x.tlog.size"),
    "409 with the size asked": says(409, b"0\n", content_type="text/x.tlog.size"),
}


@pytest.mark.parametrize("answer", LIES.values(), ids=LIES)
def test_a_lie_is_no_cosignature(start: Any, collect_from: Any, answer: Answering) -> None:
    """Whatever comes back, the checkpoint is that of the log, nothing is raised, and the status says what it was."""
    cosigners = collect_from([start(answer).url], quorum=1)

    found = collect(cosigners, 5)

    assert found == Collected(sign(ENTRIES[:5]), (), is_quorum=False, ahead=(), proof=b"")
    until(lambda: cosigners.status[0].failures == 1)
    assert cosigners.status[0].state in {WitnessState.REFUSING, WitnessState.STALLED}
    assert cosigners.status[0].trouble


def test_a_proof_that_cannot_be_had_is_seen(start: Any, collect_from: Any) -> None:
    """Even where what builds it breaks in a way nobody thought of, the thread goes on."""

    def broken(_: int) -> list[bytes]:
        raise RuntimeError("no tiles")

    cosigners = collect_from([start(honest(0)).url], quorum=1)
    assert collect(cosigners, 3).is_quorum
    assert not cosigners.collect(sign(ENTRIES[:5]), broken).is_quorum
    assert "RuntimeError" in cosigners.status[0].trouble
    time.sleep(0.1)

    assert collect(cosigners, 7).is_quorum


def test_two_keys_behind_one_url_are_asked_once(start: Any, collect_from: Any) -> None:
    """One request, both cosignatures."""
    keys = list(WITNESSES[:2])
    witness = Witness(Memory(), {ORIGIN: [LOG.key]}, keys, clock=lambda: NOW)

    def answer(_method: str, _path: str, body: bytes) -> Any:
        found = witness.add_checkpoint(body)
        return found.status, {"content-type": found.content_type}, found.body

    server = start(answer)
    found = collect(collect_from([server.url, server.url]), 5)

    assert found.is_quorum
    assert set(found.witnesses) == {b"w0", b"w1"}
    assert len(server.asked) == 1


def test_what_is_no_checkpoint_is_not_collected_for(collect_from: Any) -> None:
    with pytest.raises(InvalidInput):
        collect_from([]).collect(b"hello", lambda _: [])


@pytest.mark.parametrize(
    "url",
    [
        "http://example.org/w",
        "http://192.0.2.1/",
        "ftp://example.org/",
        "example.org",
        "https://user@example.org/",
        "https://example.org/?q",
        "https://example.org/#f",
        "https://exa mple.org/",
        "https://[::1/",
        "https://example.org:port/",
        "https:///w",
        "file:///etc/passwd",
        "http://127.0.0.1.example.org/",
    ],
)
def test_a_url_that_is_not_safe_is_refused_at_the_start(url: str) -> None:
    """Plain HTTP is for this machine alone."""
    with pytest.raises(ConfigError):
        Caller(url, timeout_s=1, max_bytes=1)


@pytest.mark.parametrize(
    "url", ["http://localhost:1/w", "http://127.8.8.8/", "http://[::1]:80/w", "https://example.org"]
)
def test_a_url_that_is_safe_is_taken(url: str) -> None:
    Caller(url, timeout_s=1, max_bytes=1).close()


@pytest.mark.parametrize("figures", [{"wait_s": 0}, {"timeout_s": -1}, {"max_rest_s": 0}, {"linger_s": -1}])
def test_figures_that_make_no_sense_are_refused(figures: dict[str, float]) -> None:
    with pytest.raises(ConfigError):
        Settings(**figures)


@pytest.fixture
def dripping() -> Iterator[str]:
    """A server that sends a byte now and then, for ever, each in time for a timeout between bytes."""
    listener = socket.create_server(("127.0.0.1", 0))
    stop = threading.Event()

    def drip(sock: socket.socket) -> None:
        with sock:
            try:
                sock.recv(65_536)
                sock.sendall(b"HTTP/1.1 200 OK\r\n")
                while not stop.wait(0.02):
                    sock.sendall(b"x")
            except OSError:
                return

    def serve() -> None:
        while True:
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=drip, args=(sock,), daemon=True).start()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    stop.set()
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    thread.join()


def test_a_drip_does_not_hold_a_request_for_ever(dripping: str) -> None:
    """The end of a request is an end, however the bytes come; over TLS, where the handshake never ends, too."""
    for url in (dripping, dripping.replace("http:", "https:")):
        caller = Caller(url, timeout_s=0.3, max_bytes=100)
        with pytest.raises(UpstreamError):
            caller.get("x")
    caller = Caller(dripping, timeout_s=0.3, max_bytes=100)
    with pytest.raises(UpstreamTimeout, match="within 0"):
        caller.get("x")


def test_a_request_under_way_is_cut_by_close(start: Any) -> None:
    """The thread that waits gets an error, and a closed caller asks nobody."""
    server = start(lambda *_: None)
    caller = Caller(server.url, timeout_s=9, max_bytes=100)
    threading.Timer(0.1, caller.close).start()
    with pytest.raises(UpstreamError):
        caller.get("x")
    with pytest.raises(UpstreamError):
        caller.get("x")
