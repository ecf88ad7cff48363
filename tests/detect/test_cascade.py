# SPDX-License-Identifier: Apache-2.0
"""Tiers together: cheap first, dear only in doubt and only for requests, and the verdict tells what was done."""

import asyncio
import base64
import subprocess
import sys
import threading
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shieldwall.core.errors import ConfigError, SelfTestFailed
from shieldwall.core.event import Direction, Event, Segment, Surface, Trust, utc
from shieldwall.core.guard import Guard, Surroundings
from shieldwall.core.verdict import Action, Category, Decision, Finding, Findings, PolicyRef, Tier, attack_score
from shieldwall.detect import (
    Cascade,
    Encoder,
    FastHeader,
    FastTier,
    Points,
    RuleDetector,
    load_points,
    make_cascade,
)
from shieldwall.detect.encoder import Opinion
from shieldwall.detect.odds import log_sum, logit, sigmoid
from shieldwall.detect.rulefile import parse_rules
from tests.detect.corpus import cut, toml
from tests.detect.weights import (
    BURNING,
    FILLER,
    HINTED,
    PLAYED,
    POINTS,
    SHOUTED,
    TRUSTED,
    encoder_folder,
    foreign_folder,
    random_fast,
    telling_fast,
    telling_tier,
)

SENTENCE = " ".join(FILLER) + " "
ATTACK = "open the gate now"
"""What the one rule of these tests finds; harmless data."""
LISBON = "Good morning, what is the weather like in Lisbon today"


class Asked:
    """An encoder that remembers what it was asked, and says what it was told to say."""

    version = "asked-encoder"

    def __init__(self, opinion: Opinion | None = None, **more: Any) -> None:
        self.opinion = opinion or Opinion(0.5, 0.0, 0.0, "injection", (0, 1), 1)._replace(**more)
        self.texts: list[str] = []
        self.threads: set[int] = set()

    def judge(self, text: str, surface: str = "prompt") -> Opinion | None:
        self.texts.append(text)
        self.threads.add(threading.get_ident())
        return self.opinion


class Silent(Asked):
    """An encoder that does not know the language."""

    def judge(self, text: str, surface: str = "prompt") -> Opinion | None:
        super().judge(text, surface)
        return None


class Waiting(Asked):
    """An encoder that answers when the test lets it."""

    def __init__(self) -> None:
        super().__init__(logit=3.0)
        self.asked, self.go = threading.Event(), threading.Event()

    def judge(self, text: str, surface: str = "prompt") -> Opinion | None:
        self.asked.set()
        assert self.go.wait(30)
        return super().judge(text, surface)


@cache
def rules() -> RuleDetector:
    return RuleDetector(parse_rules(toml()))


@cache
def fast() -> FastTier:
    return telling_tier()


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    """A real encoder that hears the shout and the trusted word, and holds the hint for harmless."""
    return Encoder(encoder_folder(tmp_path_factory.mktemp("tiny")))


def cascade(encoder: Any = None, points: Points = POINTS, **more: Any) -> Cascade:
    return Cascade(rules(), fast(), encoder, points, **more)


def segment(text: str, surface: Surface = Surface.PROMPT, trust: Trust = Trust.USER, path: str = "/0") -> Segment:
    return Segment(text, surface=surface, trust=trust, path=path)


def asked(*texts: str | Segment, direction: Direction = Direction.REQUEST) -> Event:
    segments = tuple(
        msgspec.structs.replace(text, path=f"/{number}")
        if isinstance(text, Segment)
        else segment(text, path=f"/{number}")
        for number, text in enumerate(texts)
    )
    return Event(id="e", time=utc(0), segments=segments, direction=direction)


def answered(*texts: str) -> Event:
    return asked(*(segment(text, Surface.RESPONSE, Trust.MODEL) for text in texts), direction=Direction.RESPONSE)


def told(found: list[Finding]) -> list[tuple[str, str, tuple[int, int] | None]]:
    return [(finding.detector, finding.path, finding.span) for finding in found]


# --- Which tier is asked -------------------------------------------------------------------------------------------


def test_a_harmless_text_costs_the_cheap_tiers_only() -> None:
    """Rules and the fast tier have read it, nothing is in doubt, nobody asks the encoder."""
    encoder = Asked()
    found = cascade(encoder).judge(asked(SENTENCE, SENTENCE * 100))

    assert isinstance(found, Findings)
    assert found == []
    assert [(tier.name, tier.stop) for tier in found.tiers] == [("rules", ""), ("fast", "clear")]
    assert all(tier.us >= 0 for tier in found.tiers)
    assert found.complete
    assert 0.0 < found.score < 0.05
    assert encoder.texts == []


