"""Sessions of agents as `Agents` describes them, step by step.

A session is made while it is under way: only what its next step needs is drawn, so a stream of any
length holds the contexts of its live sessions and nothing else.
"""

from __future__ import annotations

from dataclasses import replace
from heapq import merge
from itertools import count
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from traces.generate.distributions import nanoseconds, tied, tokens
from traces.generate.sessions import History
from traces.workload import TraceRequest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from traces.generate.agents import Agents, Subagents
    from traces.generate.lengths import Lengths
    from traces.generate.naming import Naming

_ROWS = 64  # steps drawn at a time
_COLUMNS = 8  # uniform numbers a step is made from


class _Step(NamedTuple):
    """What chance says about a step, whether it comes to be needed or not."""

    added: int
    output: int
    wait_ns: int
    ends: float
    rewrites: float
    keep: float
    ratio: float
    delegates: float


class AgentSessions:
    """Makes sessions; all draw from one generator, each when its next steps are needed."""

    def __init__(
        self, model: Agents, lengths: Lengths, rng: np.random.Generator, names: Naming
    ) -> None:
        self._model = model
        self._lengths = lengths
        self._rng = rng
        self._names = names
        self._begins = [[names.shared(0, model.shared_tokens)]]
        if model.group is not None:
            uniform = rng.random(model.group.popularity.count)
            sizes = tokens(model.group.tokens, uniform, least=0).tolist()
            tools = self._begins[0][0]
            self._begins = [
                [tools, names.shared(1 + group, size)] for group, size in enumerate(sizes)
            ]
        self._windows = sorted(model.windows, key=lambda window: window.tokens)

    def begin(self, number: int, start_ns: int) -> Iterator[TraceRequest]:
        """The requests of session `number`."""
        model = self._model
        uniform = self._rng.random(4)
        begins = self._begins[0]
        if model.group is not None:
            begins = self._begins[int(model.group.popularity.at(uniform[2:3])[0])]
        first = int(tokens(model.first_tokens, uniform[:1])[0])
        steps: int | None = None
        if model.steps is not None:
            drawn = tied(uniform[:1], uniform[1:2], model.first_steps_spearman)
            steps = int(tokens(model.steps, drawn)[0])
        pieces = count()
        history = History(self._names, number, pieces, begins)
        history.add(first)
        window = self._window(history.length, float(uniform[3]))
        return self._session(number, pieces, history, start_ns, steps, window)

    def _session(
        self,
        number: int,
        pieces: Iterator[int],
        history: History,
        at_ns: int,
        steps: int | None,
        window: float,
    ) -> Iterator[TraceRequest]:
        model, session = self._model, self._names.session(number)
        waits_for: tuple[str, ...] = ()
        new, wait_ns = history.length, 0
        turns = count()  # subagents' requests counted, as they arrive
        for place, step in enumerate(self._steps(steps)):
            if place:
                grown = self._grow(history, step, window)
                if grown is None:
                    return
                new, wait_ns = grown, step.wait_ns
                at_ns += wait_ns
            name = f"{session}-{place:03d}"
            prompt = history.prompt()
            yield TraceRequest(
                id=name,
                arrival_ns=at_ns,
                prompt=prompt,
                output=history.add(step.output),
                tenant=self._names.tenant,
                session=session,
                depends_on=waits_for,
                delay_ns=wait_ns,
                turn=next(turns),
            )
            waits_for = (name,)
            at_ns += model.answer.ns(len(prompt), new, step.output)
            if step.ends < model.ends.at(history.length, window):
                return
            if model.subagents is not None and step.delegates < model.subagents.chance:
                last_ns = at_ns
                ends: list[str] = []
                helpers = self._helpers(model.subagents, number, pieces, name, at_ns)
                for request, ended_ns in helpers:
                    yield replace(request, turn=next(turns))
                    last_ns = max(last_ns, ended_ns)
                    ends = [one for one in ends if one not in request.depends_on]
                    ends.append(request.id)
                at_ns, waits_for = last_ns, tuple(ends)

    def _grow(self, history: History, step: _Step, window: float) -> int | None:
        """Adds a step to a context, or rewrites it; new tokens, or None if the session ends."""
        rewriting, before = self._model.rewriting, history.length
        length = before + step.added
        full = length > window
        if rewriting is None:
            if full:
                return None
            history.add(step.added)
            return step.added
        if not full and step.rewrites >= rewriting.chance.at(before, window):
            history.add(step.added)
            return step.added
        uniform = np.array([step.ratio])
        ratio = (rewriting.full_ratio if full else rewriting.ratio).at(uniform)
        length = int(min(max(round(float(ratio[0]) * before), 1), window))
        keep = tokens(rewriting.keep_tokens, np.array([step.keep]), least=0)
        kept = min(int(keep[0]), length - 1, before)
        history.cut(kept)
        history.add(length - kept)
        return length - kept

    def _helpers(
        self, options: Subagents, number: int, pieces: Iterator[int], caller: str, at_ns: int
    ) -> Iterator[tuple[TraceRequest, int]]:
        """The requests of the subagents that a step starts, in order, and when each has ended."""
        started = int(tokens(options.at_once, self._rng.random(1))[0])
        return merge(
            *(
                list(self._helper(options, number, pieces, caller, helper, at_ns))
                for helper in range(started)
            ),
            key=lambda made: made[0].arrival_ns,
        )

    def _helper(
        self,
        options: Subagents,
        number: int,
        pieces: Iterator[int],
        caller: str,
        helper: int,
        at_ns: int,
    ) -> Iterator[tuple[TraceRequest, int]]:
        uniform = self._rng.random(2)
        history = History(self._names, number, pieces)
        history.add(int(tokens(options.first_tokens, uniform[:1])[0]))
        new, wait_ns, waits_for = history.length, 0, caller
        for turn, step in enumerate(self._steps(int(tokens(options.steps, uniform[1:])[0]))):
            if turn:
                new, wait_ns = step.added, step.wait_ns
                history.add(new)
                at_ns += wait_ns
            prompt = history.prompt()
            request = TraceRequest(
                id=f"{caller}.{helper}-{turn:03d}",
                arrival_ns=at_ns,
                prompt=prompt,
                output=history.add(step.output),
                tenant=self._names.tenant,
                session=self._names.session(number),
                depends_on=(waits_for,),
                delay_ns=wait_ns,
            )
            waits_for = request.id
            at_ns += self._model.answer.ns(len(prompt), new, step.output)
            yield request, at_ns

    def _steps(self, steps: int | None) -> Iterator[_Step]:
        """What chance says about a session's steps, drawn in blocks."""
        model = self._model
        left = steps
        while left is None or left > 0:
            rows = _ROWS if left is None else min(left, _ROWS)
            uniform = self._rng.random((rows, _COLUMNS))
            added, outputs = self._lengths.draw(uniform[:, 0], uniform[:, 1])
            waits = nanoseconds(model.wait_s, uniform[:, 2])
            lists = (added.tolist(), outputs.tolist(), waits.tolist(), *uniform[:, 3:].T.tolist())
            yield from map(_Step._make, zip(*lists, strict=True))
            left = None if left is None else left - rows

    def _window(self, length: int, uniform: float) -> float:
        """The window a session has: one that holds its first prompt, chosen by weight, or none."""
        weights = np.cumsum([window.weight for window in self._windows])
        if not len(weights):
            return float("inf")
        chosen = int(np.searchsorted(weights, uniform * weights[-1], side="right"))
        fitting = (window.tokens for window in self._windows[chosen:] if window.tokens >= length)
        return next(fitting, float("inf"))
