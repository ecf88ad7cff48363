# SPDX-License-Identifier: Apache-2.0
"""Shows a node to the network: one port, one event loop, the doors mounted by path."""

import asyncio
import contextlib
import ipaddress
import logging
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from typing import Any

import uvicorn

from shieldwall.console import Console
from shieldwall.core.errors import ConfigError
from shieldwall.gateway import AsgiConn
from shieldwall.node import Config, Node, host_port

__all__ = ["bind", "serve"]

_LOG = logging.getLogger(__name__)
_JSON = [(b"content-type", b"application/json")]
_DRAIN_S = 10
"""How long running exchanges may go on after the node was told to stop."""


class App:
    """The ASGI application: mounts the gateway, the console and the health check."""

    def __init__(self, node: Node) -> None:
        if node.doors is None:
            raise RuntimeError("the node is not started")
        self._gateway = node.doors.handle
        self._console = Console(node.seen, node.bus, node.keys, secure=node.config.tls is not None).handle
        self._write_timeout_s = node.config.gateway.write_timeout_s

    async def __call__(
        self,
        scope: MutableMapping[str, Any],
        receive: Callable[[], Awaitable[MutableMapping[str, Any]]],
        send: Callable[[MutableMapping[str, Any]], Awaitable[None]],
    ) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return
        conn = AsgiConn(scope, receive, send, write_timeout_s=self._write_timeout_s)
        path = conn.path
        if path.startswith("/v1/"):
            await self._gateway(conn)
        elif path == "/console" or path.startswith("/console/"):
            await self._console(conn)
        elif path == "/healthz":
            # The node serves only after every enforcing detector passed its self-test, so serving is the proof.
            await conn.send(200, _JSON, b'{"status":"ok"}')
        elif path == "/":
            await conn.send(307, [(b"location", b"/console/")], b"")
        else:
            # The gateway answers for every path it does not know: refused in the caller's dialect, never forwarded.
            await self._gateway(conn)


def bind(config: Config) -> socket.socket:
    """Take the listening port. Raises ConfigError when others could reach it without TLS, or it is taken."""
    host, port = host_port(config.listen)
    if config.tls is None and not config.insecure and not _is_loopback(host):
        raise ConfigError(
            f"refusing to listen on {host} without TLS: keys and prompts would cross the network readable",
            hint="set [tls] certificate and key, or pass --insecure if something in front terminates TLS",
        )
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise ConfigError(
            f"cannot listen on {config.listen}: {error.strerror}", hint="choose another address with --listen"
        ) from None
    listener.setblocking(False)  # noqa: FBT003
    return listener


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@contextlib.asynccontextmanager
async def serve(node: Node, listener: socket.socket) -> AsyncIterator[uvicorn.Server]:
    """Serve a started node inside the running loop; leaving the context drains and stops."""
    config = uvicorn.Config(
        App(node),
        loop="none",
        http="httptools",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        date_header=True,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=_DRAIN_S,
        h11_max_incomplete_event_size=64 << 10,
    )
    tls = node.config.tls
    if tls is not None:
        config.ssl_certfile, config.ssl_keyfile = tls.certificate, tls.key
    try:
        config.load()
    except (OSError, ssl.SSLError):
        raise ConfigError(
            "the TLS certificate or key cannot be used",
            hint="[tls] certificate and key name PEM files that belong together",
        ) from None
    server = uvicorn.Server(config)
    server.lifespan = config.lifespan_class(config)
    await server.startup(sockets=[listener])
    ticking = asyncio.create_task(server.main_loop())
    try:
        yield server
    finally:
        server.should_exit = True
        await ticking
        await server.shutdown(sockets=[listener])
