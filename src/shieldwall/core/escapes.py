# SPDX-License-Identifier: Apache-2.0
r"""Resolves escapes in a stream: percent-encoding, HTML character references and backslash escapes.

One transducer over the folded bytes of a field. It is silent until the first real escape; then it gives out the text
from up to 256 code points before that place to the end of the field, with every escape resolved once. What it gives
out does not depend on where the input is cut: an escape that may still be incomplete is waited for, never longer than
`LOOK_AHEAD` characters. What it resolves to may be an escape again; `text` nests it.

Forms: `%41` (a byte), `%u0041`; `&#65;`, `&#x41;` with or without the semicolon, and common named references;
`\u0041` with surrogate pairs, `\u{41}`, `\U00000041`, `\x41` and `\101` (bytes), and the one-letter escapes of JSON.
Sources: RFC 3986 section 2.1, HTML section 13.2.5.72 ff., RFC 8259 section 7.
"""

import re
from bisect import bisect_right
from typing import NamedTuple

from shieldwall.core.origins import END

__all__ = ["CONTEXT_CHARS", "LOOK_AHEAD", "SPECIAL", "Escapes"]

CONTEXT_CHARS = 256
"""Code points before the first escape that its view begins with, so that a phrase half escaped is seen whole."""

LOOK_AHEAD = 12
"""Characters of the longest escape, a surrogate pair; no answer waits for more."""

SPECIAL = b"%&\\"
"""Bytes an escape begins with."""

_NAMED = {
    "amp": "&", "apos": "'", "ast": "*", "bsol": "\\", "colon": ":", "comma": ",", "commat": "@", "dollar": "$",
    "emsp": " ", "ensp": " ", "equals": "=", "excl": "!", "grave": "`", "gt": ">", "hellip": "...", "hyphen": "-",
    "laquo": '"', "lbrace": "{", "lbrack": "[", "lcub": "{", "ldquo": '"', "lowbar": "_", "lpar": "(", "lsqb": "[",
    "lsquo": "'", "lt": "<", "mdash": "-", "nbsp": " ", "ndash": "-", "newline": "\n", "num": "#", "percnt": "%",
    "period": ".", "plus": "+", "quest": "?", "quot": '"', "raquo": '"', "rbrace": "}", "rbrack": "]", "rcub": "}",
    "rdquo": '"', "rpar": ")", "rsqb": "]", "rsquo": "'", "semi": ";", "shy": "", "sol": "/", "tab": "\t",
    "thinsp": " ", "verbar": "|", "zwj": "", "zwnj": "",
}  # fmt: skip
"""Named references whose text is ASCII or nothing, in lower case, already folded."""

_LETTERS = {b"n": b"\n", b"r": b"\r", b"t": b"\t", b"b": b"", b"f": b" "} | {
    sign: sign for sign in (b'"', b"'", b"\\", b"/")
}

_CONTINUED = frozenset(("decimal", "hex", "short"))
"""Escapes that the character behind them may still change: no semicolon yet, or half of a surrogate pair."""

_SEMICOLON = ord(";")


def _pattern(text: str) -> re.Pattern[bytes]:
    """A verbose pattern in which H stands for one hexadecimal digit."""
    return re.compile(text.replace("H", "[0-9A-Fa-f]").encode(), re.VERBOSE)


_ESCAPE = _pattern(r"""
      %(?: (?P<byte>HH) | u(?P<percent>HHHH) )
    | &(?: \#(?P<decimal>[0-9]{1,9})(?:;|(?![0-9])) | \#[xX](?P<hex>H{1,8})(?:;|(?!H)) | (?P<name>[A-Za-z]{2,8}); )
    | \\(?: u(?P<high>[dD][89abAB]HH)\\u(?P<low>[dD][c-fC-F]HH) | u(?P<short>HHHH) | u\{(?P<braced>H{1,6})\}
          | U(?P<long>H{8}) | x(?P<raw>HH) | (?P<octal>[0-3][0-7]{2}) | (?P<letter>[nrtbf"'\\/]) )
    | [%&\\]
    """)

_BEGINNING = _pattern(r"""
      %(?: uH{0,3} | H )?
    | &(?: \#[xX]H{0,8} | \#[0-9]{0,9} | [A-Za-z]{0,8} )?
    | \\(?: u[dD][89abAB]HH(?: \\(?: u(?: [dD](?: [c-fC-F]H? )? )? )? )? | u\{H{0,6} | uH{0,3} | UH{0,7}
          | xH? | [0-3][0-7]? )?
    """)
"""The longest beginning of an escape at a place, while one more character could still complete it or end it."""


def _char(code: int) -> bytes:
    return "\ufffd".encode() if code > 0x10FFFF or 0xD800 <= code < 0xE000 else chr(code).encode()


