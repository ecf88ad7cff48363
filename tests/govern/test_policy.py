# SPDX-License-Identifier: Apache-2.0
"""Policies turn findings into actions: the packaged profiles, one's own, and what happens when either is wrong."""

import datetime as dt
import hashlib
import json
import random
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from shieldwall.core.errors import PolicyError
from shieldwall.core.event import Direction, Event, Segment, Surface, Trust
from shieldwall.core.verdict import Action, Category, Decision, Finding
from shieldwall.govern import PROFILES, CedarPolicy, load_policy
from tests.fuzz.fuzz_policy import SEEDS, fuzz

GOLDEN = json.loads((Path(__file__).parent.parent / "golden" / "policy-profiles.json").read_text())
SELFTEST = "shieldwall.injection.selftest.1"
PASS = '@id("pass") permit (principal, action, resource);\n'
LOADED = {name: load_policy(name) for name in PROFILES}

EVENT = Event(
    id="0190a0b0-0000-7000-8000-000000000001",
    time=dt.datetime(2026, 1, 2, 3, 4, 5, tzinfo=dt.UTC),
    tenant="acme",
    principal="demo",
    model="small-1",
    route="chat",
    dialect="openai",
    segments=(Segment("some text", path="/messages/0/content", trust=Trust.USER),),
)


def finding(category: str = "injection", score: float = 0.9, surface: str = "prompt", **more: Any) -> Finding:
    """A finding in the field of `EVENT`."""
    fields: dict[str, Any] = {"rule": "shieldwall.test.1", "path": "/messages/0/content"} | more
    return Finding(category=Category(category), score=score, surface=Surface(surface), **fields)


def own(text: str, **options: Any) -> CedarPolicy:
    """A policy from text, with the permit that lets the rest pass."""
    return CedarPolicy({"own.cedar": (PASS + text).encode()}, **options)


def rule(action: str, condition: str, name: str = "") -> str:
    """A forbid that asks for an action."""
    label = name or action
    return f'@id("{label}") @action("{action}") forbid (principal, action, resource) when {{ {condition} }};\n'


def expected_cells() -> Iterator[tuple[str, str, str, dict[str, int]]]:
    """Every cell the golden file states: profile, category, surface, and where each action begins."""
    for profile, rows in GOLDEN["profiles"].items():
        for row in rows:
            surfaces = [surface.value for surface in Surface] if row["surface"] == ["*"] else row["surface"]
            for category in row["category"]:
                for surface in surfaces:
                    yield profile, category, surface, row["from"]


