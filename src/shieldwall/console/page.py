# SPDX-License-Identifier: Apache-2.0
"""What the console shows, as bytes: pages, stream events and the headers that go with every answer.

Plain functions, no waiting. Every value that comes from outside passes through `_text` on its way into a page; on its
way into the stream it is JSON, which has no line breaks, and the script puts it into the page as text. The page is
complete without script: the script only adds what happens later.
"""

import functools
import html
import importlib.resources
import re
from collections.abc import Iterable, Mapping

import msgspec

from shieldwall.core.verdict import Action

__all__ = ["HEADERS", "HTML", "ICON", "Line", "console", "count_event", "line_event", "login", "message", "static"]

_SOURCES = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; form-action 'self'; "
    "img-src 'self'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = [
    (b"content-security-policy", _SOURCES.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-store"),
]
"""On every answer of the console."""

HTML = (b"content-type", b"text/html; charset=utf-8")

_SHIELD = "M12 2 4 5v6c0 5 3.4 9.2 8 11 4.6-1.8 8-6 8-11V5z"
ICON = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 24 24">'
    f'<path d="{_SHIELD}" fill="#2f6f5e"/><path d="M12 2v20c4.6-1.8 8-6 8-11V5z" fill="#24574a"/></svg>'
).encode()
"""The shield in the browser's tab."""

_ACTIONS = tuple(action.value for action in Action)
_MEANING = {
    "allow": "passed",
    "flag": "passed, remarked",
    "redact": "passed, parts removed",
    "hold": "stopped for a person",
    "block": "stopped",
}
_COLUMNS = (
    ("time", "Time (UTC)"),
    ("direction", "Direction"),
    ("action", "Action"),
    ("score", "Score"),
    ("rules", "Rules"),
    ("model", "Model"),
    ("principal", "Principal"),
    ("route", "Route"),
    ("event", "Event"),
    ("us", "µs"),
)
_REFRESH_S = 15
"""How often a page without script loads itself again."""
_KEY_CHARACTERS = 128
_NOT_IN_KEYS = re.compile(r"[^A-Za-z0-9._-]")


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """One verdict as the console shows it: a reader's view of what the share publishes, unknown fields left out."""

    event: str
    time: str
    """ISO 8601, UTC, milliseconds."""
    direction: str
    action: str
    score: float
    rules: tuple[str, ...]
    model: str
    principal: str
    route: str
    us: int
    """Time of judging, microseconds."""

    @property
    def key(self) -> str:
        """Names this verdict in the stream. Both directions of an exchange share the event, so it says which.

        Only characters that cannot end a line of the stream: an id is the one field there that is not JSON.
        """
        return _NOT_IN_KEYS.sub("", f"{self.event}.{self.direction}")[:_KEY_CHARACTERS]


def static(name: str) -> bytes:
    """A file of the package's `static` folder."""
    return importlib.resources.files(__package__).joinpath("static", name).read_bytes()


def line_event(line: Line) -> bytes:
    """One verdict as a server-sent event (HTML standard, section 9.2)."""
    return b"id: %s\ndata: %s\n\n" % (line.key.encode(), msgspec.json.encode(line))


def count_event(counts: Mapping[str, int]) -> bytes:
    """All counts, so that a reader who missed a verdict still counts right."""
    return b"event: counts\ndata: %s\n\n" % msgspec.json.encode({each: counts.get(each, 0) for each in _ACTIONS})


def login(problem: str = "") -> bytes:
    """The login form, with what went wrong at the last try."""
    alert = f'<p class="problem" role="alert">{_text(problem)}</p>' if problem else ""
    return _page(
        "Log in",
        f"""<main class="card">
{_MARK}
<h1>Shieldwall console</h1>
{alert}
<form method="post" action="/console/login">
<label for="key">Key</label>
<input id="key" name="key" type="password" required autofocus
 autocomplete="current-password" maxlength="256" spellcheck="false">
<button type="submit">Log in</button>
</form>
<p class="aside">A key of role viewer, operator, auditor or approver opens this page. Make one where the node runs:</p>
<pre><code>shieldwall keys create NAME \\
    --role viewer --data DIR</code></pre>
</main>""",
    )


def message(title: str, sentence: str) -> bytes:
    """A page that says one thing and leads back."""
    return _page(
        title,
        f"""<main class="card">
{_MARK}
<h1>{_text(title)}</h1>
<p>{_text(sentence)}</p>
<p><a href="/console/">Back to the console</a></p>
</main>""",
    )


