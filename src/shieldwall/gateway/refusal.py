# SPDX-License-Identifier: Apache-2.0
"""What each error of the tree becomes on the wire."""

from shieldwall.core.errors import (
    Error,
    Forbidden,
    InvalidInput,
    JournalError,
    LimitExceeded,
    Overloaded,
    Unauthorized,
    UpstreamError,
    UpstreamTimeout,
)
from shieldwall.gateway.dialect import Refusal

__all__ = ["refusal_of"]

_STATUS: tuple[tuple[type[Error], int, str], ...] = (
    (LimitExceeded, 413, "too_large"),
    (InvalidInput, 400, "invalid_request"),
    (Unauthorized, 401, "authentication"),
    (Forbidden, 403, "permission"),
    (Overloaded, 503, "overloaded"),
    (JournalError, 503, "overloaded"),
    (UpstreamTimeout, 504, "timeout"),
    (UpstreamError, 502, "upstream"),
)


def refusal_of(error: Error) -> Refusal:
    """The answer for an error. Anything that is not listed is a fault of ours: 500, and no detail leaves."""
    for kind, status, word in _STATUS:
        if isinstance(error, kind):
            where = error.where if isinstance(error, InvalidInput) else ""
            if where == "/model" and "upstream" in str(error):
                return Refusal(404, "not_found", str(error), where, "model_not_found")
            return Refusal(status, word, _with_hint(error), where)
    return Refusal(500, "internal", "the gateway failed; the operator's log says why")


def _with_hint(error: Error) -> str:
    return (
        f"{error}; {error.hint}"
        if error.hint and isinstance(error, (InvalidInput, Unauthorized, Forbidden))
        else str(error)
    )
