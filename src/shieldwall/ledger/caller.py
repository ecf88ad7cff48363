# SPDX-License-Identifier: Apache-2.0
"""Small requests to other people's servers, with a hard end: to witnesses, and to logs that are checked.

TLS is verified, plain HTTP is for this machine alone, redirects and proxies are not followed. An answer has a greatest
size, and a request a greatest duration from the first packet to the last, however slowly the other side drips. One
connection is kept open between requests. Looking a name up is the one step that has no end of its own.
"""

import contextlib
import http.client
import ipaddress
import socket
import ssl
import threading
import time
import zlib
from collections.abc import Iterator, Mapping
from urllib.parse import urlsplit

import msgspec

from shieldwall.core.errors import ConfigError, UpstreamError, UpstreamTimeout

__all__ = ["Caller", "Reply"]

_PIECE_BYTES = 65_536
_GZIP_WINDOW = 31
_REDIRECTS = range(300, 400)


class Reply(msgspec.Struct, frozen=True):
    """An answer, whole."""

    status: int
    content_type: str
    """As sent, parameters included, lower case; empty where there is none."""
    body: bytes


class Caller:
    """Sends requests below one URL. Not safe between threads, `close` apart.

    Args:
        url: `https://host[:port][/prefix]`; `http` only where the host is this machine by its loopback address or the
            name localhost.
        timeout_s: Greatest duration of a request, seconds.
        max_bytes: Greatest body of an answer, after decompression.
        headers: Sent along, such as the key of an auditor. No error repeats them.
        tls: Whom to trust; by default what this machine trusts.

    Raises:
        ConfigError: The URL is none, or is neither https nor of this machine.
    """

    def __init__(
        self,
        url: str,
        *,
        timeout_s: float,
        max_bytes: int,
        headers: Mapping[str, str] | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._host, self._port, self._prefix, secure = _split(url)
        self._tls = (tls or ssl.create_default_context()) if secure else None
        self._timeout_s = timeout_s
        self._max_bytes = max_bytes
        self._headers = {"accept-encoding": "gzip", "user-agent": "shieldwall", **(headers or {})}
        self._connection: http.client.HTTPConnection | None = None
        self._is_cut = False
        self._is_closed = False
        self._is_busy = False
        self._lock = threading.Lock()

    def get(self, path: str) -> Reply:
        """Fetch `<url>/<path>`; see `call`."""
        return self.call("GET", path)

    def post(self, path: str, body: bytes) -> Reply:
        """Send to `<url>/<path>`; see `call`."""
        return self.call("POST", path, body)

    def call(self, method: str, path: str, body: bytes | None = None) -> Reply:
        """Make a request; whatever its status is, the answer comes back.

        On a connection that was kept and that the other side has closed since, it is sent a second time: only for
        requests that may come twice.

        Raises:
            UpstreamError: No answer, no whole one, one that is too long, or a redirect; UpstreamTimeout where it took
                too long.
        """
        kept, until = self._connection is not None, time.monotonic() + self._timeout_s
        try:
            try:
                return self._call(method, path, body, until)
            except (ConnectionError, ssl.SSLEOFError):
                if not kept or self._is_cut or self._is_closed:
                    raise
                return self._call(method, path, body, until)
        except (OSError, http.client.HTTPException) as error:
            raise self._failed(error) from error
        except UpstreamError as error:
            # What was cut in the middle reads like an answer that ended too early.
            raise (self._failed(TimeoutError()) if self._is_cut else error) from None

    def close(self) -> None:
        """Close the connection, also under a request of another thread, which then fails."""
        with self._lock:
            self._is_closed = True
            connection = self._connection
            if connection is not None and self._is_busy:
                _cut(connection)
            elif connection is not None:
                connection.close()

    def _call(self, method: str, path: str, body: bytes | None, until: float) -> Reply:
        left_s = until - time.monotonic()
        if left_s <= 0:
            raise TimeoutError
        with self._lock:
            if self._is_closed:
                raise UpstreamError("the connection was closed on this side")
            connection = self._connection = self._connection or self._make()
            self._is_cut, self._is_busy = False, True
        connection.timeout = left_s
        is_whole = False
        try:
            with self._ending(connection, left_s):
                if connection.sock is not None:
                    connection.sock.settimeout(left_s)
                connection.request(method, f"{self._prefix}/{path}", body, self._headers)
                response = connection.getresponse()
                reply = self._take(response)
            if self._is_cut:
                raise TimeoutError
            is_whole = not response.will_close
            return reply
        finally:
            with self._lock:
                self._is_busy = False
                if not is_whole or self._is_closed:
                    self._connection = None
                    connection.close()

    def _take(self, response: http.client.HTTPResponse) -> Reply:
        if response.status in _REDIRECTS:
            raise UpstreamError(f"the server answered {response.status}: redirects are not followed")
        if response.length is None and not response.chunked:
            # One that was cut off, even within its head, would look like a whole one.
            raise UpstreamError("the answer does not say how long it is")
        encoding = response.getheader("content-encoding", "identity").strip().lower()
        if encoding not in {"identity", "gzip"}:
            raise UpstreamError("the answer is compressed in a way that was not asked for")
        found = bytearray()
        unpacker = zlib.decompressobj(_GZIP_WINDOW) if encoding == "gzip" else None
        while piece := response.read(min(_PIECE_BYTES, self._max_bytes + 1)):
            found += self._unpack(unpacker, piece, len(found)) if unpacker is not None else piece
            if len(found) > self._max_bytes:
                raise UpstreamError(f"the answer is over {self._max_bytes} bytes")
        if (response.length or 0) > 0 or (unpacker is not None and found and not unpacker.eof):
            raise UpstreamError("the answer was cut off")
        return Reply(response.status, response.getheader("content-type", "").strip().lower(), bytes(found))

    def _unpack(self, unpacker: "zlib._Decompress", piece: bytes, size: int) -> bytes:
        try:
            return unpacker.decompress(piece, self._max_bytes + 1 - size)
        except zlib.error:
            raise UpstreamError("the answer is no gzip although it says so") from None

    def _make(self) -> http.client.HTTPConnection:
        if self._tls is None:
            return http.client.HTTPConnection(self._host, self._port)
        return _Secure(self._host, self._port, context=self._tls)

    @contextlib.contextmanager
    def _ending(self, connection: http.client.HTTPConnection, seconds: float) -> Iterator[None]:
        """Cut the connection when the time is over: a timeout of a socket begins anew with every byte."""

        def end() -> None:
            self._is_cut = True
            _cut(connection)

        timer = threading.Timer(seconds, end)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def _failed(self, error: Exception) -> UpstreamError:
        if isinstance(error, TimeoutError) or self._is_cut:
            return UpstreamTimeout(f"no answer within {self._timeout_s:g} s")
        if isinstance(error, http.client.RemoteDisconnected):
            return UpstreamError("the server closed the connection")
        if isinstance(error, ssl.SSLError):
            return UpstreamError(f"no trusted connection: {error.reason or 'TLS failed'}")
        if isinstance(error, OSError):
            return UpstreamError(f"no connection: {error.strerror or type(error).__name__}")
        return UpstreamError(f"the answer is no HTTP: {type(error).__name__}")


class _Secure(http.client.HTTPSConnection):
    """Shakes hands only after the socket is the connection's own, so that it can be cut meanwhile."""

    def __init__(self, host: str, port: int | None, *, context: ssl.SSLContext) -> None:
        super().__init__(host, port, context=context)
        self._tls = context

    def connect(self) -> None:
        http.client.HTTPConnection.connect(self)
        sock = self._tls.wrap_socket(self.sock, server_hostname=self.host, do_handshake_on_connect=False)
        self.sock = sock
        sock.do_handshake()


def _cut(connection: http.client.HTTPConnection) -> None:
    sock = connection.sock
    if sock is not None:
        with contextlib.suppress(OSError):
            # Not that of TLS, which would take its state away from the thread that reads.
            socket.socket.shutdown(sock, socket.SHUT_RDWR)


def _split(url: str) -> tuple[str, int | None, str, bool]:
    """Host, port, path without a slash at its end, and whether it is TLS."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        raise ConfigError("a URL of a witness or of a log cannot be read") from None
    is_plain = url.isascii() and url.isprintable() and " " not in url
    if not is_plain or not host or parts.username or parts.query or parts.fragment:
        raise ConfigError("a URL of a witness or of a log is not scheme://host[:port][/prefix]")
    if parts.scheme != "https" and not (parts.scheme == "http" and _is_here(host)):
        raise ConfigError(f"{parts.scheme}://{host} is not https", hint="plain http is for this machine alone")
    return host, port, parts.path.rstrip("/"), parts.scheme == "https"


def _is_here(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