class TestProfiles:
    """What the three packaged policies do."""

    def test_the_golden_table_speaks_of_every_category_on_every_surface_once(self) -> None:
        """A cell that is missing or stated twice would hide a decision nobody took."""
        cells = [cell[:3] for cell in expected_cells()]

        assert len(cells) == len(set(cells)) == len(PROFILES) * len(Category) * len(Surface)

    @pytest.mark.parametrize("profile", PROFILES)
    def test_each_profile_decides_as_the_golden_table_says(self, profile: str) -> None:
        """At the score where an action begins, just below it, and at both ends."""
        wrong = []
        for name, category, surface, steps in expected_cells():
            if name != profile:
                continue
            for score in {0, 100, *steps.values(), *(max(0, start - 1) for start in steps.values())}:
                want = max((start, Action(action)) for action, start in steps.items() if start <= score)[1]
                got = LOADED[profile].decide(EVENT, [finding(category, score / 100, surface)]).action
                wrong += [(category, surface, score, got, want)] if got is not want else []

        assert wrong == []

    @pytest.mark.parametrize("surface", Surface)
    @pytest.mark.parametrize("profile", ["balanced", "strict"])
    def test_the_selftest_rule_blocks_on_every_surface(self, profile: str, surface: str) -> None:
        """The known-bad example must stop the text wherever the guard's self-test puts it, whatever its score."""
        decision = LOADED[profile].decide(EVENT, [finding(score=0.01, surface=surface, rule=SELFTEST)])

        assert (decision.action, decision.policy.id) == (Action.BLOCK, "selftest")

    def test_a_system_prompt_that_quotes_attacks_is_flagged_not_blocked(self) -> None:
        """The operator wrote it; `balanced` must not break a defensive system prompt."""
        decision = LOADED["balanced"].decide(EVENT, [finding(score=1.0, surface="system")])

        assert decision.action is Action.FLAG

    @given(
        category=st.sampled_from(list(Category)),
        surface=st.sampled_from(list(Surface)),
        score=st.integers(0, 100),
    )
    @settings(max_examples=150, deadline=None)
    def test_a_stricter_profile_is_never_milder(self, category: Category, surface: Surface, score: int) -> None:
        """Moving from permissive to balanced to strict only ever tightens what happens."""
        found = [finding(category, score / 100, surface)]

        ranks = [LOADED[name].decide(EVENT, found).action.rank for name in PROFILES]

        assert ranks == sorted(ranks)

    @given(st.lists(st.tuples(st.sampled_from(list(Category)), st.sampled_from(list(Surface)), st.integers(0, 100))))
    @settings(max_examples=100, deadline=None)
    def test_the_strictest_finding_wins_in_any_order(self, cells: list[tuple[Category, Surface, int]]) -> None:
        """Together the findings get the strictest action that any of them gets alone."""
        found = [finding(category, score / 100, surface) for category, surface, score in cells]
        policy = LOADED["balanced"]
        alone = max((policy.decide(EVENT, [one]).action.rank for one in found), default=0)
        random.Random(len(found)).shuffle(found)

        assert policy.decide(EVENT, found).action.rank == alone

    def test_without_findings_a_text_passes_without_a_question(self) -> None:
        """Clean traffic, nearly all there is, never reaches the engine."""
        policy = load_policy()

        decision = policy.decide(EVENT, [])

        assert (decision.action, decision.policy.id, policy.engine_calls) == (Action.ALLOW, "default", 0)

    def test_balanced_is_the_default(self) -> None:
        """The contract of the command line."""
        assert load_policy().digest == load_policy("balanced").digest

    def test_a_score_is_read_rounded_to_a_hundredth(self) -> None:
        """0.7951 is 0.80 to a policy, 0.7949 is 0.79."""
        actions = [LOADED["balanced"].decide(EVENT, [finding(score=score)]).action for score in (0.7949, 0.7951)]

        assert actions == [Action.FLAG, Action.BLOCK]


