# SPDX-License-Identifier: Apache-2.0
"""Typed TOML: one frozen struct per column, joined by the node, filled from one file.

A wrong key is named with its path and the nearest right one; a wrong value with its path and what was expected.
"""

import difflib
import re
import tomllib
import types
import typing
from typing import Any, TypeVar

import msgspec

from shieldwall.core.errors import ConfigError

__all__ = ["parse", "struct_from", "table"]

T = TypeVar("T")

_QUOTING = ("Invalid enum value", "Invalid value")


def parse(text: str, kind: type[T], *, source: str = "config") -> T:
    """Read TOML text into a settings struct.

    Args:
        text: The file's content.
        kind: A frozen msgspec struct.
        source: What to call the file in messages.

    Raises:
        ConfigError: Not TOML, an unknown key, or a value of the wrong kind. The message holds no value of the file.
    """
    return struct_from(table(text, source=source), kind, source=source)


def table(text: str, *, source: str = "config") -> dict[str, Any]:
    """TOML text as a plain table, for callers that lay options over it. Raises ConfigError."""
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        reason = _bounded(str(error))
    except RecursionError:
        reason = "it nests too deep"
    except ValueError:
        # Python refuses to read an integer of thousands of digits, and says so with an error of its own.
        reason = "a number is too long"
    raise ConfigError(f"{source} is not TOML: {reason}", hint="see docs/configuration.md")


def struct_from(data: dict[str, Any], kind: type[T], *, source: str = "config") -> T:
    """The same for values that are already parsed, such as command line options joined with a file."""
    _refuse_unknown(data, kind, "", source)
    try:
        return msgspec.convert(data, kind)
    except msgspec.ValidationError as error:
        reason, _, place = str(error).rpartition(" - at ")
        # Of a wrong word msgspec repeats the value; it may be a secret on a wrong line.
        reason = next((known for known in _QUOTING if reason.startswith(known)), reason)
        path = place.removeprefix("`key` in ").strip("`").removeprefix("$").removeprefix(".")
        where = _bounded(_named(data, kind, path)) or "top level"
        raise ConfigError(f"{source}: {where}: {_bounded(reason[:1].lower() + reason[1:])}") from None


def _refuse_unknown(data: object, kind: object, path: str, source: str) -> None:
    """Walk the data beside the types and name the first key nobody asked for."""
    struct = _struct_in(kind)
    if struct is not None and isinstance(data, dict):
        fields = {field.encode_name: field.type for field in msgspec.structs.fields(struct)}
        for key, value in data.items():
            here = f"{path}.{key}" if path else key
            if key not in fields:
                near = difflib.get_close_matches(key, fields, n=1, cutoff=0.5)
                hint = (
                    f"did you mean {_bounded(path)}{'.' if path else ''}{near[0]}?"
                    if near
                    else f"known keys: {', '.join(fields)}"
                )
                raise ConfigError(f"{source}: unknown key {_bounded(here)}", hint=hint)
            _refuse_unknown(value, fields[key], here, source)
        return
    arguments = typing.get_args(kind)
    if typing.get_origin(kind) is dict and isinstance(data, dict):
        for key, value in data.items():
            _refuse_unknown(value, arguments[1], f"{path}.{key}", source)
    elif typing.get_origin(kind) in (list, tuple) and isinstance(data, list):
        for index, value in enumerate(data):
            _refuse_unknown(value, arguments[0], f"{path}[{index}]", source)


def _named(data: object, kind: object, path: str) -> str:
    """The path with the name of the table's member at fault, where msgspec says `[...]`."""
    head, unnamed, rest = path.partition("[...]")
    struct = _struct_in(kind)
    if not unnamed or struct is None or not isinstance(data, dict):
        return path
    kinds = {field.encode_name: field.type for field in msgspec.structs.fields(struct)}
    members = data.get(head)
    for name, member in members.items() if isinstance(members, dict) and head in kinds else ():
        try:
            msgspec.convert({name: member}, kinds[head])
        except msgspec.ValidationError:
            return f"{head}.{name}{rest}"
    return path


def _struct_in(kind: object) -> type[msgspec.Struct] | None:
    """The struct a field holds, also when it may be absent."""
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        return next((found for part in typing.get_args(kind) if (found := _struct_in(part))), None)
    return kind if isinstance(kind, type) and issubclass(kind, msgspec.Struct) else None


def _bounded(text: str) -> str:
    """One printable line of at most 200 characters: file content never floods a terminal."""
    return re.sub(r"[^\x20-\x7e]", "?", text)[:200]
