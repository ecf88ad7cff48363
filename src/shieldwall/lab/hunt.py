# SPDX-License-Identifier: Apache-2.0
"""One attack under search: which variants are tried next, and when one has passed.

Asks nobody: a search is a generator that yields variants and is sent their judgements, so that whoever drives it can
put the questions of many searches into one call. The same seed and number give the same search.
"""

import math
import random
from collections import Counter, defaultdict
from collections.abc import Generator, Mapping, Sequence
from typing import NamedTuple

from shieldwall.lab.defence import Judged
from shieldwall.lab.mutate import FINE, MOVES, apply, walk
from shieldwall.lab.result import Threshold
from shieldwall.lab.suite import Row

__all__ = ["SEARCHES", "Hunt", "Odds", "Options", "Search", "Variant", "passes"]

SEARCHES = ("guided", "random")

_BEAM = 4
"""Variants that are kept."""
_BROOD = 16
"""Variants made from them before the defence is asked again."""
_TRIES = 200
"""Moves that changed nothing, or gave what was tried before, after which a search has no more ideas."""
_STOPS = 0.5
"""Chance that a variant is done after a move."""
_AFRESH = 0.4
"""Share of variants made from the original again: a move that went badly cannot be taken back, only made anew."""
_FINE_PER_MOVE = 4
"""Moves of one word that change a text as much as another move does."""
_HALF = 0.5


class Options(NamedTuple):
    """How an attacker goes about it."""

    threshold: Threshold | None = None
    """A text passes below it. None for the defence's own decision, where it makes one, else one half."""
    search: str = "guided"
    """One of `SEARCHES`."""
    budget: int = 100
    """Queries for one attack, the unchanged one included."""
    most: int = 4
    """Moves of one variant: with more, little is left to read. Moves of one word count a quarter."""
    moves: tuple[str, ...] = tuple(MOVES)
    """Names of those the attacker may make."""
    seed: int = 0
    batch: int = 64
    """Texts per call at most."""


class Variant(NamedTuple):
    """An attack after some moves."""

    text: str
    moves: tuple[str, ...] = ()
    parent: float = math.nan
    """Score of what it was made from."""
    added: int = 0
    """How many of its moves, the last ones, its parent has not."""


class Odds:
    """How much each move brought scores down, so far; what is not known yet counts as promising."""

    _FLOOR = 0.1
    _PRIOR, _PRIOR_GAIN = 3, 0.3

    def __init__(self) -> None:
        self._tries = Counter[str]()
        self._gains: defaultdict[str, float] = defaultdict(float)

    def copy(self) -> "Odds":
        """The same, to be taught apart."""
        made = Odds()
        made._tries.update(self._tries)
        made._gains.update(self._gains)
        return made

    def weight(self, move: str) -> float:
        """How often to try it, relative to the others; never zero."""
        gain = (self._gains[move] + self._PRIOR * self._PRIOR_GAIN) / (self._tries[move] + self._PRIOR)
        return self._FLOOR + max(0.0, gain)

    def learn(self, variant: Variant, score: float) -> None:
        """Count what a variant's new moves did to the score of what it was made from; each gets the whole of it."""
        if math.isnan(variant.parent + score):
            return
        for move in variant.moves[len(variant.moves) - variant.added :]:
            self._tries[move] += 1
            self._gains[move] += variant.parent - score


Search = Generator[list[Variant], list[Judged], None]


_Kept = tuple[float, float, Variant]
"""Score, a number by chance that breaks ties, and the variant."""


