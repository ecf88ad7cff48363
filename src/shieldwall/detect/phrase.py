# SPDX-License-Identifier: Apache-2.0
"""The small language detection rules are written in: words, alternatives, gaps; compiled to a bounded regex.

    ignore ..3 (previous | prior) [system] instruction*

    word          that word; `'` inside it may be left out, `-` may be left out or be a space
    word*         any word that begins so; the ending has at most 16 bytes
    (a | b)       one of the phrases
    [a | b]       one of them, or none
    ..N           at most N words in between, within one sentence (1 <= N <= 8)
    "text"        exactly these characters, next to its neighbours or up to 3 spaces away
    ~N            at most N characters other than line breaks and `)`, on both sides next to its neighbours

Between two words stand one to three separators: ASCII characters that are neither letter nor digit, nor one of `.!?`.
A phrase with text of a script without spaces (Chinese, Japanese, Korean, Thai …) needs no separator, and a gap counts
pairs of characters there. A phrase begins and ends at a word border where its edge is an ASCII letter or digit, and
may begin or end inside a word elsewhere: such scripts attach endings and particles.

Everything is bounded, no construct looks ahead or behind, and NUL is matched at the two borders only, so that texts may
be joined with NUL and a match never depends on what has not yet arrived. Grammar and reasons: docs/formats/rules.md.
"""

import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

from shieldwall.core.errors import RuleError
from shieldwall.core.text import fold

__all__ = [
    "ROT13",
    "SEPARATOR",
    "SKELETON",
    "Compiled",
    "Gap",
    "Group",
    "Node",
    "Run",
    "Word",
    "compile_phrase",
    "least_letters",
    "parse",
]

SEPARATOR = r"[\x01-\x20\x22-\x2d/:->@\[-`{-\x7f]"
"""One separator between two words: ASCII, neither letter nor digit, not NUL, not an end of sentence."""
_STEM = r"[0-9a-z\x80-\xff]"
_FILLER = r"[0-9a-z\x80-\xff'_-]"
_BORDER = r"[^0-9a-z]"
_MAX_DEPTH = 8
_MAX_NODES = 400
_SEPARATORS_MAX = 3
_STEM_MAX = 16
_GAP_MAX = 8
_RUN_MAX = 200
_BEGINNINGS_MAX = 256
_WORDS_IN_ANCHOR = 4
_SPACELESS = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1100-\u11ff\u1780-\u17ff\u3040-\u30ff\u3130-\u318f\u3400-\u9fff\uac00-\ud7a3]"
)
_TOKEN = re.compile(r'\s+|\.\.(\d{1,2})|~(\d{1,3})|"([^"\n]{1,64})"|([()\[\]|])|([^\s()\[\]|"~*]{1,64})(\*?)')


def _skeleton_table() -> bytes:
    table = bytearray(range(256))
    for upper in range(ord("A"), ord("Z") + 1):
        table[upper] = upper + 32
    table[ord("l")] = table[ord("L")] = ord("i")
    return bytes(table)


SKELETON = _skeleton_table()
"""Table from folded bytes to what is matched: lower case, and `l` becomes `i`, as the two pass for each other."""
ROT13 = bytes.maketrans(
    b"abcdefghijklmnopqrstuvwxyz",
    b"nopqrstuvwxyzabcdefghijklm",
)


class Word(NamedTuple):
    """A word, or with `stem` the beginning of one."""

    text: str
    stem: bool = False


class Quote(NamedTuple):
    """Exact characters."""

    text: str


class Gap(NamedTuple):
    """At most `words` arbitrary words."""

    words: int


class Run(NamedTuple):
    """At most `size` bytes without line break and `)`."""

    size: int


class Group(NamedTuple):
    """One of several phrases; with `optional`, or none."""

    phrases: tuple[tuple["Node", ...], ...]
    optional: bool = False


Node = Word | Quote | Gap | Run | Group


class Compiled(NamedTuple):
    """A phrase in one form, ready for a matcher."""

    regex: str
    """For bytes; syntax and meaning shared by RE2 and Python's `re`."""
    width: int
    """Longest match in bytes, borders included."""
    leading: bool
    """Whether a match begins with one border byte that is not part of the phrase."""
    trailing: bool
    """Whether it ends with one."""


def parse(text: str) -> tuple[Node, ...]:
    """Read a phrase.

    Raises:
        RuleError: The phrase is not well formed, or an optional part or a gap stands at its edge.
    """
    tokens = _tokens(text)
    nodes, closing = _sequence(tokens, 0)
    if closing:
        raise RuleError(f"unexpected {closing!r}")
    _check_edges(nodes, outermost=True)
    if sum(1 for _ in walk(nodes)) > _MAX_NODES:
        raise RuleError(f"the phrase has more than {_MAX_NODES} parts")
    return nodes


