"""People who chat: a system prompt, turns, and time to think in between.

Each turn's prompt is the prompt before it, the answer to that, and a new message; it waits for that
answer and a while longer. Arrivals are of conversations. `lengths.input` is a message.
"""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING, Literal

from traces.generate.distributions import (
    Distribution,
    Exponential,
    Fixed,
    Popularity,
    nanoseconds,
    tokens,
)
from traces.generate.options import Count, Options
from traces.generate.sessions import AnswerTime, History, side_by_side
from traces.workload import TraceRequest

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import numpy as np
    from numpy.typing import NDArray

    from traces.generate.lengths import Lengths
    from traces.generate.naming import Naming


class Chat(Options):
    """Conversations of several turns.

    Attributes:
        turns: messages of a conversation.
        think_s: seconds between an answer and the next message.
        system_prompts: how many system prompts there are, and how often each is used.
        system_tokens: how long one is.
        longest: a prompt that would be longer ends its conversation instead; tokens.
        answer: how long answers are taken to last where requests are stamped.
    """

    kind: Literal["chat"] = "chat"
    turns: Distribution
    think_s: Distribution = Exponential(mean=60.0)
    system_prompts: Popularity = Popularity()
    system_tokens: Distribution = Fixed(value=0)
    longest: Count | None = None
    answer: AnswerTime = AnswerTime()

    def requests(
        self,
        arrivals_ns: Iterable[NDArray[np.int64]],
        lengths: Lengths,
        rng: np.random.Generator,
        names: Naming,
    ) -> Iterator[TraceRequest]:
        """See `PrefixModel.requests`."""
        choice = self.system_prompts
        sizes = tokens(self.system_tokens, rng.random(choice.count), least=0).tolist()
        systems = [names.shared(number, size) for number, size in enumerate(sizes)]

        def begin(number: int, start_ns: int) -> Iterator[TraceRequest]:
            uniform = rng.random(2)
            turns = int(tokens(self.turns, uniform[:1])[0])
            system = systems[int(choice.at(uniform[1:])[0])]
            drawn = rng.random((turns, 3))
            inputs, outputs = lengths.draw(drawn[:, 0], drawn[:, 1])
            waits = nanoseconds(self.think_s, drawn[:, 2])
            history = History(names, number, count(), begins=(system,))
            rows = zip(inputs.tolist(), outputs.tolist(), waits.tolist(), strict=True)
            return self._turns(names.session(number), history, start_ns, rows, names.tenant)

        return side_by_side(arrivals_ns, begin)

    def _turns(
        self,
        session: str,
        history: History,
        at_ns: int,
        rows: Iterable[tuple[int, int, int]],
        tenant: str | None,
    ) -> Iterator[TraceRequest]:
        before: str | None = None
        for turn, (message, output, think_ns) in enumerate(rows):
            if before and self.longest is not None and history.length + message > self.longest:
                return
            at_ns += think_ns if before else 0
            history.add(message)
            prompt = history.prompt()
            name = f"{session}-{turn:03d}"
            yield TraceRequest(
                id=name,
                arrival_ns=at_ns,
                prompt=prompt,
                output=history.add(output),
                tenant=tenant,
                session=session,
                depends_on=(before,) if before else (),
                delay_ns=think_ns if before else 0,
                turn=turn,
            )
            before = name
            new = len(prompt) if turn == 0 else message
            at_ns += self.answer.ns(len(prompt), new, output)
