# SPDX-License-Identifier: Apache-2.0
"""A defence in a process and an environment of its own, asked line by line.

The program reads JSON lines `{"text": …, "surface": …}` from standard input and answers each with one line, in order:
`{"score": 0.93}`, and where it can `"flagged"` (true or false) and `"cpu_us"` (CPU time it took, microseconds); or
`{"failure": "short word"}`. `"name"` and `"version"` in an answer say what it is. That is how a peer is measured whose
dependencies do not go with ours.
"""

import math
import os
import shlex
import subprocess
import threading
import time
from collections.abc import Sequence
from typing import IO, Any

import msgspec

from shieldwall.core.errors import ConfigError
from shieldwall.lab.defence import PROBE, Description, Item, Judged, read_judgement

__all__ = ["Worker", "read_answer"]

_START_S = 120.0
"""Time for the first answer, seconds: a peer may load much."""
_ANSWER_S = 30.0
"""Time for any other answer. A program that is silent for longer is ended, and its texts fail."""
_WATCH_S = 0.2
_MAX_ANSWER_BYTES = 64 << 10
_MAX_WORD = 60


class Worker:
    """A program that answers JSON lines. Not safe to share between threads: it is asked one text at a time."""

    def __init__(self, command: str, answer_s: float = _ANSWER_S) -> None:
        """Start the program and try it on a harmless text.

        Args:
            command: Program and arguments, as a shell would split them; no shell runs.
            answer_s: Wall time for one answer after the first, seconds.

        Raises:
            ConfigError: It cannot be started, or does not answer as it should.
        """
        try:
            arguments = shlex.split(command)
            if not arguments:
                raise ConfigError("worker: names no program", hint="write worker:PROGRAM ARGUMENTS")
            self._process = subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE)  # noqa: S603
        except (OSError, ValueError) as error:
            raise ConfigError(f"the worker cannot be started: {type(error).__name__}") from None
        self.name = f"worker:{os.path.basename(arguments[-1])}"  # noqa: PTH119  any argument, not always a path
        self._version = ""
        self._answer_s = answer_s
        self._deadline = math.inf
        self._closed = threading.Event()
        threading.Thread(target=self._watch, daemon=True).start()
        first = self._ask(Item(PROBE), _START_S)
        if first.failure:
            self.close()
            raise ConfigError(f"{self.name} does not answer a harmless sentence: {first.failure}")

    def describe(self) -> Description:
        """See `Defence`."""
        return Description(kind="worker", version=self._version, is_local=False)

    def judge(self, items: Sequence[Item]) -> list[Judged]:
        """See `Defence`."""
        return [self._ask(item, self._answer_s) for item in items]

    def close(self) -> None:
        """End the program."""
        self._closed.set()
        for stream in (self._process.stdin, self._process.stdout):
            try:
                if stream is not None:
                    stream.close()
            except OSError:
                continue
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _ask(self, item: Item, limit_s: float) -> Judged:
        if self._process.poll() is not None:
            return Judged(failure="program ended")
        self._deadline = time.monotonic() + limit_s
        try:
            line = self._exchange(self._process.stdin, self._process.stdout, item)
        except OSError:
            return Judged(failure="program ended")
        finally:
            self._deadline = math.inf
        if not line.endswith(b"\n"):
            self._process.kill()
            return Judged(failure="answer too long" if len(line) >= _MAX_ANSWER_BYTES else "program ended")
        judged, names = read_answer(line)
        self._version = names.get("version", self._version)
        if "name" in names:
            self.name = f"worker:{names['name']}"
        return judged

    def _watch(self) -> None:
        """End a program that is silent for too long, which ends the wait for its answer.

        One thread for all answers: a timer for each would be a good part of a quick program's latency.
        """
        while not self._closed.wait(_WATCH_S):
            if time.monotonic() > self._deadline:
                self._process.kill()

    def _exchange(self, stdin: IO[bytes] | None, stdout: IO[bytes] | None, item: Item) -> bytes:
        if stdin is None or stdout is None:
            raise BrokenPipeError
        stdin.write(msgspec.json.encode({"text": item.text, "surface": item.surface}) + b"\n")
        stdin.flush()
        return stdout.readline(_MAX_ANSWER_BYTES)


def read_answer(line: bytes) -> tuple[Judged, dict[str, str]]:
    """One line of a program's output as a judgement, and the `name` and `version` it states."""
    try:
        value: Any = msgspec.json.decode(line)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return Judged(failure="answer is no JSON"), {}
    if not isinstance(value, dict):
        return Judged(failure="answer is no object"), {}
    names = {name: word for name in ("name", "version") if (word := _word(value.get(name)))}
    if failure := value.get("failure"):
        return Judged(failure=_word(failure) or "failed"), names
    flagged, cpu = value.get("flagged"), value.get("cpu_us")
    judged = read_judgement(value.get("score", flagged))
    if isinstance(flagged, bool):
        judged = judged._replace(flagged=flagged)
    if isinstance(cpu, int | float) and not isinstance(cpu, bool) and cpu >= 0:
        judged = judged._replace(cpu_us=float(cpu))
    return judged, names


def _word(value: object) -> str:
    """A short printable string; empty for anything else."""
    return value[:_MAX_WORD] if isinstance(value, str) and value.isprintable() else ""
