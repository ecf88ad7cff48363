# SPDX-License-Identifier: Apache-2.0
"""Whatever stands in a policy file, loading it gives a policy or a PolicyError, and a loaded policy decides.

A crash of the process counts as a failure too: the engine itself has no bound on nesting.
"""

import datetime as dt

from shieldwall.core.errors import PolicyError
from shieldwall.core.event import Event, Segment, Surface
from shieldwall.core.verdict import Category, Decision, Finding
from shieldwall.govern import CedarPolicy

_PASS = b'@id("p") permit (principal, action, resource);\n'

SEEDS: list[bytes] = [
    b"",
    b"// only words",
    _PASS,
    _PASS + b'@id("b") @action("block") forbid (principal, action, resource) when { context.score >= 80 };',
    _PASS + b'@id("h") @action("hold") forbid (principal, action, resource) when { context.model like "a*;//" };',
    b'@id("t") permit (principal, action, resource) when { context has trust && context.trust == Trust::"user" };',
    b'@id("o") permit (principal, action, resource) when { context.score * 9223372036854775807 > 1 };',
    b'@id("d") permit (principal, action, resource) when { ' + b"(" * 5_000 + b"true" + b")" * 5_000 + b" };",
    b'@id("c") permit (principal, action, resource) when { ' + b"true && " * 20_000 + b"true };",
    b'@id("i") permit (principal, action, resource) when { ' + b"if true then true else " * 9_000 + b"true };",
    b'@id("s") permit (principal == ?principal, action, resource);',
    b'@id("u") permit (principal, action, resource) when { "\xff" };',
    b'@id("q") permit (principal, action, resource) when { "no end };',
    b'@id("r") permit (principal, action, resource) // \r when { ' + b"[" * 2_000 + b"]" * 2_000 + b" == [] }\n;",
]

_EVENT = Event(
    id="00000000-0000-7000-8000-000000000000",
    time=dt.datetime(2026, 1, 1, tzinfo=dt.UTC),
    segments=(Segment("x", path="/a"),),
)
_FINDING = Finding(
    rule="shieldwall.injection.selftest.1", category=Category.INJECTION, score=1.0, surface=Surface.PROMPT, path="/a"
)


def fuzz(data: bytes) -> None:
    """One input. Returns when the property holds, raises when it does not."""
    try:
        policy = CedarPolicy({"fuzz.cedar": data})
    except PolicyError as error:
        message = str(error)
        assert len(message) < 1_000
        assert message.isprintable()
        return
    assert isinstance(policy.decide(_EVENT, (_FINDING,)), Decision)
