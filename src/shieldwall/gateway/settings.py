# SPDX-License-Identifier: Apache-2.0
"""How the gateway is set up: limits, waits and upstreams."""

import msgspec

from shieldwall.core.errors import ConfigError

__all__ = ["Settings", "UpstreamSettings"]


class UpstreamSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One endpoint that serves models. Only what stands here is ever connected to."""

    url: str
    """Base address, with or without a trailing `/v1`; `demo:` for the built-in scripted one."""
    dialect: str = "openai"
    """`openai` or `anthropic`: what it speaks."""
    models: tuple[str, ...] = ("*",)
    """Names it serves, shell patterns allowed. The first upstream in the file that fits is taken."""
    key_env: str = ""
    """Environment variable that holds the provider's key."""
    key_file: str = ""
    """File that holds it, for deployments that mount secrets."""

    def __post_init__(self) -> None:
        if self.dialect not in ("openai", "anthropic", "demo"):
            raise ConfigError("an upstream's dialect is openai or anthropic")
        if not self.url.startswith(("http://", "https://", "demo:")):
            raise ConfigError("an upstream's url begins with http:// or https://")


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Limits of the gateway. Each bounds what one stranger can make it hold."""

    max_body_bytes: int = 32 << 20
    """Largest request body. Providers take up to 32 MB with images inside."""
    max_answer_bytes: int = 32 << 20
    """Largest whole (not streamed) answer; it is held until it is judged."""
    max_event_bytes: int = 1 << 20
    """Largest single event of a stream."""
    max_held_bytes: int = 4 << 20
    """Most of a stream that may wait to be judged: a tool call is held until it is whole. Past it the call is named
    `uninspected` and the policy says whether it passes."""
    body_timeout_s: float = 60.0
    """Longest wait for a request body."""
    connect_timeout_s: float = 10.0
    """Longest wait for a connection to an upstream."""
    answer_timeout_s: float = 600.0
    """Longest wait for an upstream's first byte: providers' own clients wait ten minutes."""
    idle_timeout_s: float = 300.0
    """Longest silence inside a stream. Models think for minutes."""
    write_timeout_s: float = 120.0
    """Longest wait for a client that does not read."""
    max_upstream_connections: int = 1_000
    """Connections per node to all upstreams together; a further request waits for one."""