class TestActions:
    """How an action comes out of Cedar."""

    @pytest.mark.parametrize(
        ("action", "reason"), [("flag", ""), ("redact", ""), ("hold", "needs_approval"), ("block", "")]
    )
    def test_a_forbid_asks_for_the_action_it_is_annotated_with(self, action: str, reason: str) -> None:
        """The decision carries the action, the name of the policy and, for hold, what is missing."""
        decision = own(rule(action, "context.score > 0", "mine")).decide(EVENT, [finding()])

        assert (decision.action, decision.policy.id, decision.reason) == (Action(action), "mine", reason)

    def test_hold_stops_the_text(self) -> None:
        """Until a person can be asked, hold acts as block."""
        assert own(rule("hold", "true")).decide(EVENT, [finding()]).action.stops

    def test_of_two_matching_policies_the_stricter_decides_wherever_it_stands(self) -> None:
        """Order in the file matters only among equals."""
        mild, hard = rule("flag", "true"), rule("block", "true")

        ids = {own(text).decide(EVENT, [finding()]).policy.id for text in (mild + hard, hard + mild)}

        assert ids == {"block"}

    def test_of_two_equals_the_first_in_the_text_is_named(self) -> None:
        """The engine reports its reasons in no order; the record must not depend on that."""
        text = "".join(rule("block", "true", f"b{9 - number}") for number in range(9))

        ids = {own(text).decide(EVENT, [finding()]).policy.id for _ in range(8)}

        assert ids == {"b9"}

    def test_of_two_findings_that_ask_for_the_same_the_first_is_named(self) -> None:
        """The first finding of an event explains the verdict."""
        text = rule("block", 'context.surface == Surface::"prompt"', "a") + rule("block", "context.score == 1", "b")
        found = [finding(score=0.01, surface="document"), finding(score=0.5)]

        assert own(text).decide(EVENT, found).policy.id == "b"
        assert own(text).decide(EVENT, found[::-1]).policy.id == "a"

    def test_what_no_policy_permits_is_blocked(self) -> None:
        """Cedar denies by default, and so do we."""
        only = CedarPolicy({"own.cedar": b'@id("p") permit (principal, action, resource) when { context.score < 50 };'})

        low, high = (only.decide(EVENT, [finding(score=score)]) for score in (0.4, 0.6))

        assert (low.action, low.policy.id) == (Action.ALLOW, "p")
        assert (high.action, high.policy.id, high.reason) == (Action.BLOCK, "default", "not_permitted")

    @pytest.mark.parametrize("action", ["redact", "hold", "block"])
    def test_observe_stops_nothing_and_says_what_would_have_happened(self, action: str) -> None:
        """The deciding policy stays named, so false alarms can be counted on live traffic."""
        decision = own(rule(action, "true"), mode="observe").decide(EVENT, [finding()])

        assert (decision.action, decision.policy.id, decision.reason) == (Action.FLAG, action, f"would_{action}")

    def test_observe_still_names_the_strictest_policy(self) -> None:
        """A flag of the first finding does not hide a block of the second."""
        text = rule("flag", "context.score < 50") + rule("block", "context.score >= 50")
        decision = own(text, mode="observe").decide(EVENT, [finding(score=0.1), finding(score=0.9)])

        assert (decision.policy.id, decision.reason) == ("block", "would_block")


def changed(**fields: Any) -> Event:
    """`EVENT` with other values."""
    return msgspec.structs.replace(EVENT, **fields)


UNTRUSTED = (Segment("some text", path="/messages/0/content", trust=Trust.UNTRUSTED),)