def _resolve(kind: str, digits: bytes, match: re.Match[bytes]) -> bytes | None:
    """What an escape stands for, or none when a named reference is not known."""
    match kind:
        case "byte" | "raw":
            return bytes((int(digits, 16),))
        case "octal":
            return bytes((int(digits, 8),))
        case "decimal":
            return _char(int(digits))
        case "name":
            plain = _NAMED.get(digits.decode().lower())
            return None if plain is None else plain.encode()
        case "letter":
            return _LETTERS[digits]
        case "low":
            high = int(match["high"], 16)
            return _char(0x10000 + ((high & 0x3FF) << 10 | int(digits, 16) & 0x3FF))
        case _:
            return _char(int(digits, 16))


def _beginning(data: bytes, start: int) -> int:
    """Where the longest beginning of an escape at `start` ends."""
    match = _BEGINNING.match(data, start)
    return match.end() if match else start


def _last_chars(data: bytes) -> bytes:
    # Four bytes per code point at most; the first may be cut, and is then not among the last CONTEXT_CHARS.
    return data[-4 * CONTEXT_CHARS :].decode("utf-8", "ignore")[-CONTEXT_CHARS:].encode()


class _Row(NamedTuple):
    """A stretch of output: literal text, or what one escape gave."""

    source: int
    width: int
    """Characters of the escape; 0 for literal text."""
    floor: int
    """Bytes of the field that had to arrive, where that is more than the text itself."""


class Escapes:
    """The transducer of one field."""

    __slots__ = ("_at", "_held", "_out", "_rows", "opened")

    def __init__(self) -> None:
        """Begin a field."""
        self._held = b""
        self._out = 0
        self._at: list[int] = []
        self._rows: list[_Row] = []
        self.opened: int | None = None
        """How many bytes had to arrive for the first escape to be known; none before it."""

    @property
    def is_idle(self) -> bool:
        """Whether text without special bytes changes nothing here."""
        return self.opened is None and not self._held

    def feed(self, data: bytes, at: int, before: bytes, *, last: bool = False) -> bytes:
        """Read on.

        Args:
            data: The next folded bytes.
            at: Offset of `data[0]`.
            before: At least `CONTEXT_CHARS` code points before `data`, as far as there are; read at the first escape.
            last: The field is over: nothing is waited for.

        Returns:
            The text of the view that is known now; empty before the first escape.
        """
        base = at - len(self._held)
        before = before[: len(before) - len(self._held)]
        data = self._held + data
        out: list[bytes] = []
        literal, stop = 0, len(data)
        for match in _ESCAPE.finditer(data):
            start, end = match.span()
            name = match.lastgroup
            value = _resolve(name, match[name], match) if name else None
            need = base + end
            if value is None or (name in _CONTINUED and data[end - 1] != _SEMICOLON):
                # The next character may continue it, so it is not its last character that decides.
                known = _beginning(data, start)
                if known == len(data) and not last:
                    stop = start
                    break
                if known >= end:
                    need = END if known == len(data) else base + known + 1
            if self.opened is None:
                if value is None:
                    continue
                context = _last_chars(before + data[:start])
                self.opened = need
                out.append(self._literal(context, base + start - len(context), need))
            else:
                out.append(self._literal(data[literal:start], base + literal))
            if value is None:
                out.append(self._literal(data[start:end], base + start, need))
            else:
                out.append(self._escape(value, base + start, end - start, need))
            literal = end
        self._held = data[stop:]
        if self.opened is not None:
            out.append(self._literal(data[literal:stop], base + literal))
        return b"".join(out)

    def when(self, end: int) -> int:
        """How many bytes of the field must have arrived before the view's text up to `end` is known."""
        if end >= END:
            return END
        index = bisect_right(self._at, end - 1) - 1
        row = self._rows[index]
        return max(row.floor, 0 if row.width else row.source + end - self._at[index])

    def source(self, start: int, end: int) -> tuple[int, int]:
        """Bytes of the view's text back to the folded bytes of the field they came from, both half-open."""
        if not self._rows:
            return 0, 0
        index = max(0, bisect_right(self._at, start) - 1)
        row = self._rows[index]
        low = row.source + (0 if row.width else start - self._at[index])
        if start >= end:
            return low, low
        index = max(0, bisect_right(self._at, end - 1) - 1)
        row = self._rows[index]
        return low, row.source + (row.width or end - self._at[index])

    def prune(self, floor: int) -> None:
        """Forget the way back from the view's text before `floor`."""
        keep = bisect_right(self._at, floor) - 1
        if keep > 0:
            del self._at[:keep]
            del self._rows[:keep]

    def _literal(self, text: bytes, source: int, floor: int = 0) -> bytes:
        if not text:
            return text
        last = self._rows[-1] if self._rows else None
        if floor or last is None or last.width or last.source + self._out - self._at[-1] != source:
            self._at.append(self._out)
            self._rows.append(_Row(source, 0, floor))
        self._out += len(text)
        return text

    def _escape(self, value: bytes, source: int, width: int, floor: int) -> bytes:
        if value:
            self._at.append(self._out)
            self._rows.append(_Row(source, width, floor))
            self._out += len(value)
        return value