def test_what_is_in_doubt_is_asked_about() -> None:
    """The encoder gets the window with a little before it, folded; of the harmless rest it gets nothing."""
    encoder = Asked(logit=-5.0)
    found = cascade(encoder).judge(asked(SENTENCE * 20 + HINTED + " " + SENTENCE * 20, SENTENCE))

    assert isinstance(found, Findings)
    assert found == []
    assert [(tier.name, tier.stop) for tier in found.tiers] == [("rules", ""), ("fast", ""), ("encoder", "")]
    assert 1 <= len(encoder.texts) <= 2
    assert all(HINTED in text and len(text) < 700 for text in encoder.texts)
    assert found.score == pytest.approx(sigmoid(-5.0))


def test_the_encoder_decides_what_is_in_doubt(tiny: Encoder) -> None:
    """It finds what the fast tier only suspects, and lets go what the fast tier would have found by itself."""
    (finding,) = cascade(tiny).judge(asked(f"the garden {TRUSTED}"))
    assert (finding.detector, finding.category) == ("encoder", Category.INJECTION)
    assert cascade(tiny).judge(asked(f"the garden {HINTED}")) == []
    assert cascade(Asked(logit=-9.0)).judge(asked(SHOUTED)) == []
    assert [each.detector for each in cascade().judge(asked(SHOUTED))] == ["fast"]
    assert cascade().judge(asked(HINTED)) == []


def test_the_most_suspicious_window_is_asked_about_first() -> None:
    """When time ends, what is left is what mattered least; each window is asked about once."""
    encoder = Asked(logit=-9.0)
    cascade(encoder).judge(asked(f"{HINTED} one", f"{SHOUTED} two", f"{HINTED} three"))

    assert [text.split()[-1] for text in encoder.texts] == ["two", "one", "three"]


def test_opinions_are_joined_by_the_points() -> None:
    """A weight for each logit and what is added; found from a probability on, and the finding says which."""
    points = Points(ask={"default": -2.0}, alone={"default": 2.0}, encoder=0.5, fast=2.0, base=1.0, found=0.7)
    raw = fast().windows(HINTED.encode(), "prompt").attacks[0]

    for value in (3.0, 5.0):
        score = sigmoid(0.5 * value + 2.0 * raw + 1.0)
        found = cascade(Asked(logit=value), points).judge(asked(HINTED))

        assert isinstance(found, Findings)
        assert found.score == pytest.approx(score)
        assert [finding.score for finding in found] == ([round(score, 4)] if score >= 0.7 else [])


def test_an_encoder_that_does_not_know_the_language_leaves_it_to_the_fast_tier() -> None:
    """Its silence is no opinion: a shout is found by the fast tier, a hint is not, and the score is the fast tier's."""
    encoder = Silent()
    (finding,) = found = cascade(encoder).judge(asked(SHOUTED))

    assert isinstance(found, Findings)
    assert finding.detector == "fast"
    assert found.score == pytest.approx(finding.score, abs=1e-4)
    assert cascade(encoder).judge(asked(HINTED)) == []
    assert len(encoder.texts) == 2


def test_each_surface_has_its_points() -> None:
    """What is asked about in a document need not be in a prompt; a surface without points takes the default."""
    points = Points(ask={"default": -2.0, "prompt": 4.0}, alone={"default": 2.0, "prompt": 9.0, "document": -2.0})
    encoder = Asked(logit=-9.0)
    for surface, texts in ((Surface.PROMPT, 0), (Surface.DOCUMENT, 1), (Surface.TOOL_RESULT, 1)):
        cascade(encoder, points).judge(asked(segment(HINTED, surface)))
        assert len(encoder.texts) == texts
        encoder.texts.clear()

    assert cascade(None, points).judge(asked(segment(SHOUTED, Surface.PROMPT))) == []
    assert cascade(None, points).judge(asked(segment(HINTED, Surface.DOCUMENT)))


@pytest.mark.parametrize("word", [SHOUTED, BURNING, HINTED])
@pytest.mark.parametrize("encoder", [None, Asked(logit=9.0)])
def test_what_an_operator_wrote_is_not_judged_by_learned_tiers(encoder: Asked | None, word: str) -> None:
    """Rules read it, the others do not, whatever it says: its words are orders for the model."""
    text = f"{word} {ATTACK}"
    event = asked(segment(text, Surface.SYSTEM, Trust.OPERATOR))
    found = cascade(encoder).judge(event)

    assert [finding.detector for finding in found] == ["rules"]
    assert isinstance(found, Findings)
    assert found.score == 0.0
    assert encoder is None or encoder.texts == []
    assert [each.detector for each in _streamed(cascade(encoder), event, [text.encode()])] == ["rules"]


