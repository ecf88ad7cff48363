# SPDX-License-Identifier: Apache-2.0
"""Every error Shieldwall raises on purpose, as one tree.

Error:
    ├── ConfigError          the configuration file, an option or a rule file is wrong
    │   ├── RuleError        a detection rule cannot be used
    │   └── PolicyError      a policy cannot be used
    ├── InvalidInput         what a client, an upstream or a file sent cannot be read
    │   └── LimitExceeded    it is larger, deeper or slower than allowed
    ├── Unauthorized         no key, or a key that is not known
    ├── Forbidden            the key is known, but its role may not do this
    ├── UpstreamError        the model's endpoint failed
    │   └── UpstreamTimeout  it did not answer in time
    ├── Overloaded           too much is waiting; nothing was recorded
    ├── JournalError         the journal can no longer promise durability
    │   └── JournalCorrupt   an acknowledged entry does not read back
    ├── DataLocked           another process owns the data directory
    ├── SelfTestFailed       a detector missed its known-bad example
    └── MissingExtra         an optional dependency is not installed

A message says what is wrong and where; `hint` says what to do. Neither repeats a prompt or a secret.
"""

__all__ = [
    "ConfigError",
    "DataLocked",
    "Error",
    "Forbidden",
    "InvalidInput",
    "JournalCorrupt",
    "JournalError",
    "LimitExceeded",
    "MissingExtra",
    "Overloaded",
    "PolicyError",
    "RuleError",
    "SelfTestFailed",
    "Unauthorized",
    "UpstreamError",
    "UpstreamTimeout",
]


class Error(Exception):
    """Root of the tree. `str(error)` is for people: lower case, no full stop."""

    hint: str = ""

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        if hint is not None:
            self.hint = hint


class ConfigError(Error):
    """A setting is wrong. The message names its path, such as `gateway.max_body_bytes`."""


class RuleError(ConfigError):
    """A detection rule cannot be loaded. The message names the file and the rule."""


class PolicyError(ConfigError):
    """A policy cannot be parsed or does not fit the schema."""


class InvalidInput(Error):
    """Input from outside cannot be read. Answer 400 in the caller's dialect; nothing was forwarded."""

    def __init__(self, message: str, *, where: str = "", hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.where = where
        """JSON Pointer of the field at fault, empty for the whole message."""


class LimitExceeded(InvalidInput):
    """Input is over a stated limit. Answer 413; the rest of it was not read."""


class Unauthorized(Error):
    """No usable key came with the request. Answer 401."""

    hint = "create a key with `shieldwall keys create NAME --data DIR` and send it as a Bearer token"


class Forbidden(Error):
    """The key is known, but its role may not do this. Answer 403."""


class UpstreamError(Error):
    """The model's endpoint could not be reached or broke off. Answer 502; the client may retry."""


class UpstreamTimeout(UpstreamError):
    """The model's endpoint did not answer in time. Answer 504; the client may retry."""


class Overloaded(Error):
    """The journal cannot take more entries now. Answer 503 with Retry-After; nothing was recorded."""

    hint = "raise [ledger] max_pending, or add a node"


class JournalError(Error):
    """The disk refused a write or a sync. The journal takes no more entries; restart after mending the disk."""


class JournalCorrupt(JournalError):
    """An acknowledged entry does not read back. The node refuses to start rather than lose it silently."""


class DataLocked(Error):
    """Another process owns the data directory."""

    hint = "stop the other node, or choose another directory with --data"


class SelfTestFailed(Error):
    """A detector did not find its own known-bad example. The node does not start with a blind guard."""


class MissingExtra(Error):
    """An optional dependency is not installed. The hint is the line to type."""
