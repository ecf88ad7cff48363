# SPDX-License-Identifier: Apache-2.0
"""Every place of a message where a string can stand, read off the clients' own typed models.

`places(type)` walks TypedDicts, pydantic models, unions, lists and dictionaries and yields one `Place` per string it
can reach, each able to build the smallest valid message that carries a given string there. A field that a new version
of a client adds is a new place, and the coverage matrix asks about it without anybody having to remember. A type the
walker does not know is an error, never a field left out.

A type that contains itself is entered once per path; what lies deeper has the same fields.
"""

import datetime as dt
import enum
import os
import typing
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin

import pydantic
import typing_extensions

__all__ = ["BENIGN", "Kind", "Place", "minimal", "places"]

BENIGN = "good day"
"""Stands in every string of a message apart from the one that is looked at."""

_DEEP = 6
"""Levels below which the deep places of free JSON lie."""

_TEXTS = (str, dt.datetime, dt.date)
_SILENT = (int, float, bool, type(None), os.PathLike)
"""What has no text on the wire; a path is what the client opens, it sends the contents as a string."""
_WRAPPERS: tuple[Any, ...] = (
    typing.Required,
    typing.NotRequired,
    typing_extensions.Required,
    typing_extensions.NotRequired,
)
_REQUIRED: tuple[Any, ...] = (typing.Required, typing_extensions.Required)
_NOTED: tuple[Any, ...] = (typing.Annotated, typing_extensions.Annotated)


class Kind(enum.Enum):
    """What a string is to the protocol."""

    TEXT = "text"
    ENUMERATION = "enumeration"
    NAME = "name"
    """A member name that the sender chooses."""


class Place(NamedTuple):
    """One string of a message."""

    label: str
    """The path with the type taken at each union, unique in its model."""
    pointer: tuple[str | int, ...]
    """Reference tokens of the path on the wire; for a name, up to and with the name: None where it stands."""
    kind: Kind
    legal: tuple[str, ...]
    """Values of an enumeration."""
    build: Callable[[str], Any]
    """Smallest valid message with this string there."""
    types: tuple[str, ...]
    """Names of the models on the way, outermost first."""


_Shape = dict[str, tuple[Any, bool]]
"""Fields of a model: name on the wire -> type, required."""


def places(kind: Any) -> Iterator[Place]:
    """Every string of a model, in the order of its fields."""
    yield from _places(kind, ())


def minimal(kind: Any, above: tuple[Any, ...] = ()) -> Any:
    """The smallest valid value of a type: required fields alone, one item in each list."""
    kind = _bare(kind)
    origin = get_origin(kind)
    if origin is Literal:
        return get_args(kind)[0]
    options = _options(kind)
    if options is not None:
        return minimal(_simplest(options, above), above)
    if _is_list(origin):
        return [minimal(get_args(kind)[0], above)]
    if _is_mapping(kind, origin):
        return {}
    shape = _shape(kind)
    if shape is not None:
        inside = (*above, kind)
        return {name: minimal(field, inside) for name, (field, required) in shape.items() if required}
    return {str: BENIGN, int: 1, float: 0.5, bool: False, type(None): None}.get(kind, BENIGN)


def _places(kind: Any, above: tuple[Any, ...]) -> Iterator[Place]:  # noqa: C901  one branch per kind of type
    kind = _bare(kind)
    origin = get_origin(kind)
    shape = _shape(kind)
    if kind in _TEXTS:
        yield Place("", (), Kind.TEXT, (), _itself, _names(above))
    elif origin is Literal:
        legal = tuple(value for value in get_args(kind) if isinstance(value, str))
        if legal:
            yield Place("", (), Kind.ENUMERATION, legal, _itself, _names(above))
    elif (options := _options(kind)) is not None:
        for option in options:
            yield from (_within(place, f"<{_name(option)}>") for place in _places(option, above))
    elif _is_list(origin):
        yield from (_within(place, "/0", (0,), _listed) for place in _places(get_args(kind)[0], above))
    elif _is_mapping(kind, origin):
        yield from _mapping(get_args(kind)[1] if get_args(kind) else object, above)
    elif kind is object or kind is Any:
        yield from _free(above)
    elif shape is not None:
        yield from _fields(shape, kind, above) if kind not in above else ()
    elif kind not in _SILENT and origin is not typing.IO:
        raise TypeError(f"the walker does not know {kind!r}")


def _fields(shape: _Shape, kind: Any, above: tuple[Any, ...]) -> Iterator[Place]:
    base = minimal(kind, above)
    inside = (*above, kind)
    for name, (field, _) in shape.items():

        def put(value: Any, name: str = name) -> Any:
            return {**base, name: value}

        for place in _places(field, inside):
            yield _within(place, f"/{name}", (name,), put)


