# SPDX-License-Identifier: Apache-2.0
"""Everything that comes in becomes an event; what may pass, passes untouched."""

from shieldwall.gateway.anthropic import Anthropic
from shieldwall.gateway.conn import AsgiConn, Conn
from shieldwall.gateway.demo import DemoUpstream
from shieldwall.gateway.doors import Doors
from shieldwall.gateway.inspection import answer_of, read_item
from shieldwall.gateway.keys import ROLES, Key, Keys
from shieldwall.gateway.openai import OpenAI
from shieldwall.gateway.settings import Settings, UpstreamSettings
from shieldwall.gateway.upstream import Upstreams

__all__ = [
    "ROLES",
    "Anthropic",
    "AsgiConn",
    "Conn",
    "DemoUpstream",
    "Doors",
    "Key",
    "Keys",
    "OpenAI",
    "Settings",
    "UpstreamSettings",
    "Upstreams",
    "answer_of",
    "read_item",
]
