# SPDX-License-Identifier: Apache-2.0
"""An error becomes one answer, in the caller's dialect; what is our own fault tells a stranger nothing."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from shieldwall.core import errors
from shieldwall.core.errors import (
    Error,
    Forbidden,
    InvalidInput,
    LimitExceeded,
    Overloaded,
    Unauthorized,
    UpstreamError,
)
from shieldwall.gateway.anthropic import Anthropic
from shieldwall.gateway.dialect import Refusal
from shieldwall.gateway.openai import OpenAI
from shieldwall.gateway.refusal import refusal_of

TREE = json.loads((Path(__file__).parents[1] / "golden" / "errors.json").read_text())["tree"]
EVENT = "0190a0b0-0000-7000-8000-000000000001"
RETRIED = {408, 409, 429} | set(range(500, 600))


def test_a_child_is_answered_before_its_parent() -> None:
    """A body over a limit is 413 although it is invalid input too; a silent upstream 504 although it failed."""
    statuses = [
        refusal_of(each("x")).status for each in (LimitExceeded, InvalidInput, errors.UpstreamTimeout, UpstreamError)
    ]

    assert statuses == [413, 400, 504, 502]


def test_the_place_of_the_fault_is_named() -> None:
    """Where input was at fault, the pointer goes with the answer; elsewhere there is none."""
    assert refusal_of(InvalidInput("wrong", where="/messages/0")).where == "/messages/0"
    assert refusal_of(Overloaded("full")).where == ""


def test_a_model_that_nobody_serves_is_not_found() -> None:
    """404 with the code both clients know."""
    refusal = refusal_of(InvalidInput("no upstream serves this model in this dialect", where="/model"))

    assert (refusal.status, refusal.kind, refusal.code) == (404, "not_found", "model_not_found")


def test_a_model_of_the_wrong_kind_is_a_bad_request() -> None:
    """The same member, another fault."""
    refusal = refusal_of(InvalidInput("`model` must be a non-empty string", where="/model"))

    assert (refusal.status, refusal.kind) == (400, "invalid_request")


@pytest.mark.parametrize("kind", [InvalidInput, Unauthorized, Forbidden])
def test_what_the_caller_can_mend_comes_with_its_hint(kind: type[Error]) -> None:
    """The hint for the caller is part of the message."""
    assert refusal_of(kind("wrong", hint="do this")).message == "wrong; do this"


@pytest.mark.parametrize("kind", [Overloaded, UpstreamError, errors.JournalError])
def test_the_operators_hint_stays_here(kind: type[Error]) -> None:
    """How this node is set up is no business of its callers."""
    assert refusal_of(kind("wrong", hint="raise [ledger] max_pending")).message == "wrong"


@pytest.mark.parametrize("name", [name for name, (_, status, _) in TREE.items() if status == 500])
def test_a_fault_of_ours_tells_nothing(name: str) -> None:
    """No path, no setting, no name of ours leaves with a 500."""
    refusal = refusal_of(getattr(errors, name)("/srv/secret/path is broken", hint="look into /srv/secret"))

    assert refusal == Refusal(500, "internal", "the gateway failed; the operator's log says why")


@pytest.mark.parametrize("name", TREE)
@pytest.mark.parametrize("dialect", [OpenAI(), Anthropic()])
def test_every_refusal_is_an_error_in_the_callers_dialect(name: str, dialect: Any) -> None:
    """Whole and in mid-stream: the shape that the dialect's own clients raise, with the event's id."""
    refusal = refusal_of(getattr(errors, name)("what is wrong"))

    whole = msgspec.json.decode(dialect.error(refusal, EVENT))
    stream = dialect.stream_error(refusal, EVENT)
    data = next(line for line in stream.splitlines() if line.startswith(b"data: ")).removeprefix(b"data: ")

    for body in (whole, msgspec.json.decode(data)):
        assert body["error"]["message"].startswith(refusal.message)
        assert isinstance(body["error"]["type"], str)
        assert (body.get("type") == "error") is isinstance(dialect, Anthropic)
    assert stream.endswith(b"\n\n")
    assert stream.startswith(b"event: error\n") is isinstance(dialect, Anthropic)
    assert EVENT in json.dumps(whole)


def test_only_passing_troubles_have_a_status_that_clients_retry() -> None:
    """A client that tries again by itself must not do so with a request that is wrong or forbidden."""
    final = (InvalidInput, LimitExceeded, Unauthorized, Forbidden)
    passing = (Overloaded, UpstreamError, errors.UpstreamTimeout)

    assert not RETRIED & {refusal_of(kind("x")).status for kind in final}
    assert {refusal_of(kind("x")).status for kind in passing} <= RETRIED