def test_an_answer_never_asks_the_encoder() -> None:
    """It could not while it streams, and an answer that comes whole must not be judged otherwise."""
    encoder = Asked(logit=9.0)
    here = cascade(encoder)

    assert here.judge(answered(HINTED)) == []
    assert [finding.detector for finding in here.judge(answered(SHOUTED))] == ["fast"]
    assert here.quick(answered(HINTED, SHOUTED)) is not None
    assert _streamed(here, answered(""), [HINTED.encode()]) == []
    assert encoder.texts == []


# --- Harm ----------------------------------------------------------------------------------------------------------


def test_harm_is_a_finding_of_its_own() -> None:
    """By the fast tier in requests and answers; it is no attack, so the score does not speak of it."""
    for event in (asked(BURNING), answered(BURNING)):
        (finding,) = found = cascade().judge(event)

        assert isinstance(found, Findings)
        assert (finding.rule, finding.category) == ("shieldwall.harmful.learned.1", Category.HARMFUL)
        assert (finding.technique, finding.detector) == ("", "fast")
        assert finding.score > 0.9
        assert found.score < 0.01


def test_the_encoder_says_of_harm_what_it_thinks() -> None:
    """Where it is asked at all; a doubt about an attack may turn out as harm, or as both."""
    (one, other) = cascade(Asked(logit=9.0, harm=0.95)).judge(asked(HINTED))
    assert {one.category, other.category} == {Category.INJECTION, Category.HARMFUL}
    (harm,) = cascade(Asked(logit=-9.0, harm=0.95)).judge(asked(HINTED))

    assert (harm.category, harm.detector, harm.score) == (Category.HARMFUL, "encoder", 0.95)


def test_weights_that_rank_harm_upside_down_find_none() -> None:
    """Not even in a window that is given out because of an attack."""
    weights = telling_fast()._replace(header=FastHeader(version="upside", harm_slope=-1.0))
    found = Cascade(rules(), FastTier(weights), None, POINTS).judge(asked(SHOUTED, BURNING))

    assert [finding.category for finding in found] == [Category.INJECTION]


# --- Findings ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("word", "category", "technique"),
    [(SHOUTED, "injection", "AML.T0051"), (PLAYED, "jailbreak", "AML.T0054")],
)
def test_a_finding_says_what_where_and_by_whom(word: str, category: str, technique: str) -> None:
    """Rule, technique, surface, field, span in the original, detector and the version of its weights; not the text."""
    text = f"\u00e9\u00e9 {SENTENCE}{word}"
    finding = cascade().judge(asked("x", segment(text, Surface.DOCUMENT)))[0]

    assert finding.rule == f"shieldwall.{category}.learned.1"
    assert (finding.category, finding.technique) == (Category(category), technique)
    assert (finding.surface, finding.path) == (Surface.DOCUMENT, "/1")
    assert finding.span == (0, len(text))
    assert (finding.detector, finding.detector_version) == ("fast", "telling")
    assert finding.score == round(fast().judge(text.encode(), "document").score, 4) > 0.9
    assert word not in repr(finding)


def test_a_finding_of_the_encoder_names_the_encoder() -> None:
    """Its version, and the category that it says."""
    (finding,) = cascade(Asked(logit=2.0, category="extraction")).judge(asked(HINTED))

    assert (finding.rule, finding.technique) == ("shieldwall.extraction.learned.1", "AML.T0056")
    assert (finding.detector, finding.detector_version) == ("encoder", "asked-encoder")
    assert finding.score == round(sigmoid(2.0), 4)


@pytest.mark.parametrize("encoder", [None, Asked(logit=9.0)])
def test_findings_come_in_order_of_segment_then_of_span(encoder: Asked | None) -> None:
    """Whichever tier they are from, by `judge` and by `quick`."""
    loud = f"{SENTENCE * 12}{SHOUTED} {SENTENCE * 12}{ATTACK}. {SENTENCE * 12}{SHOUTED}"
    event = asked(loud, SENTENCE, f"{ATTACK}. {SENTENCE * 12}{PLAYED}", f"{SHOUTED} {ATTACK}")
    here = cascade(encoder)
    for found in (here.judge(event), here.quick(event) or here.judge(event)):
        places = [(finding.path, finding.span or (0, 0)) for finding in found]

        assert places == sorted(places)
        assert {path for path, _ in places} == {"/0", "/2", "/3"}
        assert {finding.detector for finding in found} == {"rules", "encoder" if encoder else "fast"}


