# SPDX-License-Identifier: Apache-2.0
"""Turns findings into an action by asking Cedar policies; the strictest answer wins.

One question is put per finding: may this text `pass`? A `permit` that stands means allow. A `forbid` that matches
says in its `@action` annotation what happens instead, and in its `@id` who said so. Nothing is parsed per decision,
and equal questions are answered from memory. What goes wrong while deciding blocks; a wrong policy is refused at load.

Source: the Cedar policy language, https://docs.cedarpolicy.com; annotations: docs/decisions/0004-cedar-actions.md.
"""

import functools
import hashlib
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

import msgspec

from shieldwall.core.errors import MissingExtra, PolicyError
from shieldwall.core.event import Direction, Event, Surface, Trust
from shieldwall.core.verdict import Action, Category, Decision, Finding, PolicyRef

__all__ = ["PROFILES", "CedarPolicy", "PolicyRule", "load_policy"]

PROFILES: Final = ("permissive", "balanced", "strict")
"""Packaged policies, mildest first."""

Mode = Literal["enforce", "observe"]

_HOME = Path(__file__).parent / "policies"
_RESERVED = frozenset({"default", "policy_error"})
_FORBIDS = (Action.FLAG, Action.REDACT, Action.HOLD, Action.BLOCK)

_MAX_BYTES = 256 * 1024
"""Policy text, all files together. The packaged profiles have 3 KiB."""
_MAX_DEPTH = 32
_MAX_JOINS = 256
"""Brackets inside brackets, and joining words in one policy. The engine recurses on both without a check of its own and
takes the process down with it: measured, 64 brackets end a thread with a stack of 512 KiB, 1,000 one of 8 MiB."""
_MAX_WORD = 256
"""Code points of an event's name (tenant, model, …) that a policy sees: a client chooses some of them."""

_TOKEN = re.compile(r'"(?:\\.|[^"\\])*"|//[^\r\n]*|[()\[\]{};.]|&&|\|\||[-+*]|\bif\b|\S', re.DOTALL)
"""Just enough of Cedar's lexer to see where a policy ends and how deep it goes."""

_DOUBT = {trust: place for place, trust in enumerate(Trust)}
_EVENT_NAMES = ("direction", "tenant", "model", "dialect", "route")


class PolicyRule(NamedTuple):
    """One policy of the set, as its author wrote it."""

    id: str
    """Its `@id`; unique in the set. Named by every decision it makes."""
    action: Action
    """What it asks for: its `@action`, or `allow` for a permit."""
    where: str
    """`file:line` where it begins."""


class _Answer(NamedTuple):
    """What follows from one finding."""

    rank: int
    """Rank of the action the policy asked for, also where `observe` softens the decision."""
    decision: Decision


class _EngineError(Exception):
    """The engine could not answer. Becomes a block; never leaves this module."""


