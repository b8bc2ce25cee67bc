"""The agenda: which trials of a sweep may start now, given the rows so far.

Knows the studies, their rows, and the points at which more is decided: once all rows exist that a decision depends on,
so that timing, concurrency and crashes cannot change what is tried. Never knows Ray, a file, or how a suggestion, a
warm start or an allocation comes about.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from sweeps.plan import Cell, Cells, Study, study_key
from sweeps.points import start_of
from sweeps.pruning import checks_of
from sweeps.search import Finished, askable, best_of, check_sampler, point_of, suggest
from trainer.trial import TrialSpec

if TYPE_CHECKING:
    from sweeps.allocation import Decision
    from sweeps.warm import Edge, Past


@dataclass(frozen=True, kw_only=True, slots=True)
class _Asked:
    """A study that runs: its space, and how many of its searching trials are asked for as far as is known."""

    study: Study
    """With the space that is searched."""
    num_searched: int
    ended: bool
    """Whether no more searching trials will be asked for."""
    reason: str
    """Why it ended early; empty where it did not."""

    def numbers(self, rows: Mapping[int, Finished]) -> list[int]:
        """The trials that may be asked for now, with or without a row, the lag aside."""
        numbers = list(range(self.num_searched))
        if self.ended and all(n in rows for n in numbers) and best_of(self.study, rows) is not None:
            numbers += range(self.study.num_searched, self.study.num_trials)
        return numbers

    def is_done(self, rows: Mapping[int, Finished]) -> bool:
        return self.ended and all(n in rows for n in self.numbers(rows))

    def possible(self, rows: Mapping[int, Finished]) -> list[int]:
        """The trials that may yet be asked for."""
        if self.is_done(rows):
            return []
        upto = self.num_searched if self.ended else self.study.num_searched
        return [*range(upto), *range(self.study.num_searched, self.study.num_trials)]


class Agenda:
    """What is left of a sweep: which trials may start now, in which order, given the rows so far.

    Holds nothing that the rows do not tell, so it is built anew at each launch. ``studies`` are all of the plan; where
    they say so, only some of them are run (``sweeps/allocation.py``) and each is warmed first (``sweeps/warm.py``).
    Raises ``ValueError`` where a study's sampler cannot search it here.
    """

    def __init__(self, studies: Sequence[Study]) -> None:
        for study in studies:
            check_sampler(study)
        self._studies = {study.key: study for study in studies}
        self._cells = Cells(study.cell for study in studies)
        self._rows: dict[str, dict[int, Finished]] = {study.key: {} for study in studies}
        numbers = [(study, n) for study in studies for n in range(study.num_trials)]
        # Cheapest budget first; within it every study's first trial before any second one, the longest first.
        self._order = sorted(numbers, key=lambda item: (item[0].cell.budget_flops, item[1], -item[0].steps))
        self._budgets = sorted({study.cell.budget_flops for study in studies})
        self._adaptive = any(study.allocation.kind == "adaptive" for study in studies)
        self._forget()

    def _forget(self) -> None:
        """What follows from the rows, and is kept only to be quick."""
        self._asked: dict[str, _Asked] = {}
        self._left: frozenset[str] = frozenset()
        self._decisions: dict[Cell, Decision] = {}
        self._wanted_after: dict[int, tuple[int, list[Study]]] = {}
        """What is run at a budget once so many of its studies are done."""
        self._settled: set[int] = set()
        self._fresh = False

    @property
    def remaining(self) -> tuple[tuple[Study, int], ...]:
        """The trials without a row that may yet be asked for, in the order in which they would start."""
        self._look()
        possible = {key: set(asked.possible(self._rows[key])) for key, asked in self._asked.items()}
        return tuple(
            (study, n)
            for study, n in self._order
            if n not in self._rows[study.key]
            and study.key not in self._left
            and (study.key not in possible or n in possible[study.key])
        )

    @property
    def ruled_out(self) -> dict[Cell, int]:
        """How many trials of the plan will never be asked for, by cell, as far as is known."""
        self._look()
        found = {self._studies[key].cell: self._studies[key].num_trials - len(self._rows[key]) for key in self._left}
        for key, asked in self._asked.items():
            rows = self._rows[key]
            number = asked.study.num_trials - len(rows.keys() | set(asked.possible(rows)))
            if number:
                found[asked.study.cell] = number
        return found

    @property
    def decisions(self) -> tuple[Decision, ...]:
        """What was decided so far of cells, in the order of budgets, and why. Empty where the whole grid is run."""
        self._look()
        return tuple(self._decisions.values())

    @property
    def searched(self) -> tuple[tuple[Study, Mapping[int, Finished]], ...]:
        """The studies that have rows, with the space that each searches."""
        self._look()
        return tuple((asked.study, self._rows[key]) for key, asked in self._asked.items() if self._rows[key])

    @property
    def stopped(self) -> tuple[tuple[Study, str], ...]:
        """The studies that ended before all of their trials, and why."""
        self._look()
        return tuple((asked.study, asked.reason) for asked in self._asked.values() if asked.reason)

    @property
    def edges(self) -> tuple[Edge, ...]:
        """Hyperparameters whose best value lies at an end of what its study searched, of the studies that are done."""
        from sweeps.warm import edges

        self._look()
        return edges(self._done(lambda study: True))

    def tell(self, row: Finished) -> None:
        """Take note of a finished trial. Raises ``ValueError`` where it is none of this sweep's."""
        if problem := self.problem(row.spec):
            raise ValueError(problem)
        key, number = study_key(self._cell(row.spec)), row.spec.number
        if number in self._rows[key]:
            # A failure that was replaced by a result: what followed from it is looked at anew.
            self._forget()
        self._rows[key][number] = row
        self._fresh = False

    def problem(self, spec: TrialSpec) -> str:
        """Why a trial is none of this sweep's, in a sentence; empty where it is one."""
        cell = self._cells.of(spec)
        study = self._studies[study_key(cell)] if cell else None
        if study is None or spec.number >= study.num_trials:
            return (
                f"trial {spec.trial_id} is not part of the plan any more: the data or the limits have changed since it "
                "ran, so give the sweep another name or another --store"
            )
        for what, then, now in (("data", spec.data, study.data), ("weights", spec.revision, study.revision)):
            if then != now:
                return (
                    f"trial {spec.trial_id} was trained with {what} {then}, and the {what} are {now} now: "
                    "give the sweep another name or another --store, or bring the earlier ones back"
                )
        return ""

    def ready(self, running: Collection[tuple[str, int]] = ()) -> Iterator[tuple[Study, int]]:
        """The trials that may start now, best first. ``running`` holds (study key, number) of those that have."""
        self._look()
        numbers = {key: frozenset(asked.numbers(self._rows[key])) for key, asked in self._asked.items()}
        for study, n in self._order:
            rows = self._rows[study.key]
            if n not in numbers.get(study.key, ()) or n in rows or (study.key, n) in running:
                continue
            if study.is_repeat(n) or askable(study, n, rows):
                yield study, n

    def trial(self, study: Study, number: int) -> TrialSpec:
        """The trial to run: what is suggested for this number."""
        self._look()
        asked, rows = self._asked[study.key].study, self._rows[study.key]
        given = suggest(asked, number, rows)
        checks = checks_of(asked, number, rows)
        return asked.trial(number, given.hyperparameters, method=given.method, checks=checks)

    def _cell(self, spec: TrialSpec) -> Cell:
        cell = self._cells.of(spec)
        assert cell is not None, f"{spec.trial_id} has passed `problem`"
        return cell

    def _look(self) -> None:
        """Follow the budgets upwards, as far as their rows allow decisions."""
        if self._fresh:
            return
        for budget in self._budgets:
            if budget not in self._settled and not self._look_at(budget):
                break
        self._fresh = True

    def _look_at(self, budget: int) -> bool:
        """Decide what is asked of a budget; whether larger budgets may be looked at."""
        candidates = [study for study in self._studies.values() if study.cell.budget_flops == budget]
        wanted: list[Study] = []
        while len(more := self._wanted(budget, candidates)) > len(wanted):
            wanted = more
            for study in wanted:
                self._follow(study)
            if not all(self._is_done(study.key) for study in wanted):
                return not self._adaptive
        self._settle(budget, candidates)
        return True

    def _wanted(self, budget: int, candidates: list[Study]) -> list[Study]:
        """The studies of a budget that are run, as far as is known: all, or those that are decided on."""
        if not self._adaptive:
            return candidates
        from sweeps.allocation import decide, outcome_of
        from sweeps.warm import noise_of

        here = self._done(lambda study: study.cell.budget_flops == budget)
        if budget not in self._wanted_after or self._wanted_after[budget][0] != len(here):
            pasts = self._done(lambda study: study.cell.budget_flops < budget)
            found = decide(
                candidates,
                [outcome_of(past) for past in pasts],
                [outcome_of(past) for past in here],
                [coming for coming in self._budgets if coming >= budget],
                drop_below=candidates[0].allocation.drop_below,
                noise=noise_of(pasts),
            )
            self._decisions |= {decision.cell: decision for decision in found}
            wanted = [self._studies[study_key(decision.cell)] for decision in found]
            self._wanted_after[budget] = len(here), wanted
        return self._wanted_after[budget][1]

    def _settle(self, budget: int, candidates: Sequence[Study]) -> None:
        """Nothing more is asked of this budget."""
        self._settled.add(budget)
        if not self._adaptive:
            return
        from sweeps.allocation import Decision

        for study in candidates:
            if study.cell not in self._decisions:
                method = study.cell.label
                verdicts = {
                    d.verdict for d in self._decisions.values()
                    if (d.cell.budget_flops, d.cell.label) == (budget, method)
                }  # fmt: skip
                inside = "the least loss lies inside, or at the end of the ladder, of the models that were run"
                why = inside if "run" in verdicts else f"{method} was dropped"
                self._decisions[study.cell] = Decision(cell=study.cell, verdict="leave", reason=why)
                self._left |= {study.key}

    def _follow(self, study: Study) -> None:
        """How many trials of a study are asked for by now."""
        rows, asked = self._rows[study.key], self._asked.get(study.key)
        if asked is None:
            asked = self._begin(study)
            if asked is None:
                return
        if not asked.ended:
            asked = self._extend(asked)
        elif asked.reason and all(n in rows for n in range(asked.num_searched)) and best_of(study, rows) is None:
            # What was foretold has diverged or failed: the search goes on.
            number = asked.num_searched + 1
            ended = number == study.num_searched
            asked = replace(asked, num_searched=number, reason="" if ended else asked.reason)
        self._asked[study.key] = asked

    def _begin(self, study: Study) -> _Asked | None:
        """A study's first trials; ``None`` while a study that warms it is not done."""
        searched = study
        if study.warm_start:
            from sweeps.warm import warmed

            if not self._adaptive and not all(self._is_done(s.key) for s in self._studies.values() if _warms(s, study)):
                return None
            searched = warmed(study, self._history(study))
        # What a list is worth is not foretold, so all of its values are tried.
        if not self._adaptive or len(study.space.ranges) < len(study.space.searched) or not study.space.searched:
            return _Asked(study=searched, num_searched=study.num_searched, ended=True, reason="")
        return _Asked(study=searched, num_searched=1, ended=study.num_searched == 1, reason="")

    def _extend(self, asked: _Asked) -> _Asked:
        """Ask for more trials, as far as rows allow, until the next one is not worth it."""
        from sweeps.warm import Bowl

        study, rows, number = asked.study, self._rows[asked.study.key], asked.num_searched
        planned, history = self._studies[study.key], self._history(study)
        while number < study.num_searched and askable(study, number, rows):
            known = {n: rows[n] for n in range(number - study.lag + 1)}
            best = best_of(study, known)
            if best is not None or not known:
                settings = point_of(study, best.spec) if best else start_of(study.space.searched)
                bowl = Bowl(planned, [*history, self._past(study.key, known)])
                if (gain := bowl.gain(settings)) < study.allocation.stop_below * bowl.noise:
                    reason = (
                        f"more trials would gain {100 * gain:.1f} % of the loss, and seeds differ by "
                        f"{100 * bowl.noise:.1f} %"
                    )
                    return replace(asked, num_searched=number, ended=True, reason=reason)
            number += 1
        return replace(asked, num_searched=number, ended=number == study.num_searched)

    def _is_done(self, key: str) -> bool:
        return key in self._asked and self._asked[key].is_done(self._rows[key])

    def _done(self, wanted: Callable[[Study], bool]) -> list[Past]:
        """The studies that are done, of those that are wanted, in an order that does not depend on time."""
        keys = [key for key, study in self._studies.items() if wanted(study) and self._is_done(key)]
        return [self._past(key, self._rows[key]) for key in sorted(keys)]

    def _history(self, study: Study) -> list[Past]:
        return self._done(lambda other: _warms(other, study))

    def _past(self, key: str, rows: Mapping[int, Finished]) -> Past:
        from sweeps.warm import Past

        space = self._asked[key].study.space if key in self._asked else self._studies[key].space
        return Past(study=self._studies[key], space=space, rows=rows)


def _warms(other: Study, study: Study) -> bool:
    """Whether ``other`` tells ``study`` where to begin: the same method at a smaller budget."""
    return other.cell.method == study.cell.method and other.cell.budget_flops < study.cell.budget_flops