class TestCache:
    """Equal questions are asked once, and no two different ones are taken for equal."""

    def test_events_that_differ_in_nothing_a_policy_can_read_share_an_answer(self) -> None:
        """Id, time, principal, session and the text itself are no part of the question."""
        policy = own(rule("block", 'context.tenant == "acme" && context.score > 1'))
        policy.decide(EVENT, [finding()])
        other = changed(
            id="0190a0b0-0000-7000-8000-000000000002",
            time=EVENT.time + dt.timedelta(days=1),
            principal="someone",
            session="another",
            segments=(Segment("other text", path="/messages/0/content"),),
        )

        policy.decide(other, [finding(span=(1, 2), technique="AML.T0051", detector="rules", detector_version="2")])

        assert policy.engine_calls == 1

    def test_a_name_that_no_policy_mentions_is_no_part_of_the_question(self) -> None:
        """A client that varies the model's name cannot empty the cache of a policy that does not look at it."""
        policy = own(rule("block", "context.score >= 80"))

        for number in range(20):
            policy.decide(changed(model=f"m{number}", tenant=f"t{number}"), [finding(rule=f"r.{number}")])

        assert policy.engine_calls == 1

    @pytest.mark.parametrize(
        ("condition", "event", "found"),
        [
            ('context.tenant == "acme"', changed(tenant="other"), finding()),
            ('context.model like "small-*"', changed(model="big-1"), finding()),
            ('context.dialect == "openai"', changed(dialect="anthropic"), finding()),
            ('context.route == "chat"', changed(route="inspect"), finding()),
            ('context.direction == Direction::"request"', changed(direction=Direction.RESPONSE), finding()),
            ('context has trust && context.trust == Trust::"user"', changed(segments=UNTRUSTED), finding()),
            ("context has trust", EVENT, finding(path="/nowhere")),
            ('context.rule == "shieldwall.test.1"', EVENT, finding(rule="shieldwall.test.2")),
            ("context.score == 90", EVENT, finding(score=0.91)),
            ('context.category == Category::"injection"', EVENT, finding("leak")),
            ('context.surface == Surface::"prompt"', EVENT, finding(surface="document")),
        ],
    )
    def test_what_a_policy_reads_changes_the_answer(self, condition: str, event: Event, found: Finding) -> None:
        """Each readable attribute reaches the policy, and a cached answer for another value is not used."""
        policy = own(rule("block", condition))

        actions = [policy.decide(EVENT, [finding()]).action, policy.decide(event, [found]).action]

        assert actions == [Action.BLOCK, Action.ALLOW]
        assert policy.engine_calls == 2

    def test_a_policy_that_takes_the_whole_context_reads_everything(self) -> None:
        """Where the engine's form does not say which attribute is meant, every one of them is in the key."""
        policy = own(rule("block", '(if context.score > 0 then context else context).tenant == "acme"'))

        actions = [policy.decide(event, [finding()]).action for event in (EVENT, changed(tenant="other"))]

        assert actions == [Action.BLOCK, Action.ALLOW]
        assert {"tenant", "model", "trust", "rule"} <= policy.reads

    def test_a_name_is_read_up_to_a_bound(self) -> None:
        """A client that sends a name of a megabyte fills neither the cache nor the engine's time."""
        policy = own(rule("block", f'context.model == "{"m" * 256}"'))

        actions = [policy.decide(changed(model="m" * size), [finding()]).action for size in (255, 256, 1_000_000)]

        assert actions == [Action.ALLOW, Action.BLOCK, Action.BLOCK]
        assert policy.engine_calls == 2

    def test_the_cache_is_bounded(self) -> None:
        """The oldest answer goes first, so a stream of new names costs time, never memory."""
        policy = own(rule("block", 'context.rule == "x"'), cache=2)
        for name in ("a", "b", "c", "c", "b"):
            policy.decide(EVENT, [finding(rule=name)])
        before = policy.engine_calls
        policy.decide(EVENT, [finding(rule="a")])

        assert (before, policy.engine_calls) == (3, 4)

    def test_where_two_segments_share_a_path_the_less_trusted_counts(self) -> None:
        """A field that was assembled from several hands is as untrusted as the worst of them."""
        policy = own(rule("block", 'context has trust && context.trust == Trust::"untrusted"'))
        segments = tuple(Segment("x", path="/a", trust=trust) for trust in (Trust.USER, Trust.UNTRUSTED, Trust.MODEL))

        assert policy.decide(changed(segments=segments), [finding(path="/a")]).action is Action.BLOCK

    def test_threads_get_the_same_answers(self) -> None:
        """A policy may be shared: 4 threads, a cache that is too small, and no wrong answer."""
        policy = own(rule("block", "context.score >= 50"), cache=8)

        def run(seed: int) -> list[bool]:
            scores = [random.Random(seed * 1000 + n).randrange(101) for n in range(60)]
            return [policy.decide(EVENT, [finding(score=s / 100)]).action.stops == (s >= 50) for s in scores]

        with ThreadPoolExecutor(4) as pool:
            right = [answer for part in pool.map(run, range(4)) for answer in part]

        assert all(right)
        assert len(right) == 240


