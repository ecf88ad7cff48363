# SPDX-License-Identifier: Apache-2.0
"""`shieldwall replay FILE`: recorded requests through the whole path, to see what a policy would have done.

A file holds one JSON object a line: `{"dialect": "openai"|"anthropic", "request": {…}, "response"?: {…}}`. A bare
request body is taken for what it looks like. Nothing is sent anywhere; with `--data` the verdicts are recorded.
"""

import argparse
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import msgspec

from shieldwall.core.errors import InvalidInput
from shieldwall.core.event import Direction, Event, event_id, utc
from shieldwall.core.guard import Guard, Surroundings
from shieldwall.core.verdict import Verdict
from shieldwall.gateway import Anthropic, OpenAI
from shieldwall.node import Config, DataDirectory, load_config, make_guard, surroundings

__all__ = ["add"]

_DIALECTS: dict[str, OpenAI | Anthropic] = {"openai": OpenAI(), "anthropic": Anthropic()}
_MAX_LINE = 32 << 20
_BAR = 30


def add(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Describe the verb."""
    verb = verbs.add_parser("replay", help="judge recorded requests", description=__doc__)
    verb.add_argument("file", metavar="FILE", type=Path, help="JSON lines")
    verb.add_argument("--config", metavar="FILE", type=Path, help="configuration file")
    verb.add_argument("--data", metavar="DIR", help="record the verdicts in this data directory")
    verb.add_argument("--profile", choices=("permissive", "balanced", "strict"))
    verb.add_argument("--json", action="store_true", help="print one verdict a line instead of the summary")
    verb.set_defaults(run=run)


class _Tally:
    def __init__(self) -> None:
        self.actions: Counter[str] = Counter()
        self.rules: Counter[str] = Counter()
        self.unreadable: list[str] = []

    def take(self, verdict: Verdict) -> None:
        self.actions[verdict.action.value] += 1
        self.rules.update(finding.rule for finding in verdict.findings)


def run(arguments: argparse.Namespace) -> int:
    """Replay a file; exit code 1 when anything was flagged or stopped, 2 when lines could not be read."""
    options = {"data": arguments.data, "profile": arguments.profile}
    config = load_config(arguments.config, {name: value for name, value in options.items() if value})
    tally = _Tally()
    try:
        file = arguments.file.open("rb")
    except OSError as error:
        raise InvalidInput(f"{arguments.file} cannot be read: {error.strerror}") from None
    start = time.monotonic()
    with file, _guard(config) as (guard, at):
        bar = _Bar(arguments.file.stat().st_size)
        for number, line in enumerate(_lines(file), 1):
            try:
                verdicts = _replay(guard, at, line)
            except InvalidInput as error:
                where = f" at {error.where}" if error.where else ""
                tally.unreadable.append(f"line {number}{where}: {error}")
                continue
            finally:
                bar.add(len(line))
            for verdict in verdicts:
                tally.take(verdict)
                if arguments.json:
                    sys.stdout.buffer.write(msgspec.json.encode(verdict) + b"\n")
        bar.end()
    sys.stdout.flush()
    _summary(tally, time.monotonic() - start, out=sys.stderr if arguments.json else sys.stdout)
    if tally.unreadable:
        return 2
    return int(any(action != "allow" for action in tally.actions))


@contextmanager
def _guard(config: Config) -> Iterator[tuple[Guard, Surroundings]]:
    if not config.data:
        at = surroundings(config, b"replay")
        yield make_guard(config, at, None, None), at
        return
    with DataDirectory(Path(config.data)) as data:
        at = surroundings(config, data.secret("subject"))
        journal = data.journal(config.ledger)
        try:
            yield make_guard(config, at, journal, None), at
        finally:
            journal.close()


def _lines(file: IO[bytes]) -> Iterator[bytes]:
    while line := file.readline(_MAX_LINE):
        if line.strip():
            yield line


def _replay(guard: Guard, at: Surroundings, line: bytes) -> list[Verdict]:
    """Judge one recorded exchange."""
    try:
        record: Any = msgspec.json.decode(line)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise InvalidInput("not a JSON object") from None
    if not isinstance(record, dict):
        raise InvalidInput("not a JSON object")
    if "request" not in record:
        record = {"request": record}
    name = record.get("dialect") or _guess(record["request"])
    dialect = _DIALECTS.get(name) if isinstance(name, str) else None
    if dialect is None:
        raise InvalidInput("`dialect` is openai or anthropic", where="/dialect")
    ask = dialect.ask(msgspec.json.encode(record["request"]))
    now = at.clock()
    event = Event(
        id=event_id(now, at.entropy(10)),
        time=utc(now),
        tenant="replay",
        principal="replay",
        model=ask.model,
        route="replay",
        dialect=dialect.name,
        segments=ask.segments,
    )
    verdicts = [_settled(guard, event, ask.uninspected)]
    if "response" in record:
        segments, also = dialect.answer(msgspec.json.encode(record["response"]))
        answer = msgspec.structs.replace(event, direction=Direction.RESPONSE, segments=segments)
        verdicts.append(_settled(guard, answer, also))
    return verdicts


def _settled(guard: Guard, event: Event, also: Any) -> Verdict:  # noqa: ANN401  a sequence of findings
    verdict, recorded = guard.judge(event, also=also)
    return verdict if recorded is None else msgspec.structs.replace(verdict, entry=recorded.result())


def _guess(request: object) -> str:
    """Which dialect a bare body speaks: only Anthropic puts the system prompt beside the messages."""
    return (
        "anthropic"
        if isinstance(request, dict) and ("system" in request or "anthropic_version" in request)
        else "openai"
    )


class _Bar:
    """Progress on standard error, where a person is watching."""

    def __init__(self, total: int) -> None:
        self._total = max(total, 1)
        self._done = 0
        self._shown = -1
        self._live = sys.stderr.isatty()

    def add(self, size: int) -> None:
        self._done += size
        percent = min(100, 100 * self._done // self._total)
        if self._live and percent != self._shown:
            self._shown = percent
            filled = _BAR * percent // 100
            print(f"\r[{'#' * filled}{' ' * (_BAR - filled)}] {percent:3d} %", end="", file=sys.stderr, flush=True)

    def end(self) -> None:
        if self._live:
            print("\r" + " " * (_BAR + 9) + "\r", end="", file=sys.stderr, flush=True)


def _summary(tally: _Tally, seconds: float, *, out: Any) -> None:  # noqa: ANN401  a text stream
    judged = sum(tally.actions.values())
    print(f"{judged} messages judged in {seconds:.1f} s", file=out)
    for action in ("allow", "flag", "redact", "hold", "block"):
        if tally.actions[action]:
            print(f"  {action:<7}{tally.actions[action]:>8}  {100 * tally.actions[action] / judged:5.1f} %", file=out)
    for rule, count in tally.rules.most_common(10):
        print(f"  {count:>8}  {rule}", file=out)
    for line in tally.unreadable[:10]:
        print(f"shieldwall: not judged: {line}", file=sys.stderr)
    if len(tally.unreadable) > 10:
        print(f"shieldwall: not judged: {len(tally.unreadable) - 10} more lines", file=sys.stderr)
