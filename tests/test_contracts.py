# SPDX-License-Identifier: Apache-2.0
"""What scripts and other organisations rely on stays as it is: words, shapes, errors, the command line.

The golden files beside this module are the contract; a change to one is a decision record and a version.
"""

import argparse
import inspect
import json
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest

from shieldwall import cli
from shieldwall.core import errors, event, verdict
from shieldwall.core.event import Event, Role, Segment, Surface, Trust
from shieldwall.core.verdict import Action, Category, Finding, PolicyRef, Tier, Verdict, attack_score
from shieldwall.gateway import ROLES, answer_of, read_item
from shieldwall.gateway.refusal import refusal_of
from shieldwall.node import Config
from shieldwall.verbs.up import config_of

HERE = Path(__file__).parent / "golden"
WORDS = json.loads((HERE / "words.json").read_text())
ERRORS: dict[str, list[Any]] = json.loads((HERE / "errors.json").read_text())["tree"]
CLI = json.loads((HERE / "cli.json").read_text())

_ID = "0190a0b0-0000-7000-8000-000000000001"
EVENT = Event(
    id=_ID,
    time=datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=UTC),
    tenant="default",
    principal="demo",
    model="demo",
    route="/v1/chat/completions",
    dialect="openai",
    session=_ID,
    segments=(
        Segment("What is the weather?", path="/messages/0/content"),
        Segment("It is 雨, then ☀.", Role.TOOL, Surface.TOOL_RESULT, Trust.UNTRUSTED, "/messages/1/content"),
    ),
)
VERDICT = Verdict(
    event=_ID,
    action=Action.BLOCK,
    score=0.97,
    findings=(
        Finding(
            rule="shieldwall.injection.override.1",
            category=Category.INJECTION,
            technique="AML.T0051.000",
            score=0.97,
            surface=Surface.TOOL_RESULT,
            path="/messages/3/content",
            span=(12, 48),
            detector="rules",
            detector_version="1",
        ),
        Finding(rule="shieldwall.uninspected.image.1", category=Category.UNINSPECTED, score=0.0),
    ),
    policy=PolicyRef("injection.block", "0" * 64),
    tiers=(Tier("rules", 31),),
    entry=7,
)
GOLDEN = {"event-v1.json": EVENT, "verdict-v1.json": VERDICT}


def word(name: str) -> Any:
    """A word set or a struct of core, by name."""
    return getattr(event, name, None) or getattr(verdict, name)


@pytest.mark.parametrize("name", WORDS["words"])
def test_a_word_set_is_golden(name: str) -> None:
    """Words, their spelling and their order."""
    words = [each.value for each in word(name)]

    assert words == WORDS["words"][name]


@pytest.mark.parametrize("name", WORDS["structs"])
def test_the_members_of_a_struct_are_golden(name: str) -> None:
    """Names, order, and which must be given."""
    fields = msgspec.structs.fields(word(name))

    assert [field.encode_name for field in fields] == WORDS["structs"][name]
    assert [field.encode_name for field in fields if field.required] == WORDS["required"][name]


@pytest.mark.parametrize("name", GOLDEN)
def test_a_value_is_written_as_its_golden_bytes(name: str) -> None:
    """The same value gives the same bytes, in every release."""
    data = msgspec.json.encode(GOLDEN[name])

    assert data + b"\n" == (HERE / name).read_bytes()


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_bytes_are_read_as_their_value(name: str) -> None:
    """What an older release wrote is read, whole."""
    value = msgspec.json.decode((HERE / name).read_bytes(), type=type(GOLDEN[name]))

    assert value == GOLDEN[name]


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("event-v1.json", '"surface":"prompt"', '"surface":"whisper"'),
        ("event-v1.json", '"role":"tool"', '"role":"parrot"'),
        ("event-v1.json", '"trust":"untrusted"', '"trust":"blind"'),
        ("event-v1.json", '"direction":"request"', '"direction":"sideways"'),
        ("verdict-v1.json", '"action":"block"', '"action":"shrug"'),
        ("verdict-v1.json", '"category":"injection"', '"category":"mischief"'),
    ],
)
def test_an_unknown_word_from_outside_is_refused(name: str, old: str, new: str) -> None:
    """A word that is not in its set never becomes a value."""
    text = (HERE / name).read_text()
    wrong = text.replace(old, new, 1)

    assert wrong != text
    with pytest.raises(msgspec.ValidationError, match="Invalid enum value"):
        msgspec.json.decode(wrong, type=type(GOLDEN[name]))