class Hunt:
    """One attack under search: what was tried, and how it ended."""

    def __init__(self, row: Row, options: Options, number: int, odds: Odds) -> None:
        self.row = row
        self.tried: list[tuple[Variant, Judged, bool]] = []
        """What was asked, up to the first that passed; its length is the number of queries."""
        self.state = "held"
        self._options = options
        # What one attack teaches is used for it at once, and for the others from the next wave on.
        self._odds = odds.copy()
        # Each attack has its own chance: what comes does not depend on how many are searched beside it.
        self._chance = random.Random(f"{options.seed}/{number}")  # noqa: S311  repeatable, no secret

    def search(self) -> Search:
        """Ask about variants until one passes; what is yielded is to be judged, in that order."""
        first = Variant(self.row.text)
        self._take([first], (yield [first]))
        judged = self.tried[0][1]
        if judged.failure or self.state == "evaded":
            self.state = "failed" if judged.failure else "missed"
            return
        ideas = self._guided if self._options.search == "guided" else self._random
        yield from ideas(judged.score)

    def _take(self, variants: Sequence[Variant], answers: Sequence[Judged]) -> None:
        for variant, judged in zip(variants, answers, strict=True):
            passed = passes(judged, self._options.threshold)
            self.tried.append((variant, judged, passed))
            if passed:
                self.state = "evaded"
                return

    def _left(self) -> int:
        return min(_BROOD, self._options.budget - len(self.tried))

    def _random(self, _: float) -> Search:
        seen, idle = {self.row.text}, 0
        while self.state == "held" and self._left() > 0 and idle < _TRIES:
            brood = list[Variant]()
            while len(brood) < self._left() and idle < _TRIES:
                text, moves = walk(self.row.text, self._chance, self._options.most, self._options.moves)
                idle = idle + 1 if text in seen else 0
                if text not in seen:
                    seen.add(text)
                    brood.append(Variant(text, moves))
            if brood:
                self._take(brood, (yield brood))

    def _guided(self, score: float) -> Search:
        origin: _Kept = (score, 0.0, Variant(self.row.text))
        beam, seen = [origin], {self.row.text}
        while self.state == "held" and self._left() > 0:
            brood = self._bred(beam, origin, seen)
            if not brood:
                return
            already = len(self.tried)
            self._take(brood, (yield brood))
            for variant, judged, _ in self.tried[already:]:
                self._odds.learn(variant, judged.score)
            # Where a defence only says yes and no, all scores are equal and chance decides who is kept.
            beam += [
                (judged.score, self._chance.random(), variant)
                for variant, judged, _ in self.tried[already:]
                if not judged.failure
            ]
            beam = sorted(beam, key=lambda each: each[:2])[:_BEAM]

    def _bred(self, beam: Sequence[_Kept], origin: _Kept, seen: set[str]) -> list[Variant]:
        """New variants, each some moves from one that was kept or from the original, the moves by their odds."""
        brood, idle = list[Variant](), 0
        open_ones = [each for each in beam if self._open(each[2].moves)]
        weights = {move: self._odds.weight(move) for move in self._options.moves}
        while len(brood) < self._left() and idle < _TRIES:
            afresh = not open_ones or self._chance.random() < _AFRESH
            score, _, parent = origin if afresh else self._chance.choice(open_ones)
            variant = self._grown(parent, score, weights)
            idle = idle + 1 if variant.text in seen else 0
            if variant.text not in seen:
                seen.add(variant.text)
                brood.append(variant)
        return brood

    def _open(self, moves: Sequence[str]) -> list[str]:
        """Moves that may follow these: none twice but those of one word, and no more than allowed."""
        fine = sum(move in FINE for move in moves)
        room = self._options.most - (len(moves) - fine) - fine / _FINE_PER_MOVE
        return [
            move
            for move in self._options.moves
            if (room >= 1 / _FINE_PER_MOVE if move in FINE else room >= 1 and move not in moves)
        ]

    def _grown(self, parent: Variant, score: float, weights: Mapping[str, float]) -> Variant:
        """A parent after one more move, seldom several: where no single one lowers the score, two may."""
        text, moves = parent.text, parent.moves
        while names := self._open(moves):
            move = self._chance.choices(names, [weights[each] for each in names])[0]
            changed = apply(move, text, self._chance)
            if changed != text:
                text, moves = changed, (*moves, move)
            if self._chance.random() < _STOPS:
                break
        return Variant(text, moves, score, len(moves) - len(parent.moves))


def passes(judged: Judged, threshold: Threshold | None) -> bool:
    """Whether a text got through: by the threshold, else by the defence's own decision, else by one half."""
    if judged.failure:
        return False
    if threshold is not None:
        return judged.score < threshold.value
    return judged.score < _HALF if judged.flagged is None else not judged.flagged