class CedarPolicy:
    """A loaded policy set; implements `core.ports.Policy`. Safe to share between threads.

    A finding's question holds its category, score in hundredths and surface, and of rule, direction, trust, tenant,
    model, dialect and route those that some policy of the set mentions. That is also the key under which the answer is
    kept: two events that no policy can tell apart cost one call to the engine.
    """

    def __init__(self, sources: Mapping[str, bytes], *, mode: Mode = "enforce", cache: int = 4096) -> None:
        """Parse and check a policy set.

        Args:
            sources: Cedar text (UTF-8) by the name to use in messages; joined in the order given.
            mode: In `observe` a decision never goes beyond `flag`; its reason says what would have happened.
            cache: Answers kept, least recently used first to go; about 0.25 KiB each.

        Raises:
            PolicyError: The text is no Cedar, does not fit the schema, or leaves open what follows from a policy.
        """
        if mode not in ("enforce", "observe"):
            raise PolicyError(f"unknown policy mode {_bounded(str(mode))}", hint="use enforce or observe")
        self._cedar = _engine()
        schema = (_HOME / "schema.cedarschema").read_bytes()
        self._schema = self._cedar.Schema.from_str(schema.decode())
        statements = [item for name, data in sources.items() for item in _statements(name, _text(name, data))]
        parsed = [_parse(self._cedar, where, text) for where, text in statements]
        self.rules: tuple[PolicyRule, ...] = tuple(rule for rule, _ in parsed)
        """Every policy, in the order of the text."""
        _refuse_unusable(self.rules, ", ".join(sources))
        joined = b"\n".join(sources.values())
        if len(joined) > _MAX_BYTES:
            raise PolicyError(f"policy text has {len(joined)} bytes, at most {_MAX_BYTES} are read")
        _validate(self._cedar, joined.decode(), self._schema, {rule.id: rule.where for rule in self.rules})
        self._set = self._cedar.PolicySet.from_str(joined.decode())
        self._entities = self._cedar.Entities.from_json_str("[]")

        self.digest: str = hashlib.sha256(schema + b"\0" + joined).hexdigest()
        """SHA-256 of schema, a zero byte and policy text (files joined by a newline), hex."""
        self.reads: frozenset[str] = frozenset().union(*(names for _, names in parsed))
        """Attributes of `context` that some policy mentions."""
        self.engine_calls = 0
        """Questions put to the engine so far; the rest was answered from memory. Approximate under threads."""
        self.errors = 0
        """Decisions that the engine failed to make so far, each a block."""
        self.last_error = ""
        """What the engine said last time it failed; one line, no text of the event."""

        self._lock = threading.Lock()
        self._observe = mode == "observe"
        self._order = {rule.id: place for place, rule in enumerate(self.rules)}
        self._answers = {rule.id: self._answer(rule.action, rule.id) for rule in self.rules}
        self._clear = self._answer(Action.ALLOW, "default").decision
        self._unpermitted = self._answer(Action.BLOCK, "default", "not_permitted")
        self._failed = self._answer(Action.BLOCK, "policy_error", "policy_error")
        self._ask: Callable[..., _Answer] = functools.lru_cache(maxsize=cache)(self._evaluate)
        self._reads_rule, self._reads_trust = "rule" in self.reads, "trust" in self.reads
        self._reads_event = tuple(name for name in _EVENT_NAMES if name in self.reads)

    def decide(self, event: Event, findings: Sequence[Finding]) -> Decision:
        """The strictest action any policy asks for on any finding, and the policy that asked for it.

        Among equals the first finding decides, and of its policies the first in the text. No findings: allow, without
        asking. Never raises: what the engine cannot answer is a block with the reason `policy_error`, counted in
        `errors`. `hold` comes with the reason `needs_approval`.
        """
        if not findings:
            return self._clear
        try:
            return self._strictest(event, findings)
        except Exception as error:  # noqa: BLE001  a guard that cannot decide must stop the text, whatever the cause
            return self._fail(error)
        except BaseException as error:
            # A panic in the engine arrives as a BaseException of this module; interrupts and cancellation go through.
            if type(error).__module__ != "pyo3_runtime":
                raise
            return self._fail(error)

    def _strictest(self, event: Event, findings: Sequence[Finding]) -> Decision:
        names = tuple(getattr(event, name)[:_MAX_WORD] for name in self._reads_event)
        trusts = _trusts(event) if self._reads_trust else {}
        ask, reads_rule = self._ask, self._reads_rule
        top, decision = -1, self._clear
        for finding in findings:
            answer = ask(
                finding.category,
                round(finding.score * 100),
                finding.surface,
                finding.rule if reads_rule else "",
                trusts.get(finding.path),
                names,
            )
            if answer.rank > top:
                top, decision = answer
        return decision

    def _evaluate(
        self,
        category: Category,
        score: int,
        surface: Surface,
        rule: str,
        trust: Trust | None,
        names: tuple[str, ...],
    ) -> _Answer:
        """Put one question to the engine. An error is raised, so it is never remembered as an answer."""
        self.engine_calls += 1
        context: dict[str, Any] = dict.fromkeys(_EVENT_NAMES, "")
        context |= zip(self._reads_event, names, strict=True)
        direction = context["direction"] or Direction.REQUEST
        context |= {
            "category": {"type": "Category", "id": category},
            "score": score,
            "surface": {"type": "Surface", "id": surface},
            "rule": rule,
            "direction": {"type": "Direction", "id": direction},
        }
        if trust is not None:
            context["trust"] = {"type": "Trust", "id": trust}
        request = {
            "principal": 'Gateway::"shieldwall"',
            "action": 'Action::"pass"',
            "resource": 'Text::"found"',
            "context": msgspec.json.encode(context).decode(),
        }
        result = self._cedar.is_authorized(request, self._set, self._entities, schema=self._schema)
        return self._read(result)

    def _read(self, result: Any) -> _Answer:  # noqa: ANN401  the binding's result type is known only once it is imported
        """From the engine's diagnostics to what follows."""
        diagnostics = result.diagnostics
        if diagnostics.errors:
            # Cedar skips a policy that fails: a forbid that could not be computed would silently not forbid.
            raise _EngineError("; ".join(diagnostics.errors))
        decision = result.decision
        if decision is self._cedar.Decision.NoDecision:
            raise _EngineError("no decision")
        reasons = diagnostics.reasons
        if not reasons:
            if decision is self._cedar.Decision.Deny:
                return self._unpermitted
            raise _EngineError("allowed for no reason")
        ids = diagnostics.id_annotations_by_reason
        matched = sorted((ids[reason] for reason in reasons), key=self._order.__getitem__)
        # The engine gives its reasons in no order; ours, and max taking the first of equals, makes the answer one.
        return max((self._answers[id_] for id_ in matched), key=lambda answer: answer.rank)

    def _answer(self, action: Action, id_: str, reason: str = "") -> _Answer:
        if action is Action.HOLD:
            reason = "needs_approval"
        shown = action
        if self._observe and action.rank > Action.FLAG.rank:
            shown, reason = Action.FLAG, reason if id_ == "policy_error" else f"would_{action.value}"
        return _Answer(action.rank, Decision(action=shown, policy=PolicyRef(id_, self.digest), reason=reason))

    def _fail(self, error: BaseException) -> Decision:
        with self._lock:
            self.errors += 1
            # Only the engine's words are kept: another exception's text may quote the event.
            self.last_error = _bounded(str(error)) if isinstance(error, _EngineError) else type(error).__name__
        return self._failed.decision