def test_an_unknown_word_is_an_error_for_its_item_alone() -> None:
    """The item is refused with the member at fault; the next one is read."""
    items = [{"text": "a", "surface": "whisper"}, {"text": "b", "surface": "document"}]

    with pytest.raises(errors.InvalidInput) as caught:
        read_item(items[0])

    assert caught.value.where == "/surface"
    assert "whisper" not in f"{caught.value}{caught.value.hint}"
    assert read_item(items[1]).surface is Surface.DOCUMENT


@pytest.mark.parametrize(("spoken", "meant"), [("user", "prompt"), ("tool_output", "tool_result")])
def test_words_of_the_corpora_are_understood(spoken: str, meant: str) -> None:
    """Corpora speak of `user` and `tool_output`."""
    item = read_item({"text": "a", "surface": spoken})

    assert item.surface == meant


def test_an_inspection_answers_with_four_members() -> None:
    """`action`, `score`, `findings`, `complete`: what `inspect --json` and `POST /v1/inspect` print."""
    answer = msgspec.json.decode(msgspec.json.encode(answer_of(VERDICT)))

    assert list(answer) == ["action", "score", "findings", "complete"]
    assert list(answer["findings"][0]) == WORDS["structs"]["Finding"]


def test_actions_grow_stricter_in_their_order() -> None:
    """allow < flag < redact < hold < block, and the last two stop a message."""
    ordered = [Action(each) for each in WORDS["words"]["Action"]]

    assert [each.rank for each in ordered] == [0, 1, 2, 3, 4]
    assert [each.value for each in ordered if each.stops] == WORDS["stops"]


@pytest.mark.parametrize("category", Category)
def test_the_score_speaks_of_attacks_on_the_model_alone(category: Category) -> None:
    """Leak, harmful, flow and indicator findings change the action, not the score."""
    score = attack_score([Finding(rule="a.b.c.1", category=category, score=0.9)])

    assert score == (0.9 if category in WORDS["attacks"] else 0.0)


def test_roles_of_keys_are_golden() -> None:
    """What a key may do is one of five words."""
    assert list(ROLES) == WORDS["roles_of_keys"]


def test_the_tree_of_errors_is_golden() -> None:
    """Names and parents; nothing is exported that is not drawn, and nothing drawn is missing."""
    tree = {
        name: of.__bases__[0].__name__
        for name, of in vars(errors).items()
        if inspect.isclass(of) and issubclass(of, errors.Error)
    }

    assert tree == {name: parent for name, (parent, _, _) in ERRORS.items()}
    assert sorted(errors.__all__) == sorted(tree)
    assert all(name in (errors.__doc__ or "") and getattr(errors, name).__doc__ for name in tree)


@pytest.mark.parametrize("name", ERRORS)
def test_each_error_has_its_golden_answer(name: str) -> None:
    """HTTP status and word of every error; a child without a line of its own answers as its parent."""
    refusal = refusal_of(getattr(errors, name)("something"))

    assert [refusal.status, refusal.kind] == ERRORS[name][1:]


@pytest.mark.parametrize("name", ERRORS)
def test_an_error_carries_message_and_hint(name: str) -> None:
    """`str` is the message; a hint given at raise replaces the one of the class."""
    kind = getattr(errors, name)

    error = kind("what is wrong", hint="what to do")

    assert (str(error), error.hint) == ("what is wrong", "what to do")
    assert kind("what is wrong").hint == kind.hint