def console(lines: Iterable[Line], counts: Mapping[str, int], *, name: str, role: str, token: str) -> bytes:
    """The page of live verdicts.

    Args:
        lines: Newest first.
        counts: Verdicts since the node started, by action.
        name: Name of the key that is logged in.
        role: Its role.
        token: The session's form token.
    """
    heads = "".join(f'<th scope="col" class="{field}">{head}</th>' for field, head in _COLUMNS)
    body = "".join(map(_row, lines))
    empty = Line(event="", time="", direction="", action="", score=0, rules=(), model="", principal="", route="", us=0)
    return _page(
        "Verdicts",
        f"""<header>
<span class="brand">{_MARK}<span>Shieldwall</span></span>
<p id="status" role="status" data-state="still"><span class="dot"></span>
<span id="status-text">Not live: without script this page reloads every {_REFRESH_S} s</span></p>
<button type="button" id="pause" hidden aria-pressed="false">Pause</button>
<form method="post" action="/console/logout">
<input type="hidden" name="token" value="{_text(token)}">
<span class="who">{_text(name)} <small>{_text(role)}</small></span>
<button type="submit" class="quiet">Log out</button>
</form>
</header>
<main>
<h1>Verdicts <small>since the node started; choose one to see only its rows</small></h1>
{_tiles(counts)}
<table>
<caption class="unseen">The latest verdicts, newest first</caption>
<thead><tr>{heads}</tr></thead>
<tbody id="rows">{body}</tbody>
</table>
<p id="empty">No verdict yet. Send a request through the gateway and it appears here.</p>
</main>
<template id="row">{_row(empty)}</template>""",
        head=f'<noscript><meta http-equiv="refresh" content="{_REFRESH_S}"></noscript>\n'
        '<script src="/console/static/console.js" defer></script>',
    )


def _tiles(counts: Mapping[str, int]) -> str:
    """One choice per action with its count, and a bar of their shares; choosing works by style sheet alone."""
    total = sum(counts.get(each, 0) for each in _ACTIONS)
    tiles = [_tile("all", total, "verdicts", checked=True)]
    tiles += [_tile(each, counts.get(each, 0), _MEANING[each], checked=False) for each in _ACTIONS]
    bars: list[str] = []
    start = 0.0
    for each in _ACTIONS:
        width = 1_000 * counts.get(each, 0) / total if total else 0.0
        bars.append(f'<rect class="{each}" data-bar="{each}" x="{start:.2f}" y="0" width="{width:.2f}" height="1"/>')
        start += width
    return (
        f'<fieldset class="tiles"><legend class="unseen">Show</legend>{"".join(tiles)}</fieldset>\n'
        f'<svg class="shares" viewBox="0 0 1000 1" preserveAspectRatio="none" aria-hidden="true">{"".join(bars)}</svg>'
    )


def _tile(action: str, count: int, meaning: str, *, checked: bool) -> str:
    chosen = " checked" if checked else ""
    return (
        f'<label class="tile {action}">'
        f'<input class="unseen" type="radio" name="show" id="show-{action}"{chosen} autocomplete="off">'
        f'<span class="name">{action}</span><span class="count" data-count="{action}">{count:,}</span>'
        f'<span class="meaning">{meaning}</span></label>'
    )


@functools.lru_cache(maxsize=512)
def _row(line: Line) -> str:
    """One row. The script fills a copy of an empty one, so the shape of a row is written here only.

    Kept, because each load of the page shows mostly the rows of the last one, and the loop that writes them serves
    the gateway too: 200 rows cost 3 ms anew.
    """
    action = line.action if line.action in _ACTIONS else "other"
    rules = "".join(f"<li>{_text(rule)}</li>" for rule in line.rules)
    cells = {
        "time": f'<time datetime="{_text(line.time)}"><span class="date">{_text(line.time[:10])}</span> '
        f'<span class="clock">{_text(line.time[11:23])}</span></time>',
        "action": f'<span class="badge">{_text(line.action)}</span>',
        "score": f'<span class="number">{line.score:.2f}</span><meter min="0" max="1" value="{line.score:g}"></meter>',
        "rules": f"<ul>{rules}</ul>",
        "us": f"{line.us:,}",
    }
    shown: list[str] = []
    for field, head in _COLUMNS:
        plain = getattr(line, field) if field not in cells else ""
        title = f' title="{_text(plain)}"' if field in {"model", "principal", "route", "event"} else ""
        shown.append(f'<td class="{field}" data-head="{head}"{title}>{cells.get(field) or _text(plain)}</td>')
    return f'<tr class="{action}" data-key="{_text(line.key)}">{"".join(shown)}</tr>\n'


_MARK = (
    '<svg class="mark" viewBox="0 0 24 24" aria-hidden="true">'
    f'<path d="{_SHIELD}"/><path class="half" d="M12 2v20c4.6-1.8 8-6 8-11V5z"/></svg>'
)


def _page(title: str, body: str, head: str = "") -> bytes:
    # `Referrer-Policy: no-referrer` makes browsers send `Origin: null` with our own forms (Fetch standard, "append a
    # request Origin header"), and the Origin check could tell nothing. `same-origin` still sends other sites nothing.
    page = f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta name="referrer" content="same-origin">
<title>{_text(title)} · Shieldwall</title>
<link rel="icon" type="image/svg+xml" href="/console/static/icon.svg">
<link rel="stylesheet" href="/console/static/console.css">
{head}
</head>
<body>
{body}
</body>
</html>
"""
    return page.encode("utf-8", "replace")


def _text(value: str) -> str:
    """Text for an element or a quoted attribute."""
    return html.escape(value, quote=True)