def load_policy(
    profile: str | None = None, path: Path | None = None, *, mode: Mode = "enforce", cache: int = 4096
) -> CedarPolicy:
    """Load a packaged profile, or a policy of one's own in its place.

    Args:
        profile: One of `PROFILES`; `balanced` when neither is given.
        path: A `.cedar` file, or a directory whose `*.cedar` files are joined in the order of their names. Replaces the
            profile.
        mode: `enforce`, or `observe` to stop nothing.
        cache: Answers kept.

    Raises:
        PolicyError: No such profile or file, or the policy cannot be used. The message names file, line and policy.
        MissingExtra: The Cedar binding is not installed.
    """
    if path is None:
        name = "balanced" if profile is None else profile
        if name not in PROFILES:
            hint = f"use one of {', '.join(PROFILES)}, or give the path of a policy file"
            raise PolicyError(f"unknown policy profile {_bounded(name)}", hint=hint)
        return CedarPolicy({f"{name}.cedar": (_HOME / f"{name}.cedar").read_bytes()}, mode=mode, cache=cache)
    files = sorted(path.glob("*.cedar")) if path.is_dir() else [path]
    if not files:
        raise PolicyError(f"{path} holds no *.cedar file", hint="put one there, or use --profile instead")
    sources = {}
    for file in files:
        try:
            with file.open("rb") as opened:
                sources[str(file)] = opened.read(_MAX_BYTES + 1)
        except OSError as error:
            hint = "check the path and that this user may read it"
            raise PolicyError(f"{file} cannot be read: {error.strerror}", hint=hint) from None
    return CedarPolicy(sources, mode=mode, cache=cache)


def _engine() -> Any:  # noqa: ANN401  a module that is typed only where it is installed
    """The Cedar binding, imported with the first policy: it takes 40 to 100 ms."""
    try:
        import cedarpy
    except ImportError as error:
        raise MissingExtra("the Cedar policy engine is not installed", hint="pip install cedarpy") from error
    return cedarpy


def _text(name: str, data: bytes) -> str:
    if len(data) > _MAX_BYTES:
        raise PolicyError(f"{name} is larger than {_MAX_BYTES} bytes", hint="is this a policy file?")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise PolicyError(f"{name} is not UTF-8 at byte {error.start}", hint="save the file as UTF-8") from None


def _statements(name: str, text: str) -> Iterator[tuple[str, str]]:
    """Each policy of a file with its place, after a check that the engine can bear it."""
    start, depth, joins = -1, 0, 0
    where = name
    for token in _TOKEN.finditer(text):
        word = token[0]
        if word.startswith("//"):
            continue
        if start < 0:
            start, depth, joins = token.start(), 0, 0
            where = f"{name}:{text.count(chr(10), 0, start) + 1}"
        if word == ";":
            yield where, text[start : token.end()]
            start = -1
        depth += (word in "([{") - (word in ")]}")
        joins += word in ("&&", "||", "+", "-", "*", ".", "if", "[")
        if depth > _MAX_DEPTH or joins > _MAX_JOINS:
            hint = "split the policy in two, or compare with a list: `context.category in [...]`"
            raise PolicyError(f"{where}: the policy is nested too deeply or joins too many conditions", hint=hint)
    if start >= 0:
        raise PolicyError(f"{where}: the policy does not end", hint="end every policy with a semicolon")