def test_a_long_text_is_judged_to_its_end() -> None:
    """A needle behind hundreds of kilobytes, and one in code."""
    hidden = base64.b64encode(f"the garden {SHOUTED} the garden".encode()).decode()
    for text in (SENTENCE * 5_000 + SHOUTED, f"{SENTENCE * 50}{hidden} {SENTENCE}"):
        found = cascade().judge(asked(text))
        assert found
        assert all(finding.span and finding.span[1] > 2_000 for finding in found)


def test_half_a_character_does_not_raise() -> None:
    """JSON can escape a lone surrogate; the learned tiers go on."""
    assert [finding.span for finding in cascade().judge(asked(f"\ud800 {SHOUTED}"))] == [(0, 2 + len(SHOUTED))]


# --- Quick, and the budget -----------------------------------------------------------------------------------------


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(st.sampled_from([SENTENCE, HINTED, SHOUTED, BURNING, ATTACK, "", "\u5ead" * 9]), max_size=4),
    st.sampled_from(list(Direction)),
    st.booleans(),
    st.sampled_from([Trust.OPERATOR, Trust.USER]),
)
def test_quick_gives_up_exactly_where_the_encoder_would_be_asked(
    texts: list[str],
    direction: Direction,
    has_encoder: bool,  # noqa: FBT001
    trust: Trust,
) -> None:
    """None means that `judge` asks it; everything else is what `judge` says, and nobody was asked for it."""
    encoder = Asked(logit=9.0)
    here = cascade(encoder if has_encoder else None)
    event = asked(*(segment(f"{text} ", trust=trust) for text in texts), direction=direction)

    quick = here.quick(event)
    assert encoder.texts == []
    found = here.judge(event)

    assert (quick is None) == bool(encoder.texts)
    if quick is not None:
        assert isinstance(quick, Findings)
        assert isinstance(found, Findings)
        assert (quick, quick.score, quick.complete) == (found, found.score, found.complete)
        assert [(tier.name, tier.stop) for tier in quick.tiers] == [(tier.name, tier.stop) for tier in found.tiers]