class TestFailure:
    """What cannot be decided is blocked; what cannot be used is refused."""

    @pytest.mark.parametrize(
        ("text", "found"),
        [
            (rule("flag", "context.score * 9223372036854775807 > 1"), finding()),
            (rule("flag", "true"), finding(score=float("nan"))),
            (rule("flag", "true"), finding(score=1e300)),
            (rule("flag", 'context.rule == "x"'), finding(rule="\ud800")),
            (rule("flag", "true"), msgspec.structs.replace(finding(), surface="elsewhere")),
        ],
        ids=["overflow", "nan", "too-large", "surrogate", "unknown-word"],
    )
    def test_an_error_while_deciding_blocks_and_is_counted(self, text: str, found: Finding) -> None:
        """Cedar alone would skip the failing forbid and let the text pass. The error is not remembered as an answer."""
        policy = own(text)

        decisions = [policy.decide(EVENT, [found]) for _ in range(2)]

        assert {(d.action, d.policy.id, d.reason) for d in decisions} == {
            (Action.BLOCK, "policy_error", "policy_error")
        }
        assert policy.errors == 2
        assert policy.last_error.isprintable()
        assert policy.last_error

    def test_a_panic_of_the_engine_blocks(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A panic arrives as a BaseException, past `except Exception`; it must not reach the caller."""
        panic = type("PanicException", (BaseException,), {"__module__": "pyo3_runtime"})
        policy = own(rule("flag", "true"))
        monkeypatch.setattr(policy, "_ask", lambda *_: (_ for _ in ()).throw(panic("secret text")))

        decision = policy.decide(EVENT, [finding()])

        assert (decision.action, policy.last_error) == (Action.BLOCK, "PanicException")

    def test_an_interrupt_goes_through(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Only the engine's panic is taken for an answer."""
        policy = own(rule("flag", "true"))
        monkeypatch.setattr(policy, "_ask", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))

        with pytest.raises(KeyboardInterrupt):
            policy.decide(EVENT, [finding()])

    @pytest.mark.parametrize(
        ("text", "says"),
        [
            ("", "no policy"),
            ("// nothing\n", "no policy"),
            (
                PASS + '\n@id("b") @action("block") forbid (principal, action, resource) when { 1 >> 2 };',
                ":3: policy b: ",
            ),
            (PASS.replace(";", ""), "does not end"),
            ("permit (principal, action, resource);", "no name"),
            ('@id("default") permit (principal, action, resource);', "no name"),
            (PASS + PASS, "has the name of the one at"),
            ('@id("f") forbid (principal, action, resource);', "must say what happens"),
            ('@id("f") @action("allow") forbid (principal, action, resource);', "must say what happens"),
            ('@id("p") @action("block") permit (principal, action, resource);', "takes no @action"),
            ('@id("t") permit (principal == ?principal, action, resource);', "templates"),
            (PASS + rule("block", "context.scores > 1", "typo"), ":2: policy typo: "),
            (PASS + rule("block", 'context.category == Category::"injecton"', "typo"), "injecton"),
            (PASS + rule("block", 'context.trust == Trust::"user"', "maybe"), "trust"),
            (PASS + rule("block", 'context.score > "8"', "kinds"), ":2: policy kinds: "),
            (PASS + rule("block", "(" * 200 + "true" + ")" * 200, "deep"), "nested too deeply"),
            (PASS + rule("block", "true && " * 600 + "true", "long"), "joins too many"),
            ("//" + "x" * 300_000, "larger than"),
        ],
    )
    def test_a_policy_that_cannot_be_used_is_refused_by_name(self, text: str, says: str) -> None:
        """The message names the file and what is wrong with it, the hint says what to do."""
        with pytest.raises(PolicyError) as caught:
            CedarPolicy({"own.cedar": text.encode()})

        assert str(caught.value).startswith("own.cedar")
        assert says in str(caught.value)
        assert caught.value.hint

    def test_two_files_that_are_too_large_together_are_refused(self) -> None:
        """The bound is on what the engine gets."""
        half = PASS.encode() + b"//" + b"x" * 200_000

        with pytest.raises(PolicyError, match="bytes"):
            CedarPolicy({"a.cedar": half, "b.cedar": half.replace(b"pass", b"also")})

    def test_an_unknown_profile_or_mode_is_refused(self) -> None:
        """The hint lists the words that are known."""
        with pytest.raises(PolicyError) as profile:
            load_policy("paranoid")
        with pytest.raises(PolicyError) as mode:
            load_policy(mode="watch")  # type: ignore[arg-type]

        assert "balanced" in profile.value.hint
        assert "observe" in mode.value.hint


