# SPDX-License-Identifier: Apache-2.0
"""Arbitrary bytes as a key file and as a request's headers: read, or refused with an error of ours; never let in.

The input is taken as the whole file, then, behind a sound file, as each of the two headers.
"""

import tempfile
from pathlib import Path

from shieldwall.core.errors import ConfigError, Unauthorized
from shieldwall.gateway.keys import ROLES, Keys

_ID = "0123456789ab"
_RECORD = b'{"id":"0123456789ab","name":"ann","role":"user","tenant":"t","sha256":"' + b"5a" * 32 + b'"}'
_FILE = b'{"v":1,"keys":[' + _RECORD + b"]}"

SEEDS: list[bytes] = [
    b"",
    _FILE,
    _FILE.replace(b'"v":1', b'"v":2'),
    _FILE.replace(b"5a", b"5 ", 1),
    _FILE.replace(b"5a" * 32, b""),
    b'{"v":1,"keys":[]}',
    b'{"v":1,"keys":[{"x":' + b"[" * 2_000,
    f"Bearer sw-{_ID}-{'0' * 64}".encode(),
    f"bearer sw-{_ID}-".encode(),
    f"sw-{_ID}".encode(),
    b"Basic YTpi",
    b"Bearer \xff\xfe-\x00-",
]

_DIRECTORY = tempfile.TemporaryDirectory(prefix="shieldwall-fuzz-keys-")
_SOUND = Path(_DIRECTORY.name) / "sound.json"
_SOUND.write_bytes(_FILE)
_KEYS = Keys(_SOUND)


def fuzz(data: bytes) -> None:
    """One input. Returns when the property holds, raises when it does not."""
    path = Path(_DIRECTORY.name) / "fuzzed.json"
    path.write_bytes(data)
    try:
        keys = Keys(path)
    except ConfigError:
        pass
    else:
        assert len(keys) <= len(data)
    for headers in ({b"authorization": data}, {b"x-api-key": data}, {b"authorization": b"Bearer " + data}):
        try:
            known = _KEYS.authenticate(headers, *ROLES)
        except Unauthorized:
            continue
        raise AssertionError(f"let in as {known.name}")