@pytest.mark.parametrize(("size", "is_quick"), [((32 << 10) - 1, True), (32 << 10, True), ((32 << 10) + 1, False)])
def test_quick_gives_up_where_there_is_much_to_read(size: int, is_quick: bool) -> None:  # noqa: FBT001
    """All segments together, each with what it costs to begin it; in an answer too, as others wait as long."""
    text = "beans " * (size // 6 + 1)
    half, rest = size // 2 - 256, size - size // 2 - 256
    for event in (asked(text[:half], text[:rest]), answered(text[: size - 256])):
        assert (cascade().quick(event) is not None) is is_quick


@pytest.mark.parametrize("budget_s", [0.0, 1e-9])
def test_without_time_the_fast_tier_has_the_word(budget_s: float) -> None:
    """The verdict is not complete, says which tier met the deadline, and still finds what the fast tier finds."""
    encoder = Asked(logit=9.0)
    here = cascade(encoder, budget_s=budget_s)
    found = here.judge(asked(SHOUTED, HINTED, SENTENCE))

    assert isinstance(found, Findings)
    assert encoder.texts == []
    assert not found.complete
    assert told(found) == [("fast", "/0", (0, len(SHOUTED)))]
    assert found.score == pytest.approx(found[0].score, abs=1e-4)
    assert [(tier.name, tier.stop) for tier in found.tiers] == [("rules", ""), ("fast", ""), ("encoder", "deadline")]
    assert here.judge(asked(SENTENCE)) == []
    calm = here.judge(asked(SENTENCE))
    assert isinstance(calm, Findings)
    assert calm.complete


def test_one_waits_for_a_turn_no_longer_than_its_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many ask as there are cores; the next waits, and when its time is up it stands as the fast tier sees it."""
    monkeypatch.setattr("os.cpu_count", lambda: 1)
    encoder = Waiting()
    here = cascade(encoder, budget_s=0.05)
    first: list[list[Finding]] = []
    thread = threading.Thread(target=lambda: first.append(here.judge(asked(HINTED))))
    thread.start()
    assert encoder.asked.wait(30)

    late = here.judge(asked(SHOUTED))
    encoder.go.set()
    thread.join(30)

    assert isinstance(late, Findings)
    assert (late.complete, [finding.detector for finding in late]) == (False, ["fast"])
    assert [finding.detector for finding in first[0]] == ["encoder"]
    assert encoder.texts == [HINTED]


def test_a_failing_encoder_gives_its_turn_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it raises is not hidden, and the next event is not locked out."""
    monkeypatch.setattr("os.cpu_count", lambda: 1)

    class Failing(Asked):
        def judge(self, text: str, surface: str = "prompt") -> Opinion | None:
            super().judge(text, surface)
            raise RuntimeError("broken")

    encoder = Failing()
    here = cascade(encoder)
    for _ in range(3):
        with pytest.raises(RuntimeError):
            here.judge(asked(HINTED))

    assert len(encoder.texts) == 3


def test_many_tiny_segments_are_not_judged_while_others_wait() -> None:
    """To begin each costs time, however little it says; so does text that is folded or decoded, unlike plain text."""
    here = cascade()
    plain = "beans " * 2000

    assert here.quick(asked(*["a"] * 400)) is None
    assert here.quick(asked(*["a"] * 12)) is not None
    assert here.quick(asked(plain)) is not None
    for more in ("caf\u00e9", "%41", base64.b64encode(b"x" * 60).decode()):
        assert here.quick(asked(plain + more)) is None
        assert here.quick(asked(f"{LISBON} {more}")) is not None


def test_blanks_between_words_do_not_cost_the_encoder_its_time() -> None:
    """A window stretched by a megabyte of them is shown without, and its span is that of the whole."""
    encoder = Asked(logit=9.0)
    text = f"the{' ' * 500_000}garden{chr(10) * 500_000}{HINTED}"
    (finding,) = cascade(encoder).judge(asked(text))

    assert encoder.texts == [f"the garden {HINTED}"]
    assert finding.span == (0, len(text))


# --- Streams -------------------------------------------------------------------------------------------------------


def _streamed(here: Cascade, event: Event, pieces: list[bytes], skims: list[bool] | None = None) -> list[Finding]:
    """Findings of a field in pieces; as the gateway does, some are skimmed where the judge lets them."""
    judge = here.stream(event)
    found: list[Finding] = []
    fed = released = 0
    for number, piece in enumerate(pieces):
        fed += len(piece)
        release = judge.skim(piece) if skims and skims[number % len(skims)] else None
        if release is None:
            release, new = judge.feed(piece)
            found += new
        assert released <= release <= fed
        released = release
    return [*found, *judge.end()]


ANSWERS = st.lists(
    st.one_of(
        st.sampled_from([SENTENCE, SENTENCE * 6, SHOUTED + " ", PLAYED + " ", BURNING + " ", HINTED + " "]),
        st.sampled_from(
            [ATTACK + ". ", "caf\u00e9 gru\u0308n ", "\u5ead" * 40, " " * 700, "a3Jhd29s" * 9, "%20krawol"]
        ),
        st.text(max_size=15),
    ),
    max_size=9,
).map("".join)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(ANSWERS, st.lists(st.integers(0, 1 << 16), max_size=30), st.lists(st.booleans(), min_size=1, max_size=5))
def test_an_answer_is_judged_alike_streamed_and_whole(text: str, places: list[int], skims: list[bool]) -> None:
    """Any cut, skimmed or fed: the findings of the whole text, each once."""
    here = cascade(Asked(logit=9.0))
    event = answered("")
    event = msgspec.structs.replace(event, segments=(msgspec.structs.replace(event.segments[0], text=""),))
    whole = here.judge(answered(text))

    pieces = _streamed(here, event, cut(text.encode(errors="surrogatepass"), places), skims)

    def key(finding: Finding) -> tuple[tuple[int, int], str, float]:
        return (finding.span or (0, 0), finding.rule, finding.score)

    assert sorted(pieces, key=key) == sorted(whole, key=key)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(ANSWERS, st.lists(st.integers(0, 1 << 16), max_size=10), st.integers(1, 3))
def test_random_weights_judge_alike_streamed_and_whole(text: str, places: list[int], seed: int) -> None:
    """Also weights that have an opinion of everything, of texts without words and of empty ones too."""
    points = Points(ask={"default": -1.0}, alone={"default": -1.0}, harmful=0.1)
    here = Cascade(rules(), FastTier(random_fast(seed)), None, points)
    whole = here.judge(answered(text))
    pieces = _streamed(here, answered(""), cut(text.encode(errors="surrogatepass"), places))

    def key(finding: Finding) -> tuple[tuple[int, int], str, float]:
        return (finding.span or (0, 0), finding.rule, finding.score)

    assert sorted(pieces, key=key) == sorted(whole, key=key)


def test_what_is_found_while_skimming_is_told_next() -> None:
    """A skim takes bytes and gives no findings; the next step, or the end, does."""
    for finish in ("feed", "end"):
        judge = cascade().stream(answered(""))
        loud = f"{SHOUTED} {SENTENCE * 8}".encode()
        assert judge.skim(loud) == len(loud)
        assert judge.skim(SENTENCE.encode()) is None
        found = judge.feed(b"x")[1] if finish == "feed" else judge.end()

        assert [finding.detector for finding in found] == ["fast"]
        if finish == "feed":
            assert judge.end() == []


# --- Self-test, points, making -------------------------------------------------------------------------------------


def test_the_self_test_refuses_blind_weights() -> None:
    """A tier that hears nothing, and one that hears attacks everywhere, stop the node and are named."""
    deaf = telling_tier()
    eager = FastTier(telling_fast()._replace(last_bias=telling_fast().last_bias[[1, 0, 2, 3, 4]]))
    assert deaf.judge(LISBON.encode()).score < 0.5 < eager.judge(LISBON.encode()).score

    for weights in (deaf, eager):
        with pytest.raises(SelfTestFailed, match="fast tier"):
            Cascade(rules(), weights, None, POINTS).self_test()


class Hearing(FastTier):
    """A fast tier that passes its own test."""

    def judge(self, folded: bytes, surface: str = "prompt") -> Any:
        attack = b"instructions" in folded
        return super().judge(folded, surface)._replace(score=0.9 if attack else 0.1)


class Says(Asked):
    """An encoder that says one thing of everything, or the right thing."""

    def judge(self, text: str, surface: str = "prompt") -> Opinion | None:
        right = "instructions" in text
        if self.opinion.score == 0.5:
            return self.opinion._replace(score=0.9 if right else 0.1)
        return self.opinion


def test_the_self_test_refuses_a_blind_encoder() -> None:
    """Silent, deaf and eager ones; one that tells them apart passes."""
    hearing = Hearing(telling_fast())
    for encoder in (Silent(), Says(score=0.01), Says(score=0.99)):
        with pytest.raises(SelfTestFailed, match="encoder tier"):
            Cascade(rules(), hearing, encoder, POINTS).self_test()  # type: ignore[arg-type]

    Cascade(rules(), hearing, Says(), POINTS).self_test()  # type: ignore[arg-type]
    Cascade(rules(), hearing, None, POINTS).self_test()


def test_the_self_test_begins_with_the_rules() -> None:
    """A rule that misses its own example stops the node as it did before."""
    blind = RuleDetector(parse_rules(toml(match='["nothing", "of", "the kind"]')))

    with pytest.raises(SelfTestFailed, match=r"test\.injection\.sample\.1"):
        Cascade(blind, Hearing(telling_fast()), None, POINTS).self_test()


def test_the_packaged_tiers_pass_their_self_test() -> None:
    """The node starts with what is shipped, and its version names all three."""
    here = make_cascade(rules())

    here.self_test()
    assert len(here.version.split("-")) == 3
    assert here.version.startswith(rules().version[:8])


INSTALLS = """
import sys
from shieldwall.core.errors import ConfigError, MissingExtra
from shieldwall.detect import RuleDetector, make_cascade

class Broken:
    name = ""
    def find_spec(self, name, path=None, target=None):
        if name == self.name:
            raise ImportError("two versions do not fit")

rules, broken = RuleDetector(), Broken()
sys.meta_path.insert(0, broken)
for name in ("numpy", "numba", "onnxruntime", "tokenizers"):
    for broken.name, modules in ((name, {}), ("", {name: None})):
        sys.modules.update(modules)
        try:
            make_cascade(rules)
        except (ConfigError, MissingExtra) as error:
            print(name, type(error).__name__)
    del sys.modules[name]
"""


def test_what_is_not_installed_can_be_done_without_and_what_is_broken_cannot() -> None:
    """A node without the extra starts with its rules; one whose extra does not work must not do so unnoticed."""
    done = subprocess.run([sys.executable, "-c", INSTALLS], capture_output=True, text=True, check=True)
    names = ("numpy", "numba", "onnxruntime", "tokenizers")

    assert done.stdout.splitlines() == [
        f"{name} {error}" for name in names for error in ("ConfigError", "MissingExtra")
    ]


def test_another_encoder_by_path(tmp_path: Path) -> None:
    """A user's own classifier is asked instead; its logits are on another scale, so its own word counts."""
    here = make_cascade(rules(), foreign_folder(tmp_path))
    packaged = load_points()

    assert here._encoder is not None
    assert here._encoder.header.classes == ("benign", "injection")
    assert here._points == msgspec.structs.replace(packaged, encoder=1.0, fast=0.0, base=0.0)
    assert here.version != make_cascade(rules()).version


def test_another_encoder_that_is_none(tmp_path: Path) -> None:
    """A path without a model is an error at the start, not at the first doubt."""
    with pytest.raises(ConfigError, match="holds no ONNX model"):
        make_cascade(rules(), tmp_path)


def test_a_version_follows_every_tier(tiny: Encoder) -> None:
    """Other rules, other weights or another encoder are another version."""
    other = RuleDetector(parse_rules(toml(score="0.8")))
    versions = {
        Cascade(one, two, three, POINTS).version  # type: ignore[arg-type]
        for one in (rules(), other)
        for two in (fast(), FastTier(random_fast(header=FastHeader(version="other"))))
        for three in (None, tiny, Asked())
    }

    assert len(versions) == 12


GOOD_POINTS = {"ask": {"default": -1.0, "prompt": 0.5}, "alone": {"default": 2.0}, "encoder": 0.7, "base": -0.1}
BAD_POINTS: dict[str, bytes | dict[str, Any]] = {
    "empty": b"",
    "bytes": b"\xff\xfe",
    "cut off": msgspec.json.encode(GOOD_POINTS)[:-5],
    "a list": b"[]",
    "without end": b'{"ask":' + b"[" * 100_000,
    "no default": GOOD_POINTS | {"ask": {"prompt": 1.0}},
    "no default alone": GOOD_POINTS | {"alone": {}},
    "an unknown field": GOOD_POINTS | {"asks": 1.0},
    "a word": GOOD_POINTS | {"encoder": "much"},
    "a number beyond all": msgspec.json.encode(GOOD_POINTS).replace(b"0.7", b"1e999"),
    "harm for certain": GOOD_POINTS | {"harmful": 1.0},
    "harm beyond certain": GOOD_POINTS | {"harmful": 1.5},
    "no harm at all": GOOD_POINTS | {"harmful": 0.0},
    "found below nothing": GOOD_POINTS | {"found": -0.5},
    "found never": GOOD_POINTS | {"found": 1.0},
}


@pytest.mark.parametrize("case", BAD_POINTS)
def test_bad_points_are_a_clear_error(case: str, tmp_path: Path) -> None:
    """What would fail at the first event fails when the file is read."""
    data = BAD_POINTS[case]
    (tmp_path / "points.json").write_bytes(data if isinstance(data, bytes) else msgspec.json.encode(data))

    with pytest.raises(ConfigError, match="operating points") as error:
        load_points(tmp_path / "points.json")

    assert error.value.hint


def test_points_are_read_from_a_file(tmp_path: Path) -> None:
    """By surface, or the default; a file that is not there is an error of ours."""
    (tmp_path / "points.json").write_bytes(msgspec.json.encode(GOOD_POINTS))
    points = load_points(tmp_path / "points.json")

    assert (points.asks("prompt"), points.asks("document"), points.acts("prompt")) == (0.5, -1.0, 2.0)
    assert points.joint(2.0, 100.0) == pytest.approx(sigmoid(1.3))
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(ConfigError, match="cannot be read"):
            load_points(path)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_points_are_finite(value: float) -> None:
    """A number that is none would find everything or nothing."""
    for field in ("encoder", "fast", "base", "found", "harmful"):
        with pytest.raises(ValueError, match=r"finite|probabilities"):
            Points(**{"ask": {"default": 0.0}, "alone": {"default": 0.0}, field: value})


@given(st.floats(1e-9, 1 - 1e-9))
def test_a_logit_is_the_way_back(probability: float) -> None:
    """And no logit is too large to have a probability."""
    assert sigmoid(logit(probability)) == pytest.approx(probability)
    assert 0.0 < sigmoid(-1e308) < 1e-20
    assert 1.0 - 1e-20 <= sigmoid(1e308) <= 1.0


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=6))
def test_a_sum_of_exponentials_does_not_overflow(values: list[float]) -> None:
    """It is at least the largest, and at most that and the logarithm of how many there are."""
    assert max(values) <= log_sum(values) <= max(values) + 1.8