def _parse(cedar: Any, where: str, text: str) -> tuple[PolicyRule, frozenset[str]]:  # noqa: ANN401  see _engine
    """One policy: what it asks for, and which attributes it mentions."""
    label = re.search(r'@id\s*\(\s*"([^"\\]*)"', text)
    named = f"{where}: policy {_bounded(label[1])}" if label else where
    try:
        tree = msgspec.json.decode(cedar.policies_to_json_str(text))
    except (ValueError, RecursionError) as error:
        raise PolicyError(f"{named}: {_bounded(str(error))}", hint="see docs/policy.md for the syntax") from None
    if tree["templates"] or len(tree["staticPolicies"]) != 1:
        raise PolicyError(f"{named}: templates decide nothing here", hint="write the policy without ? slots")
    (policy,) = tree["staticPolicies"].values()
    notes = policy.get("annotations", {})
    id_, wish = notes.get("id"), notes.get("action")
    if not id_ or id_ in _RESERVED:
        hint = 'put @id("a-name") above it; every verdict names the policy that decided'
        raise PolicyError(f"{named}: the policy has no name of its own", hint=hint)
    if policy["effect"] == "permit":
        if "action" in notes:
            raise PolicyError(f"{named}: a permit takes no @action", hint="what is permitted passes; use forbid")
        action = Action.ALLOW
    elif wish in _FORBIDS:
        action = Action(wish)
    else:
        hint = f'put @action("...") above it, one of {", ".join(_FORBIDS)}'
        raise PolicyError(f"{named}: a forbid must say what happens instead", hint=hint)
    return PolicyRule(id_, action, where), _mentioned(policy["conditions"])


def _mentioned(conditions: list[Any]) -> frozenset[str]:
    """Attributes of `context` in the engine's own JSON form; all of them where the whole record is used."""
    names: set[str] = set()
    waiting: list[Any] = list(conditions)
    while waiting:
        node = waiting.pop()
        if isinstance(node, list):
            waiting.extend(node)
        elif isinstance(node, dict):
            for key, value in node.items():
                if key in (".", "has") and isinstance(value, dict) and value.get("left") == {"Var": "context"}:
                    names.add(value["attr"])
                elif key == "Var" and value == "context":
                    names.update((*_EVENT_NAMES, "category", "score", "surface", "rule", "trust"))
                else:
                    waiting.append(value)
    return frozenset(names)


def _refuse_unusable(rules: Sequence[PolicyRule], name: str) -> None:
    if not rules:
        hint = "an empty policy would block everything; copy a packaged profile and change it"
        raise PolicyError(f"{name}: there is no policy in it", hint=hint)
    seen: dict[str, str] = {}
    for rule in rules:
        if rule.id in seen:
            message = f"{rule.where}: policy {_bounded(rule.id)} has the name of the one at {seen[rule.id]}"
            raise PolicyError(message, hint="give each policy its own @id")
        seen[rule.id] = rule.where


def _validate(cedar: Any, text: str, schema: Any, places: Mapping[str, str]) -> None:  # noqa: ANN401  see _engine
    result = cedar.validate_policies(text, schema)
    if result.validation_passed:
        return
    error = result.errors[0]
    id_ = result.id_annotations_by_policy_id.get(error.policy_id, "")
    # The engine counts policies of the joined text; ours are named, so its number would only mislead.
    said = re.sub(r"^for policy `policy\d+`[,:] ", "", error.error)
    hint = "what a policy can read is listed in docs/policy.md"
    raise PolicyError(f"{places.get(id_, 'policy')}: policy {_bounded(id_)}: {_bounded(said)}", hint=hint)


def _trusts(event: Event) -> dict[str, Trust]:
    """The least trusted writer of each field: where two segments share a path, doubt wins."""
    trusts: dict[str, Trust] = {}
    for segment in event.segments:
        known = trusts.setdefault(segment.path, segment.trust)
        if known is not segment.trust and _DOUBT[segment.trust] > _DOUBT[known]:
            trusts[segment.path] = segment.trust
    return trusts


def _bounded(text: str) -> str:
    """One printable line of at most 300 characters: a file's content never floods a terminal."""
    return re.sub(r"[^\x20-\x7e]", "?", text)[:300]