def _tokens(text: str) -> Iterator[Node | str]:
    position = 0
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            raise RuleError(f"cannot read the phrase at character {position + 1}")
        position = match.end()
        gap, run, quote, mark, word, star = match.groups()
        if gap is not None:
            if not 1 <= int(gap) <= _GAP_MAX:
                raise RuleError(f"a gap has 1 to {_GAP_MAX} words, not {int(gap)}")
            yield Gap(int(gap))
        elif run is not None:
            if not 1 <= int(run) <= _RUN_MAX:
                raise RuleError(f"a run has 1 to {_RUN_MAX} characters, not {int(run)}")
            yield Run(int(run))
        elif mark is not None:
            yield mark
        elif quote is not None or word is not None:
            yield _literal(quote, word, star)


def _literal(quote: str | None, word: str | None, star: str) -> Node:
    folded = fold(quote if quote is not None else word or "").lower()
    if not folded or "\0" in folded:
        raise RuleError("a word is empty once it is folded")
    if quote is not None:
        return Quote(folded)
    if not _fragments(folded):
        raise RuleError(f"a word needs a letter or a digit, put {folded!r} in quotes")
    return Word(folded, bool(star))


def _sequence(tokens: Iterator[Node | str], depth: int) -> tuple[tuple[Node, ...], str]:
    """Nodes up to the mark that ends them (`|`, `)`, `]` or nothing)."""
    if depth > _MAX_DEPTH:
        raise RuleError(f"groups are nested more than {_MAX_DEPTH} deep")
    nodes: list[Node] = []
    for part in tokens:
        if not isinstance(part, str):
            nodes.append(part)
        elif part in "([":
            nodes.append(_group(tokens, part, depth))
        else:
            return tuple(nodes), part
    return tuple(nodes), ""


def _group(tokens: Iterator[Node | str], opening: str, depth: int) -> Group:
    phrases = []
    mark = "|"
    while mark == "|":
        phrase, mark = _sequence(tokens, depth + 1)
        if not phrase:
            raise RuleError("an alternative is empty")
        _check_edges(phrase, outermost=False)
        phrases.append(phrase)
    if mark != {"(": ")", "[": "]"}[opening]:
        raise RuleError(f"{opening!r} is not closed")
    return Group(tuple(phrases), optional=opening == "[")


def _check_edges(nodes: tuple[Node, ...], *, outermost: bool) -> None:
    """A gap or an optional part at the start means nothing, at the end little; both make borders ambiguous."""
    if not nodes:
        raise RuleError("the phrase is empty")
    for node in (nodes[0], nodes[-1]) if outermost else (nodes[0],):
        if isinstance(node, Gap | Run) or (isinstance(node, Group) and node.optional):
            raise RuleError("a phrase begins and ends with a word, not with a gap or an optional part")
    if isinstance(nodes[-1], Gap | Run):
        raise RuleError("a gap or run needs something after it")


def walk(nodes: tuple[Node, ...]) -> Iterator[Node]:
    """Every node of the phrase, parents first."""
    for node in nodes:
        yield node
        if isinstance(node, Group):
            for phrase in node.phrases:
                yield from walk(phrase)


def _fragments(word: str) -> list[str]:
    return [part for part in re.split(r"[^0-9a-z\u0080-\U0010ffff]+", word) if part]


def is_spaceless(nodes: tuple[Node, ...]) -> bool:
    """Whether the phrase holds text of a script that is written without spaces, or without reliable ones."""
    return any(isinstance(node, Word | Quote) and _SPACELESS.search(node.text) for node in walk(nodes))


def is_ascii(nodes: tuple[Node, ...]) -> bool:
    """Whether the phrase is plain words of ASCII letters and digits, as the variants need it."""
    return all(
        not isinstance(node, Quote | Run) and (not isinstance(node, Word) or node.text.isascii())
        for node in walk(nodes)
    )


def beginnings(nodes: tuple[Node, ...]) -> set[str]:
    """How a match can begin: up to four words, a `*` after a stem; used to check declared anchors.

    Raises:
        RuleError: The phrase begins with quoted text, or in too many ways.
    """
    done: set[str] = set()
    todo: list[tuple[str, tuple[Node, ...]]] = [("", nodes)]
    while todo:
        start, rest = todo.pop()
        if len(done) + len(todo) > _BEGINNINGS_MAX:
            raise RuleError(f"the phrase can begin in more than {_BEGINNINGS_MAX} ways, too many for anchors")
        if not rest or isinstance(rest[0], Gap | Run | Quote) or start.count(" ") >= _WORDS_IN_ANCHOR:
            if not start:
                raise RuleError("a phrase with anchors begins with a word")
            done.add(start.strip())
        elif isinstance(rest[0], Group):
            todo += [(start, phrase + rest[1:]) for phrase in rest[0].phrases]
            if rest[0].optional:
                todo.append((start, rest[1:]))
        elif rest[0].stem:
            done.add(f"{start}{rest[0].text}*")
        else:
            todo.append((f"{start}{rest[0].text} ", rest[1:]))
    return done