# --- Through the guard ---------------------------------------------------------------------------------------------


class Blocker:
    """A policy that blocks on any finding."""

    def decide(self, event: Event, findings: Any) -> Decision:
        action = Action.BLOCK if findings else Action.ALLOW
        return Decision(action=action, policy=PolicyRef("rule", "ab" * 32))


def guard(detector: Cascade, aside: Any = asyncio.to_thread) -> Guard:
    surroundings = Surroundings(lambda: 0, lambda: 0, bytes, aside=aside)
    return Guard(detector=detector, policy=Blocker(), surroundings=surroundings)


async def test_a_verdict_tells_the_tiers_the_score_and_whether_it_is_complete() -> None:
    """By every way through the guard: in a thread, in a loop, with findings made on the way."""
    uninspected = Finding(rule="a.uninspected.b.1", category=Category.UNINSPECTED, score=0.0)
    here = guard(cascade(Asked(logit=-1.0)))
    for verdict in (
        here.inspect(asked(HINTED)),
        await here.ainspect(asked(HINTED)),
        here.judge(asked(HINTED), also=[uninspected]).verdict,
        (await here.ajudge(asked(HINTED), also=[uninspected])).verdict,
    ):
        assert [tier.name for tier in verdict.tiers] == ["rules", "fast", "encoder"]
        assert verdict.score == pytest.approx(sigmoid(-1.0))
        assert verdict.complete

    clear = here.inspect(asked(SENTENCE))
    assert [(tier.name, tier.stop) for tier in clear.tiers] == [("rules", ""), ("fast", "clear")]
    assert (clear.action, clear.findings) == (Action.ALLOW, ())
    assert 0.0 < clear.score < 0.05
    late = guard(cascade(Asked(logit=9.0), budget_s=0.0)).inspect(asked(SHOUTED))
    assert (late.complete, late.action) == (False, Action.BLOCK)
    assert isinstance(late.tiers[-1], Tier)
    assert late.tiers[-1].stop == "deadline"


