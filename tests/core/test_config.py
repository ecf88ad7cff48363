# SPDX-License-Identifier: Apache-2.0
"""A configuration file is read whole or refused with the path at fault; no value of it ever reaches a message."""

import enum
from typing import Any, Literal, TypeVar

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from shieldwall.core import config
from shieldwall.core.errors import ConfigError
from shieldwall.node import Config

T = TypeVar("T")

SECRET = "hunter2-and-more"


class Colour(enum.StrEnum):
    RED = "red"


class Inner(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    number: int = 1
    ratio: float = 0.5
    name: str = ""
    flag: bool = False
    colour: Colour = Colour.RED
    size: Literal["small", "large"] = "small"
    words: tuple[str, ...] = ()
    maybe: int | None = None


class Outer(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    inner: Inner = Inner()
    named: dict[str, Inner] = {}
    listed: list[Inner] = []
    optional: Inner | None = None
    title: str = ""


def refused(text: str, kind: type[Any] = Outer) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        config.parse(text, kind, source="c.toml")
    return caught.value


@pytest.mark.parametrize(
    ("text", "path", "hint"),
    [
        ("titel = 'x'", "titel", "did you mean title?"),
        ("inner.nmae = 'x'", "inner.nmae", "did you mean inner.name?"),
        ("[named.a]\nnumber = 1\n[named.b]\nnumbr = 1", "named.b.numbr", "did you mean named.b.number?"),
        ("[[listed]]\nname = 'x'\n[[listed]]\nnaem = 'x'", "listed[1].naem", "did you mean listed[1].name?"),
        ("optional.rattio = 1.0", "optional.rattio", "did you mean optional.ratio?"),
        ("zzzzzz = 1", "zzzzzz", "known keys: inner, named, listed, optional, title"),
    ],
)
def test_an_unknown_key_is_named_with_its_path_and_the_nearest_right_one(text: str, path: str, hint: str) -> None:
    """At any depth: in a table, in a table of tables, in a list of tables, in one that may be absent."""
    error = refused(text)

    assert str(error) == f"c.toml: unknown key {path}"
    assert error.hint == hint


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("title = 1", "title"),
        ("inner = 1", "inner"),
        ("inner.number = 'x'", "inner.number"),
        ("inner.number = 1.5", "inner.number"),
        ("inner.number = true", "inner.number"),
        ("inner.number = 2026-01-01", "inner.number"),
        ("inner.flag = 1", "inner.flag"),
        ("inner.words = 'x'", "inner.words"),
        ("inner.words = ['a', 1]", "inner.words[1]"),
        ("inner.colour = 'blue'", "inner.colour"),
        ("inner.size = 'vast'", "inner.size"),
        ("inner.maybe = 'x'", "inner.maybe"),
        ("[named.a]\nnumber = 1\n[named.b]\nnumber = 'x'", "named.b.number"),
        ("[[listed]]\nnumber = 1\n[[listed]]\nnumber = 'x'", "listed[1].number"),
        ("optional.flag = 'x'", "optional.flag"),
    ],
)
def test_a_wrong_value_is_named_with_its_path(text: str, path: str) -> None:
    """The name of a table in a table of tables is part of the path."""
    error = refused(text)

    assert str(error).startswith(f"c.toml: {path}: ")


@pytest.mark.parametrize(
    "text",
    [
        f"title = {SECRET}",
        f"title = '{SECRET}",
        f'title = "{SECRET}\\q"',
        f"title = 'x' {SECRET}",
        f"inner = '{SECRET}'",
        f"inner.number = '{SECRET}'",
        f"inner.colour = '{SECRET}'",
        f'inner.colour = "{SECRET}\' - at `$.title` {SECRET}"',
        f"inner.size = '{SECRET}'",
        f"inner.words = '{SECRET}'",
        f"named.a = '{SECRET}'",
        f"named.a.colour = '{SECRET}'",
        f"unknown = '{SECRET}'",
        f"inner.unknown = ['{SECRET}']",
    ],
)
def test_no_value_reaches_a_message(text: str) -> None:
    """A password on the wrong line stays where it was."""
    error = refused(text)

    assert SECRET not in str(error)
    assert SECRET not in error.hint