class _Form(NamedTuple):
    """How literals and separators are written in one form of a phrase."""

    letters: Callable[[bytes], bytes]
    separator: str
    filler: str
    joined: bool


def compile_phrase(
    nodes: tuple[Node, ...],
    *,
    letters: Callable[[bytes], bytes] | None = None,
    joined: bool = False,
    loose: bool = False,
) -> Compiled:
    """Compile a parsed phrase to a regex over skeleton bytes.

    Args:
        nodes: What `parse` returned.
        letters: Applied to each literal before the skeleton, such as rot13.
        joined: Leave the separators out and ask for no border: for text whose spaced letters were pulled together.
        loose: One arbitrary byte instead of the border after the phrase: in leet, `!` may be a letter or not.
    """
    spaceless = is_spaceless(nodes)
    change = letters or (lambda text: text)
    form = _Form(
        letters=lambda text: change(text).translate(SKELETON),
        separator="" if joined else SEPARATOR + ("{0,3}" if spaceless else "{1,3}"),
        filler=r"[0-9a-z]{0,12}"
        if joined
        else r"[^\x00\x0a.!?]{0,6}"
        if spaceless
        else _FILLER + ("{1,20}" if is_ascii(nodes) else "{1,30}"),
        joined=joined,
    )
    regex, width = _render(nodes, form)
    first, last = _edge(nodes, 0), _edge(nodes, -1)
    leading, trailing = first and not joined, last and not joined
    return Compiled(
        regex=(_BORDER if leading else "")
        + regex
        + (r"[\x00-\xff]" if loose and trailing else _BORDER if trailing else ""),
        width=width + leading + trailing,
        leading=leading,
        trailing=trailing,
    )


def _edge(nodes: tuple[Node, ...], end: int) -> bool:
    """Whether the edge is an ASCII letter or digit for every way the phrase can begin or end, and not an open stem."""
    node = nodes[end]
    if isinstance(node, Group):
        return not node.optional and all(_edge(phrase, end) for phrase in node.phrases)
    if isinstance(node, Word):
        edge = node.text[end]
        return edge.isascii() and edge.isalnum() and not (end == -1 and node.stem)
    return False


def _render(nodes: tuple[Node, ...], form: _Form) -> tuple[str, int]:
    """Regex and greatest width of a sequence, separators between its parts."""
    regex, width = "", 0
    before: Node | None = None
    for node in nodes:
        inner, size = _render_node(node, form)
        between, room = _between(before, node, form)
        if isinstance(node, Gap):
            regex += f"(?:{between}{inner}){{0,{node.words}}}"
            width += (room + size) * node.words
        else:
            optional = isinstance(node, Group) and node.optional
            regex += f"(?:{between}{inner})?" if optional else between + inner
            width += room + size
        before = node
    return regex, width


def _between(before: Node | None, node: Node, form: _Form) -> tuple[str, int]:
    """What may stand between two neighbours, and its greatest width."""
    if before is None or isinstance(before, Run) or isinstance(node, Run):
        return "", 0
    if _is_exact(before, -1) or _is_exact(node, 0):
        return r"[\x01-\x20]{0,3}", _SEPARATORS_MAX
    return form.separator, _SEPARATORS_MAX if form.separator else 0


def _is_exact(node: Node, end: int) -> bool:
    """Whether the node can begin or end with quoted text."""
    if isinstance(node, Group):
        return any(_is_exact(phrase[end], end) for phrase in node.phrases)
    return isinstance(node, Quote)


def _render_node(node: Node, form: _Form) -> tuple[str, int]:
    match node:
        case Word(text, stem):
            literal = _word(text, form)
            size = len(text.encode()) + text.count("-")
            return (literal + _STEM + f"{{0,{_STEM_MAX}}}", size + _STEM_MAX) if stem else (literal, size)
        case Quote(text):
            return _escape(form.letters(text.encode())), len(text.encode())
        case Gap():
            return form.filler, int(form.filler.rpartition(",")[2][:-1])
        case Run(size):
            return rf"[^\x00\x0a)]{{0,{size}}}", size
        case Group(phrases):
            parts = [_render(phrase, form) for phrase in phrases]
            return f"(?:{'|'.join(regex for regex, _ in parts)})", max(size for _, size in parts)


def _word(text: str, form: _Form) -> str:
    out = ""
    for part in re.split(r"(['-])", text):
        if part in ("'", "-"):
            out += "" if form.joined else "'?" if part == "'" else "[ -]?"
        else:
            out += _escape(form.letters(part.encode()))
    return out


def _escape(literal: bytes) -> str:
    return "".join(chr(byte) if chr(byte).isascii() and chr(byte).isalnum() else f"\\x{byte:02x}" for byte in literal)


def least_letters(nodes: tuple[Node, ...]) -> int:
    """How many letters and digits every match has at least."""
    count = 0
    for node in nodes:
        match node:
            case Word(text):
                count += sum(map(len, _fragments(text)))
            case Group(phrases, optional=False):
                count += min(map(least_letters, phrases))
    return count