async def test_what_is_late_is_put_to_the_policy_and_is_no_finding() -> None:
    """A policy may stop what was not judged in time; the record says why, and names nothing that was not found."""
    here = guard(cascade(Asked(logit=9.0), budget_s=0.0))
    for verdict in (here.inspect(asked(HINTED)), await here.ainspect(asked(HINTED))):
        assert (verdict.action, verdict.complete, verdict.findings) == (Action.BLOCK, False, ())
    in_time = guard(cascade(Asked(logit=-9.0))).inspect(asked(HINTED))

    assert (in_time.action, in_time.complete) == (Action.ALLOW, True)


def test_the_score_is_that_of_a_finding_or_what_is_known_beyond() -> None:
    """A weak finding does not lower what the tiers think of the whole."""
    weak = Finding(rule="a.injection.b.1", category=Category.INJECTION, score=0.2)

    assert attack_score(Findings([weak], score=0.4)) == 0.4
    assert attack_score(Findings([weak], score=0.1)) == 0.2
    assert attack_score([weak]) == 0.2


async def test_the_loop_goes_on_while_the_encoder_is_asked() -> None:
    """Others are judged meanwhile: a doubt waits in a thread of its own."""
    encoder = Waiting()
    here = guard(cascade(encoder))
    doubt = asyncio.create_task(here.ajudge(asked(HINTED)))
    assert await asyncio.to_thread(encoder.asked.wait, 30)

    others = [await here.ajudge(asked(SENTENCE)) for _ in range(20)]
    before = doubt.done()
    encoder.go.set()
    verdict = (await doubt).verdict

    assert before is False
    assert [other.verdict.action for other in others] == [Action.ALLOW] * 20
    assert [finding.detector for finding in verdict.findings] == ["encoder"]
    assert threading.get_ident() not in encoder.threads


async def test_what_is_plain_is_judged_at_once() -> None:
    """A harmless request does not pay for a switch to a thread; a doubt, and a book, do."""
    switched: list[Event] = []

    async def aside(judge: Any, event: Event) -> Any:
        switched.append(event)
        return await asyncio.to_thread(judge, event)

    here = guard(cascade(Asked(logit=9.0)), aside)
    await here.ajudge(asked(SENTENCE, ATTACK))
    await here.ajudge(answered(SHOUTED, HINTED))
    assert switched == []
    await here.ajudge(asked(HINTED))
    await here.ajudge(asked(SENTENCE * 5_000))

    assert len(switched) == 2
