# SPDX-License-Identifier: Apache-2.0
"""Whatever stands in a configuration file, reading it gives a Config or a ConfigError of one printable line.

What is read once is read again alike; nothing is ever kept of a file that was refused.
"""

import msgspec

from shieldwall.core import config
from shieldwall.core.errors import ConfigError
from shieldwall.node import Config

SEEDS: list[bytes] = [
    b"",
    b'listen = "127.0.0.1:8787"\nmode = "observe"\nprofile = "strict"\nname = "edge-1"\ninsecure = true\n',
    b"[gateway]\nmax_body_bytes = 1_000\nidle_timeout_s = 2.5\n",
    b"[ledger]\nmax_pending = 10\n",
    b'[detect]\nrules = "rules"\n[policy]\npath = "p.cedar"\n',
    b'[tls]\ncertificate = "c.pem"\nkey = "k.pem"\n',
    b'[upstreams.one]\nurl = "https://example.org/v1"\nmodels = ["a", "b-*"]\nkey_env = "K"\n',
    b'[upstreams]\none = {url = "demo:", dialect = "demo"}\ntwo = {url = "http://[::1]", key_file = "/k"}\n',
    b'listen = "[::1]:0"\n',
    b'listen = ":1"\n',
    b"gateway.max_body_bytes = " + b"9" * 5_000,
    b"x = " + b"[" * 2_000,
    b'mode = """\nobserve"""\n',
    b"name = 1979-05-27T07:32:00Z\n",
    b"upstreams = [[1], {a = 2}]\n",
    b'"\\u001b[31m" = 1\n',
]


def fuzz(data: bytes) -> None:
    """One input. Returns when the property holds, raises when it does not."""
    text = data.decode("utf-8", "replace")
    try:
        read = config.parse(text, Config, source="c.toml")
    except ConfigError as error:
        for line in (str(error), error.hint):
            assert line.isprintable()
            assert len(line) < 1_000
        return
    assert config.struct_from(msgspec.to_builtins(read), Config) == read or read != read
