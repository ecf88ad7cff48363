# SPDX-License-Identifier: Apache-2.0
"""Clients that ask for an endless stream and read nothing, and where the bytes of those streams are.

The upstream sends as fast as it is let. Once nobody can take more, each byte it handed to the kernel is in one of
five places: its own send queue, the proxy's receive queue, the proxy itself, the proxy's send queue, the client's
receive queue. The kernel tells four of them in /proc/net/tcp, to the byte; what is missing is in the proxy. This
holds for a proxy that passes bytes on as they are; for one that rewrites them the growth of its resident memory is
the figure to look at.
"""

import contextlib
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

from bench.gateway.load import bodies
from bench.gateway.upstream import read_stats
from bench.report import BenchError

__all__ = ["Held", "StalledError", "held_bytes", "stalled_clients", "wait_until_still"]

_CLIENT_BUFFER: Final = 64 * 1024
"""Receive buffer asked for by each client, bytes (the kernel doubles it): it keeps what the kernel holds small."""
_STILL_S: Final = 2.0
"""Nothing moved for so long: longer than a delayed acknowledgement and than a window probe's first retries."""
_LIMIT_S: Final = 40.0
_TOO_MUCH: Final = 2_000_000_000
_ESTABLISHED: Final = "01"


class StalledError(BenchError):
    """The streams did not come about as meant, so nothing can be said of what they hold."""


class Held(NamedTuple):
    """Where the bytes of all stalled streams are, in bytes per client."""

    in_proxy: float
    """Read by the proxy, not yet handed back to the kernel."""
    in_kernel_for_proxy: float
    """In the queues of the proxy's own sockets: from the upstream and to the client."""
    sent: float
    """What the upstream has handed to its kernel."""


class _Queues(NamedTuple):
    state: str
    sending: int
    receiving: int


@contextlib.contextmanager
def stalled_clients(count: int, *, port: int, key: str) -> Iterator[list[int]]:
    """Open so many connections, ask for an endless stream on each, read nothing; gives the clients' ports."""
    with contextlib.ExitStack() as ending:
        ports = []
        for body in bodies(count, seed=77, streamed=True, wish="endless=1"):
            client = ending.enter_context(socket.socket())
            # Before connecting: the window scale is settled in the handshake.
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _CLIENT_BUFFER)
            client.settimeout(10)
            client.connect(("127.0.0.1", port))
            head = (
                f"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\nauthorization: Bearer {key}\r\n"
                f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
            )
            client.sendall(head.encode() + body)
            ports.append(client.getsockname()[1])
        yield ports


def wait_until_still(upstream_port: int, count: int, *, resident: Callable[[], int]) -> bool:
    """Wait until the upstream has `count` endless streams and none of them moves.

    Args:
        upstream_port: Where the upstream tells what it sent.
        count: How many streams were asked for.
        resident: Memory of the proxy, bytes; over 2 GB the wait is over, for the sake of the machine.

    Returns:
        Whether they came to rest; when not, the proxy reads without end, or is too slow to have reached its.

    Raises:
        StalledError: Fewer streams reached the upstream.
    """
    end = time.monotonic() + _LIMIT_S
    last, since = -1, time.monotonic()
    reached = 0
    while time.monotonic() < end and resident() < _TOO_MUCH:
        streams = read_stats(upstream_port).endless
        reached, sent = len(streams), sum(stream.sent for stream in streams)
        if sent != last or reached < count:
            last, since = sent, time.monotonic()
        elif time.monotonic() - since >= _STILL_S:
            return True
        time.sleep(0.2)
    if reached < count:
        raise StalledError(f"{reached} of {count} streams reached the upstream: refused, or ended by the proxy")
    return False


def held_bytes(client_ports: list[int], *, proxy_port: int, upstream_port: int) -> Held:
    """Account for the bytes of all stalled streams.

    Raises:
        StalledError: A client's connection is gone, so its bytes are nowhere.
    """
    streams = read_stats(upstream_port).endless
    queues = _read_queues()
    to_clients = [queues.get((proxy_port, port)) for port in client_ports]
    lost = sum(1 for link in to_clients if link is None or link.state != _ESTABLISHED)
    if lost:
        raise StalledError(f"the proxy closed {lost} of {len(client_ports)} connections to stalled clients")
    sending = sum(link.sending for link in to_clients if link is not None)
    clients = sum(queues[port, proxy_port].receiving for port in client_ports)
    gone = _Queues("", 0, 0)
    upstream = sum(queues.get((upstream_port, stream.port), gone).sending for stream in streams)
    receiving = sum(queues.get((stream.port, upstream_port), gone).receiving for stream in streams)
    sent = sum(stream.sent for stream in streams)
    count = len(client_ports)
    return Held(
        in_proxy=(sent - upstream - receiving - sending - clients) / count,
        in_kernel_for_proxy=(receiving + sending) / count,
        sent=sent / count,
    )


def _read_queues() -> dict[tuple[int, int], _Queues]:
    """Queues of all TCP connections over IPv4, by local and remote port (proc(5), /proc/net/tcp)."""
    found = {}
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, local, remote, state, lengths, *_ = line.split()
        sending, receiving = (int(value, 16) for value in lengths.split(":"))
        ports = int(local.rpartition(":")[2], 16), int(remote.rpartition(":")[2], 16)
        found[ports] = _Queues(state, sending, receiving)
    return found
