# SPDX-License-Identifier: Apache-2.0
"""Arbitrary text as a phrase file is read or refused with a ConfigError; what was read gives texts, or says why not."""

import contextlib
import random

from shieldwall.core.errors import ConfigError
from shieldwall.lab.grammar import Grammar

SEEDS: list[bytes] = [
    b"== a\none\n{b|cap} two\n== b\n{x/y} {1-9} \\{z\\}\n@ f.a benign prompt en 3 {a}\\n{b|json}\n",
    b"== a\n{a}\n@ f.a injection document en 1 {a}\n",
    b"# nothing\n\n== a\n{9-1}{/}{|}{a||cap}\n",
    b"@ f benign prompt en 1 \\{\\}\n@ f benign prompt en 1 x\n",
    b"== a\n{99999999999999999999-1}\n@ f.a benign prompt en 1 {a}\n",
]


def fuzz(data: bytes) -> None:
    """Try one input."""
    with contextlib.suppress(ConfigError):
        grammar = Grammar([("own.txt", data.decode("utf-8", "replace"))])
        for name in list(grammar.families)[:5]:
            assert isinstance(grammar.make(name, random.Random(1)), str)
