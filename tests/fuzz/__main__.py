# SPDX-License-Identifier: Apache-2.0
"""Feeds every parser random and mutated input: `python -m tests.fuzz SECONDS [--seed N] [--only NAME]`.

The seconds are shared evenly by the targets. A run is named by its printed seed: the same seed gives the same inputs in
the same order. A failing input is kept in a file, and the exit code is 1.
"""

import argparse
import faulthandler
import importlib
import pkgutil
import random
import secrets
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import tests.fuzz

__all__ = ["Outcome", "inputs", "main", "run", "targets"]

MAX_BYTES = 8_192
"""Longest mutated input: what breaks a parser is rarely longer, and short inputs are tried by the thousand."""

TOKENS: tuple[bytes, ...] = (
    b"",
    b"\x00",
    b"\xff",
    b"\xef\xbb\xbf",
    b"\xed\xa0\x80",
    b"\xf0\x9f\x9b\xa1",
    b"\xf4\x90\x80\x80",
    b"\xe2\x80\x8b",
    b"\xc0\xaf",
    b"\\ud800",
    b"\\u0000",
    b"\\udc00\\ud800",
    b"\r\n",
    b"\n\n",
    b"\r",
    b"data: ",
    b"event: ",
    b": ",
    b"[DONE]",
    b"[" * 65,
    b'{"a":' * 65,
    b"]]",
    b"}}",
    b"{}",
    b"[]",
    b'""',
    b"null",
    b"true",
    b"-0",
    b"1e999",
    b"NaN",
    b"9" * 30,
    b"9" * 5_000,
    b"18446744073709551616",
    b"-9223372036854775809",
    b'"text"',
    b'"surface"',
    b'"role":"tool"',
    b'"type":"tool_result"',
    b'"content"',
    b'"tool_calls"',
    b'"stream":true',
    b'"model":"m"',
    b"/~0~1",
    b"../",
    b"%2e%2e",
    b"data:;base64,",
    b"SHIELDWALL-TEST-ATTACK-7f3a9c",
    b"ignore all previous instructions",
    b"(?:a+)+$",
    b"'''",
    b"[[a]]\n",
    b"a.b=1\n",
    b"1979-05-27T07:32:00Z",
    b'@id("x")',
    b"--",
)
"""Pieces that mean something to one of the parsers, or trouble them."""


class Target(NamedTuple):
    """One parser under test."""

    name: str
    fuzz: Callable[[bytes], None]
    seeds: Sequence[bytes]


class Outcome(NamedTuple):
    """What a run of one target gave."""

    executions: int
    failing: bytes | None
    error: BaseException | None


def targets(package: ModuleType = tests.fuzz) -> list[Target]:
    """Every `fuzz_*` module of a package, by name. Raises ValueError for one that is not a target."""
    found = []
    for each in pkgutil.iter_modules(package.__path__):
        if each.name.startswith("fuzz_"):
            module = importlib.import_module(f"{package.__name__}.{each.name}")
            fuzz, seeds = getattr(module, "fuzz", None), getattr(module, "SEEDS", None)
            if not callable(fuzz) or not seeds or not all(isinstance(seed, bytes) for seed in seeds):
                raise ValueError(f"{each.name} is no target: it needs `fuzz(data: bytes)` and `SEEDS: list[bytes]`")
            found.append(Target(each.name, fuzz, seeds))
    return sorted(found)


def inputs(seeds: Sequence[bytes], seed: str) -> Iterator[bytes]:
    """Without end: the seeds as they are, then mutations of them and, now and then, plain noise."""
    yield from seeds
    chance = random.Random(seed)
    while True:
        if chance.random() < 0.05:
            yield chance.randbytes(chance.randrange(64))
            continue
        data = bytearray(chance.choice(seeds))
        # Few changes mostly: an input that is nearly right gets deepest.
        for _ in range(min(1 + int(chance.expovariate(0.5)), 12)):
            chance.choice(_MUTATIONS)(data, seeds, chance)
        yield bytes(data[:MAX_BYTES])


def _place(data: bytearray, chance: random.Random) -> int:
    return chance.randrange(len(data) + 1)