def leaves(parser: argparse.ArgumentParser, name: str = "") -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """Every verb of the command line that runs something."""
    nested = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    if not nested:
        yield name, parser
    for action in nested:
        for word_, below in action.choices.items():
            yield from leaves(below, f"{name} {word_}".strip())


VERBS = dict(leaves(cli.parser()))


def test_the_verbs_are_golden() -> None:
    """No verb appears, disappears or changes its name unnoticed."""
    assert sorted(VERBS) == sorted(CLI["verbs"])


@pytest.mark.parametrize("verb", CLI["verbs"])
def test_the_options_of_a_verb_are_golden(verb: str) -> None:
    """Options, arguments and closed choices, as the parser has them and as its help shows them."""
    golden = CLI["verbs"][verb]
    actions = [each for each in VERBS[verb]._actions if not isinstance(each, argparse._HelpAction)]
    shown = VERBS[verb].format_help()

    options = [option for each in actions for option in each.option_strings]
    choices = {each.option_strings[0]: list(each.choices) for each in actions if each.choices and each.option_strings}

    assert sorted(options) == sorted(golden["options"])
    assert [each.metavar for each in actions if not each.option_strings] == golden["arguments"]
    assert choices == golden["choices"]
    assert [each for each in options if each not in shown] == []


def test_up_has_safe_defaults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without options: loopback, enforce, balanced, ./DATA, and no listening beyond this machine without TLS."""
    monkeypatch.chdir(tmp_path)
    config = config_of(cli.parser().parse_args(["up"]))

    assert {name: getattr(config, name) for name in CLI["up_defaults"]} == CLI["up_defaults"]
    assert Config().enforce


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--help"], 0),
        (["--version"], 0),
        ([], 64),
        (["nonsense"], 64),
        (["inspect", "--no-such-option"], 64),
        (["keys", "create", "a", "--role", "emperor"], 64),
        (["keys"], 64),
    ],
)
def test_usage_has_its_exit_code(arguments: list[str], code: int, capsys: pytest.CaptureFixture[str]) -> None:
    """0 where help was asked for, 64 where the command line is wrong; then words go to standard error alone."""
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)

    out, err = capsys.readouterr()
    assert caught.value.code == code
    assert (out == "", err == "") == ((False, True) if code == 0 else (True, False))


def command(*arguments: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    """The command line in a process of its own."""
    line = [sys.executable, "-m", "shieldwall.cli", *arguments]
    return subprocess.run(line, input=stdin, capture_output=True, check=False, timeout=60)


def test_inspect_ends_with_the_three_codes() -> None:
    """0 nothing found, 1 found something, 2 could not tell: and one answer a line, in order, the last two apart."""
    good, bad = b'{"text": "How tall is the Eiffel Tower?"}\n', b'{"text": "SHIELDWALL-TEST-ATTACK-7f3a9c"}\n'

    clean = command("inspect", "--json", "-", stdin=good)
    found = command("inspect", "--json", "-", stdin=good + bad)
    unsure = command("inspect", "--json", "-", stdin=bad + b'{"text": 1}\nnot json\n' + good)

    answers = [json.loads(line) for line in unsure.stdout.splitlines()]

    codes = [each.returncode for each in (clean, found, unsure)]
    assert codes == [CLI["exit_codes"][name] for name in ("clean", "found", "could_not_tell")]
    assert ["error" in each for each in answers] == [False, True, True, False]
    assert [each["action"] for each in (answers[0], answers[3])] == ["block", "allow"]


def test_an_error_is_one_line_and_a_hint(tmp_path: Path) -> None:
    """No traceback, nothing on standard output, exit code 2."""
    path = tmp_path / "c.toml"
    path.write_text("moed = 'observe'\n")

    done = command("config", "check", str(path))

    assert done.returncode == CLI["exit_codes"]["could_not_tell"]
    assert done.stdout == b""
    first, second = done.stderr.decode().splitlines()
    assert first == f"shieldwall: error: {path}: unknown key moed"
    assert second == "shieldwall: hint: did you mean mode?"
