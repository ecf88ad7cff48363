# SPDX-License-Identifier: Apache-2.0
"""`shieldwall inspect`: judge a text, or a stream of them, without a gateway and without keeping anything."""

import argparse
import sys
from typing import IO, Any

import msgspec

from shieldwall.core.errors import InvalidInput
from shieldwall.core.guard import Guard
from shieldwall.core.verdict import Action, Verdict
from shieldwall.gateway import answer_of, read_item
from shieldwall.node import Config, make_guard, surroundings

__all__ = ["add"]

_MAX_BYTES = 32 << 20


def add(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Describe the verb."""
    verb = verbs.add_parser(
        "inspect",
        help="judge a text",
        description="Judge a text with profile balanced.",
        epilog="exit codes: 0 nothing found, 1 found something, 2 could not tell, 64 usage",
    )
    verb.add_argument(
        "text", metavar="TEXT", nargs="?", default="-", help="the text, or - for standard input (default)"
    )
    verb.add_argument(
        "--json",
        action="store_true",
        help='print objects; with -, read lines {"text": …, "surface": …} and answer each with a line, in order',
    )
    verb.add_argument(
        "--surface", default="prompt", help="where the text stands: prompt, document, tool_result, response, …"
    )
    verb.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Judge what was given and say how it went by the exit code."""
    guard = make_guard(Config(), surroundings(Config(), b"inspect"), None, None)
    if arguments.json and arguments.text == "-":
        return _lines(guard, sys.stdin.buffer, arguments.surface)
    text = arguments.text
    if text == "-":
        raw = sys.stdin.buffer.read(_MAX_BYTES + 1)
        if len(raw) > _MAX_BYTES:
            raise InvalidInput(f"the input is over {_MAX_BYTES} bytes", hint="inspect it in parts, one JSON line each")
        text = raw.decode("utf-8", "replace")
    item = read_item({"text": text, "surface": arguments.surface})
    verdict = guard.inspect_text(item.text, item.surface)
    if arguments.json:
        print(msgspec.json.encode(answer_of(verdict)).decode())
    else:
        _say(verdict)
    return 0 if verdict.action is Action.ALLOW else 1


def _say(verdict: Verdict) -> None:
    print(f"{verdict.action} (score {verdict.score:.2f}, policy {verdict.policy.id})")
    for finding in verdict.findings:
        span = f" at {finding.span[0]}..{finding.span[1]}" if finding.span else ""
        print(f"  {finding.category}: {finding.rule} {finding.technique} {finding.score:.2f}{span}")


def _lines(guard: Guard, lines: IO[bytes], surface: str) -> int:
    """One answer a line, in order; a line that cannot be read becomes an error object, the others go on."""
    found = unreadable = False
    while line := lines.readline(_MAX_BYTES + 1):
        if not line.strip():
            continue
        answer: dict[str, Any]
        try:
            if len(line) > _MAX_BYTES:
                raise InvalidInput(f"the line is over {_MAX_BYTES} bytes")  # noqa: TRY301
            value = msgspec.json.decode(line)
            if isinstance(value, dict):
                value.setdefault("surface", surface)
            item = read_item(value)
            verdict = guard.inspect_text(item.text, item.surface)
            answer = answer_of(verdict)
            found = found or verdict.action is not Action.ALLOW
        except InvalidInput as error:
            answer = {"error": {"message": str(error), "where": error.where, "hint": error.hint}}
            unreadable = True
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            answer = {"error": {"message": "the line is not a JSON object", "where": "", "hint": 'send {"text": "…"}'}}
            unreadable = True
        sys.stdout.buffer.write(msgspec.json.encode(answer) + b"\n")
        sys.stdout.buffer.flush()
    return 2 if unreadable else int(found)