def test_a_message_is_one_printable_line() -> None:
    """Neither a terminal's escape sequences nor a megabyte of key come through."""
    error = refused(f'[named."\\u001b[31m{"k" * 5_000}"]\nnumbr = 1')

    assert str(error).isprintable()
    assert error.hint.isprintable()
    assert len(str(error)) < 300
    assert len(error.hint) < 300


@pytest.mark.parametrize(
    "text", ["inner.number = " + "9" * 5_000, "title = " + "[" * 20_000, "a" + ".a" * 2_000 + " = 1"]
)
def test_what_exhausts_the_reader_is_refused(text: str) -> None:
    """Numbers of thousands of digits, nesting beyond the reader's stack: an error of ours, not Python's."""
    error = refused(text)

    assert str(error).startswith("c.toml")


def test_an_error_of_the_settings_themselves_is_let_through() -> None:
    """A struct checks what its types cannot say; its error is already ours."""
    error = refused("mode = 'maybe'", Config)

    assert str(error) == "mode is enforce or observe"


def _toml(value: object) -> str:
    """A value as TOML text; TOML's basic strings and inline tables are nearly JSON's."""
    match value:
        case bool():
            return str(value).lower()
        case str():
            escaped = (char if char.isprintable() and char not in '"\\' else f"\\U{ord(char):08x}" for char in value)
            return f'"{"".join(escaped)}"'
        case dict():
            return "{" + ", ".join(f"{_toml(str(key))} = {_toml(each)}" for key, each in value.items()) + "}"
        case list() | tuple():
            return "[" + ", ".join(map(_toml, value)) + "]"
        case _:
            return repr(value)


def document(value: dict[str, Any]) -> str:
    return "".join(f"{_toml(key)} = {_toml(each)}\n" for key, each in value.items())


plain = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
inner = st.builds(
    Inner,
    number=st.integers(-(2**63), 2**63 - 1),
    ratio=st.floats(allow_nan=False),
    name=plain,
    flag=st.booleans(),
    size=st.sampled_from(["small", "large"]),
    words=st.lists(plain, max_size=3).map(tuple),
    maybe=st.integers(0, 99),
)
outer = st.builds(
    Outer,
    inner=inner,
    named=st.dictionaries(plain, inner, max_size=3),
    listed=st.lists(inner, max_size=3),
    optional=inner,
    title=plain,
)


@given(outer)
def test_a_valid_file_round_trips(value: Outer) -> None:
    """What a struct says, written as TOML, is read as the same struct."""
    text = document(msgspec.to_builtins(value))

    assert config.parse(text, Outer) == value


scalars = st.one_of(st.booleans(), st.integers(), st.floats(allow_nan=False), plain)
known = st.sampled_from(
    ["inner", "named", "listed", "optional", "title", "number", "ratio", "words", "colour", "maybe"]
)
trees = st.recursive(
    scalars,
    lambda below: st.lists(below, max_size=3) | st.dictionaries(known | plain, below, max_size=3),
    max_leaves=12,
)


def read_or_error(text: str, kind: type[T]) -> T | ConfigError:
    """What reading gives; anything but these two is a failure."""
    try:
        return config.parse(text, kind)
    except ConfigError as error:
        return error


@given(st.dictionaries(known | plain, trees, max_size=4))
@example({"named": {"a": {"colour": "x"}}})
def test_any_table_is_read_or_refused(value: dict[str, Any]) -> None:
    """TOML of any content gives the struct or a ConfigError of one printable line."""
    read = read_or_error(document(value), Outer)

    assert isinstance(read, Outer) or (str(read).isprintable() and read.hint.isprintable())


toml_like = st.text(st.sampled_from("[]{}=.,'\"\\#\n\r\t 0123456789eE+-_:TZinftrueab\x00é\U0001f6e1"), max_size=60)


@given(toml_like | st.text())
def test_any_text_is_read_or_refused(text: str) -> None:
    """Text of any content, TOML or not, gives the struct or a ConfigError."""
    read = read_or_error(text, Config)

    assert isinstance(read, Config) or str(read).isprintable()