def _flip(data: bytearray, _: Sequence[bytes], chance: random.Random) -> None:
    if data:
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)


def _byte(data: bytearray, _: Sequence[bytes], chance: random.Random) -> None:
    if data:
        data[chance.randrange(len(data))] = chance.randrange(256)


def _insert(data: bytearray, _: Sequence[bytes], chance: random.Random) -> None:
    at = _place(data, chance)
    data[at:at] = chance.choice(TOKENS)


def _replace(data: bytearray, _: Sequence[bytes], chance: random.Random) -> None:
    at = _place(data, chance)
    data[at : at + chance.randrange(9)] = chance.choice(TOKENS)


def _cut(data: bytearray, _: Sequence[bytes], chance: random.Random) -> None:
    at = _place(data, chance)
    del data[at : at + chance.randrange(33)]


def _truncate(data: bytearray, _: Sequence[bytes], chance: random.Random) -> None:
    del data[_place(data, chance) :]


def _double(data: bytearray, _: Sequence[bytes], chance: random.Random) -> None:
    at = _place(data, chance)
    data[at:at] = data[at : at + chance.randrange(65)] * chance.choice((1, 1, 2, 16))


def _splice(data: bytearray, seeds: Sequence[bytes], chance: random.Random) -> None:
    other = chance.choice(seeds)
    data[_place(data, chance) :] = other[chance.randrange(len(other) + 1) :]


def _swap(data: bytearray, _: Sequence[bytes], chance: random.Random) -> None:
    one, two = _place(data, chance), _place(data, chance)
    data[one : one + 8], data[two : two + 8] = data[two : two + 8], data[one : one + 8]


_MUTATIONS = (_flip, _byte, _insert, _replace, _cut, _truncate, _double, _splice, _swap)


def run(target: Target, seconds: float, seed: str) -> Outcome:
    """Try inputs until the time is over or one fails. The seeds themselves are tried however short the time is."""
    end = time.monotonic() + seconds
    done = 0
    for data in inputs(target.seeds, f"{seed}/{target.name}"):
        if done >= len(target.seeds) and time.monotonic() >= end:
            break
        try:
            target.fuzz(data)
        except Exception as error:  # noqa: BLE001  whatever is raised is what is looked for
            return Outcome(done + 1, data, error)
        done += 1
    return Outcome(done, None, None)


def main(arguments: Sequence[str] | None = None, package: ModuleType = tests.fuzz) -> int:
    """Run all targets; 0 when every property held, 1 when one broke, 64 when nothing fits `--only`."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("seconds", type=float, help="wall time for all targets together")
    parser.add_argument("--seed", default="", help="what an earlier run printed, to have its inputs again")
    parser.add_argument("--only", default="", metavar="NAME", help="targets whose name holds this")
    parsed = parser.parse_args(arguments)
    chosen = [target for target in targets(package) if parsed.only in target.name]
    if not chosen:
        print(f"fuzz: no target holds {parsed.only!r} in its name", file=sys.stderr)
        return 64
    seed = parsed.seed or secrets.token_hex(8)
    print(f"fuzz: {len(chosen)} targets, {parsed.seconds:g} s, seed {seed}", flush=True)
    failed = 0
    for target in chosen:
        outcome = run(target, parsed.seconds / len(chosen), seed)
        print(
            f"{'FAIL' if outcome.error else 'ok  '}  {target.name:<20} {outcome.executions:>9} executions", flush=True
        )
        if outcome.error is not None and outcome.failing is not None:
            failed += 1
            _tell(target, outcome.failing, outcome.error)
    return int(failed > 0)


def _tell(target: Target, data: bytes, error: BaseException) -> None:
    with tempfile.NamedTemporaryFile(prefix=f"{target.name}-", suffix=".bin", delete=False) as file:
        file.write(data)
    traceback.print_exception(error, file=sys.stderr)
    print(f"      {len(data)} bytes in {Path(file.name)}: {data[:64].hex(' ')}", flush=True)


if __name__ == "__main__":
    # A parser written in C may take the process with it: then at least the Python side of it is shown.
    faulthandler.enable()
    sys.exit(main())