def _mapping(value: Any, above: tuple[Any, ...]) -> Iterator[Place]:
    """A dictionary whose names the sender chooses."""
    yield Place("/*name*", (), Kind.NAME, (), lambda text: {text: minimal(value, above)}, _names(above))
    for place in _places(value, above):
        yield _within(place, "/*", ("member",), lambda inner: {"member": inner})


def _free(above: tuple[Any, ...]) -> Iterator[Place]:
    """Any JSON: a string, a list, a member, a member's name, and the same some levels down."""
    types = _names(above)

    def deep(inner: Any) -> Any:
        for level in range(_DEEP):
            inner = {"deep": inner} if level % 2 else [inner]
        return inner

    steps: tuple[str | int, ...] = tuple("deep" if level % 2 else 0 for level in reversed(range(_DEEP)))
    yield Place("", (), Kind.TEXT, (), _itself, types)
    yield Place("/[1]", (1,), Kind.TEXT, (), lambda text: [1, text, None], types)
    yield Place("/{}", ("member",), Kind.TEXT, (), lambda text: {"member": text, "number": 1.5}, types)
    yield Place("/{*name*}", (), Kind.NAME, (), lambda text: {text: True}, types)
    yield Place("/deep", steps, Kind.TEXT, (), deep, types)
    yield Place("/deep/{*name*}", steps, Kind.NAME, (), lambda text: deep({text: 1}), types)


def _itself(value: Any) -> Any:
    return value


def _listed(value: Any) -> Any:
    return [value]


def _within(
    place: Place, label: str, steps: tuple[str | int, ...] = (), wrap: Callable[[Any], Any] | None = None
) -> Place:
    """The same place, one level further out."""
    inner = place.build
    build = inner if wrap is None else (lambda text: wrap(inner(text)))
    return place._replace(label=label + place.label, pointer=(*steps, *place.pointer), build=build)


def _names(types: tuple[Any, ...]) -> tuple[str, ...]:
    return tuple(each.__name__ for each in types)


def _bare(kind: Any) -> Any:
    """The type without its wrappers."""
    while True:
        origin = get_origin(kind)
        if origin in _NOTED:
            kind = kind.__origin__
        elif origin in _WRAPPERS:
            kind = get_args(kind)[0]
        elif isinstance(kind, typing_extensions.TypeAliasType):
            kind = kind.__value__
        else:
            return kind


def _options(kind: Any) -> tuple[Any, ...] | None:
    if get_origin(kind) is Union or type(kind).__name__ == "UnionType":
        return get_args(kind)
    if isinstance(kind, typing.TypeVar):
        return kind.__constraints__ or None
    return None


def _simplest(options: tuple[Any, ...], above: tuple[Any, ...]) -> Any:
    """The first option that JSON has and that does not contain what we are inside of."""
    for option in options:
        bare = _bare(option)
        if bare is not type(None) and bare not in above:
            return option
    return options[0]


def _is_list(origin: Any) -> bool:
    name = getattr(origin, "__name__", "")
    return name in ("list", "List", "Iterable", "Sequence", "SequenceNotStr", "tuple")


def _is_mapping(kind: Any, origin: Any) -> bool:
    return kind is dict or (isinstance(origin, type) and issubclass(origin, (dict, Mapping)))


_SHAPES: dict[Any, _Shape | None] = {}


def _shape(kind: Any) -> _Shape | None:
    """The fields of a model, or None where the type is not one."""
    try:
        if kind in _SHAPES:
            return _SHAPES[kind]
    except TypeError:
        return None
    shape = None
    if typing_extensions.is_typeddict(kind):
        shape = _typed_dict(kind)
    elif isinstance(kind, type) and issubclass(kind, pydantic.BaseModel):
        fields = {}
        for name, field in kind.model_fields.items():
            annotation: Any = field.annotation
            for note in field.metadata:
                annotation = typing.Annotated[annotation, note]
            fields[field.alias or name] = (annotation, field.is_required())
        shape = fields
    _SHAPES[kind] = shape
    return shape


def _typed_dict(kind: Any) -> _Shape:
    fields = {}
    for name, hint in typing_extensions.get_type_hints(kind, include_extras=True).items():
        inner: Any = hint
        required, wire = bool(kind.__total__), name
        while (origin := get_origin(inner)) in (*_WRAPPERS, *_NOTED):
            if origin in _NOTED:
                wire = next((note.alias for note in inner.__metadata__ if getattr(note, "alias", None)), wire)
                inner = inner.__origin__
            else:
                required = origin in _REQUIRED
                inner = get_args(inner)[0]
        fields[wire] = (hint, required)
    return fields


def _name(option: Any) -> str:
    bare = _bare(option)
    return getattr(bare, "__name__", None) or str(bare)