class TestOwnPolicy:
    """A file or directory in place of a profile."""

    def test_a_file_replaces_the_profile(self, tmp_path: Path) -> None:
        """What `strict` would block passes, because the file says so."""
        (tmp_path / "own.cedar").write_text(PASS)

        decision = load_policy("strict", tmp_path / "own.cedar").decide(EVENT, [finding(score=1.0)])

        assert (decision.action, decision.policy.id) == (Action.ALLOW, "pass")

    def test_a_directory_is_one_policy_set_in_the_order_of_names(self, tmp_path: Path) -> None:
        """The digest is that of the same text in one file; other files beside it are left alone."""
        (tmp_path / "20-b.cedar").write_text(rule("block", "true"))
        (tmp_path / "10-a.cedar").write_text(PASS)
        (tmp_path / "notes.txt").write_text("not a policy")

        policy = load_policy(path=tmp_path)

        assert [known.id for known in policy.rules] == ["pass", "block"]
        assert policy.rules[1].where == f"{tmp_path / '20-b.cedar'}:1"
        assert policy.digest == CedarPolicy({"x": f"{PASS}\n{rule('block', 'true')}".encode()}).digest

    def test_the_digest_can_be_computed_by_anyone(self) -> None:
        """SHA-256 of schema, a zero byte and policy, as docs/policy.md says."""
        home = Path(sys.modules["shieldwall.govern"].__path__[0]) / "policies"
        content = (home / "schema.cedarschema").read_bytes() + b"\0" + (home / "strict.cedar").read_bytes()

        decision = LOADED["strict"].decide(EVENT, [finding()])

        assert decision.policy.digest == LOADED["strict"].digest == hashlib.sha256(content).hexdigest()

    @pytest.mark.parametrize("name", ["missing.cedar", "."])
    def test_a_missing_file_and_an_empty_directory_are_refused(self, tmp_path: Path, name: str) -> None:
        """Not silently replaced by a profile."""
        with pytest.raises(PolicyError, match=r"cannot be read|holds no"):
            load_policy(path=tmp_path / name)

    def test_the_example_of_the_documentation_works(self) -> None:
        """What a reader pastes from docs/policy.md loads and does what the page says."""
        page = (Path(__file__).parents[2] / "docs" / "policy.md").read_text()
        example_text = page.split("```cedar\n")[1].split("```")[0]
        policy = CedarPolicy({"example.cedar": example_text.encode()})

        def decide(event: Event, **fields: Any) -> Decision:
            return policy.decide(event, [finding(**fields)])

        assert decide(EVENT, score=0.85).policy.id == "attack"
        assert decide(changed(tenant="red-team"), score=0.85).action is Action.FLAG
        assert decide(changed(segments=UNTRUSTED), score=0.6, surface="tool_call").action is Action.HOLD
        assert decide(EVENT, category="leak", score=0.7, surface="response").action is Action.REDACT


class TestLightness:
    """What importing costs."""

    def test_importing_the_column_does_not_load_the_engine(self) -> None:
        """`import shieldwall` must stay light; the engine comes with the first policy."""
        code = (
            "import sys, shieldwall.govern as g; before = 'cedarpy' in sys.modules; g.load_policy(); "
            "print(before, 'cedarpy' in sys.modules)"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

        assert done.stdout.split() == ["False", "True"]


@given(st.lists(st.sampled_from([*SEEDS, b"(", b")", b'"', b"//", b"\n", b";", b"@id", b"\\", b"\xff"]), max_size=4))
@settings(max_examples=60, deadline=None)
@example([SEEDS[7]])
@example([SEEDS[13]])
def test_any_text_gives_a_policy_or_a_policy_error(parts: list[bytes]) -> None:
    """No other exception, and no crash of the process, comes out of loading a policy."""
    fuzz(b"".join(parts))


@pytest.mark.parametrize("seed", SEEDS)
def test_every_seed_of_the_fuzz_target_holds(seed: bytes) -> None:
    """The seeds hold the inputs that once ended the process."""
    fuzz(seed)


@pytest.mark.slow
@given(st.sampled_from(SEEDS), st.data())
@settings(max_examples=3_000, deadline=None)
def test_damaged_policies_are_refused_cleanly(seed: bytes, data: st.DataObject) -> None:
    """Bytes cut out of, put into and doubled in real policies."""
    text = bytearray(seed[:2_000])
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(text)))
        text[at : at + data.draw(st.integers(0, 8))] = data.draw(st.binary(max_size=8))

    fuzz(bytes(text))
