# SPDX-License-Identifier: Apache-2.0
"""`GET /v1/models`: what is served, in the caller's dialect."""

from typing import Any

import msgspec

from shieldwall.core.errors import Error, InvalidInput
from shieldwall.gateway.proxy import read_all
from shieldwall.gateway.upstream import Route, Upstreams
from shieldwall.gateway.wire import decode

__all__ = ["list_models"]

_MAX_LIST_BYTES = 4 << 20
_WILD = frozenset("*?[")


async def list_models(upstreams: Upstreams, dialect: str, below: str) -> bytes | None:
    """The list of models, or one of them.

    Names written out in the configuration are listed as they stand; where a pattern stands, the upstream is asked and
    what the pattern admits is taken. An upstream that does not answer adds nothing.

    Args:
        upstreams: All endpoints.
        dialect: Whose shape to answer in.
        below: What follows `/v1/models`: empty, or `/<name>`.

    Returns:
        The body, or None when the one asked for is not served.
    """
    names: dict[str, str] = {}
    for route in upstreams.routes:
        if route.settings.dialect not in (dialect, "demo"):
            continue
        for name in await _names(route):
            # The first upstream that takes a model serves it; a later one of the same name is never reached, and what
            # an upstream lists beyond its patterns is not served at all.
            if name not in names and route.serves(name, dialect) and upstreams.route(name, dialect) is route:
                names[name] = route.name
    wanted = below.removeprefix("/")
    if wanted:
        return msgspec.json.encode(_model(wanted, names[wanted], dialect)) if wanted in names else None
    data = [_model(name, owner, dialect) for name, owner in names.items()]
    if dialect == "anthropic":
        first, last = (data[0]["id"], data[-1]["id"]) if data else (None, None)
        return msgspec.json.encode({"data": data, "has_more": False, "first_id": first, "last_id": last})
    return msgspec.json.encode({"object": "list", "data": data})


async def _names(route: Route) -> list[str]:
    names = [name for name in route.settings.models if not _WILD & set(name)]
    if len(names) == len(route.settings.models):
        return names
    try:
        reply = await route.upstream.send("GET", "/models", {b"anthropic-version": b"2023-06-01"}, b"")
        try:
            value = decode(await read_all(reply, _MAX_LIST_BYTES))
        finally:
            reply.close()
    except (Error, InvalidInput):
        return names
    listed = value.get("data") if isinstance(value, dict) else None
    for item in listed if isinstance(listed, list) else []:
        name = item.get("id") if isinstance(item, dict) else None
        if isinstance(name, str) and len(name) <= 128 and name.isprintable() and name not in names:
            names.append(name)
    return names


def _model(name: str, owner: str, dialect: str) -> dict[str, Any]:
    if dialect == "anthropic":
        return {"type": "model", "id": name, "display_name": name, "created_at": "1970-01-01T00:00:00Z"}
    return {"id": name, "object": "model", "created": 0, "owned_by": owner}
