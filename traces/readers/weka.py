"""WEKA's agentic coding sessions (Claude Code): one JSON document a session, with its subagents.

Source: https://github.com/callanjfox/kv-cache-tester, traces/ (Apache-2.0). A document holds `id`,
`block_size` (64), `hash_id_scope` ("local": hashes name blocks within the document only) and
`requests`: calls with `t` (s from the session's start), `in` and `out` (tokens), `hash_ids` (one
per *full* block), `api_time` and `think_time` (s, the client's wait before the call), and subagents,
entries with `requests` of their own whose `t` counts from the subagent's start.

What waits for what, as the stamps show it: a call follows the one before it after its think time.
A subagent follows the call before its entry; several entries in a row start together. A subagent
that completed is stamped with its end, so it began `duration_ms` before, and the session's next call
waits for its last. One launched in the background ("async_launched") is stamped with its beginning,
and nothing waits for it. A think time that is missing is what the stamps leave beside `api_time`.

Sessions are independent and all start at 0: the trace says nothing of when users come.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING

from traces.errors import RowError, shown
from traces.readers.conversations import from_start
from traces.readers.fields import count, row_keys, string, time_ns
from traces.readers.formats import Facts, ReadOptions, TraceContent
from traces.readers.lines import Place
from traces.sessions import SESSIONS_AT_ONCE
from traces.tokens import JoinedTokens, SyntheticTokens, Tokens
from traces.workload import TraceRequest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from traces.readers.lines import TraceLines
    from traces.readers.weka_document import Blocks, Call, Document

_KEYS = frozenset({"hash_id_scope", "requests"})


class WekaFormat:
    """Reads documents with `hash_id_scope` and `requests`: a file, a folder or a tar of them."""

    name = "weka"
    described = "JSON documents, one a session, with block_size, hash_id_scope and requests"
    facts = Facts("s", "64, none for the last, partial one", "agents: waits, tools, subagents")

    def recognises(self, line: str) -> bool:
        """Whether a line is a document."""
        return row_keys(line) >= _KEYS

    def claims(self, head: list[str]) -> bool:
        """Whether a document that is written over many lines begins here."""
        return head[0] == "{" and any(line.startswith('"hash_id_scope"') for line in head)

    def read(
        self,
        source: TraceLines,
        lines: Iterator[tuple[int, str]],  # noqa: ARG002 - a document may be all on one line
        options: ReadOptions,
    ) -> TraceContent:
        """All calls, or those of the first documents, by name, up to `options.limit`."""
        from traces.readers.weka_document import Blocks, decode

        sessions: dict[str, _Session] = {}
        for name, content in source.documents():
            try:
                session = _Session(decode(content), Blocks(), options.vocab_size)
                session.read()
            except RowError as error:
                source.reject(Place(name, None), error)
                continue
            if session.id in sessions:
                again = RowError(f"{session.id!r} a second time", "unique ids", field="id")
                source.reject(Place(name, None), again)
            sessions.setdefault(session.id, session)
        ordered = [sessions[name] for name in sorted(sessions)]
        base = 0
        requests: list[TraceRequest] = []
        for ordinal, session in enumerate(ordered):
            requests += session.requests(ordinal, base)
            base += session.blocks.names
        meta: dict[str, object] = {
            "concurrency": SESSIONS_AT_ONCE,
            "sessions": len(ordered),
            "arrivals": "every session starts at 0",
            "empty_answers_read_as_one_token": sum(s.empty_answers for s in ordered),
            "think_times_from_stamps": sum(s.derived_delays for s in ordered),
        }
        return TraceContent(from_start(islice(requests, options.limit)), meta)


@dataclass(slots=True)
class _Step:
    """A call with its place in the session's graph; times in ns from the session's start."""

    id: str
    sent_ns: int
    ended_ns: int
    call: Call
    depends_on: tuple[str, ...] = ()
    delay_ns: int = 0


@dataclass(slots=True)
class _Session:
    """One document on its way to requests."""

    document: Document
    blocks: Blocks
    vocab_size: int
    id: str = ""
    steps: list[_Step] = field(default_factory=list)
    calls_of: dict[str, int] = field(default_factory=dict)  # agent -> its last call's number
    empty_answers: int = 0
    derived_delays: int = 0

    def __post_init__(self) -> None:
        self.id = string(self.document.id, "id")

    def read(self) -> None:
        """Finds out what waits for what.

        Raises:
            RowError: the document is not what it should be.
        """
        if self.document.hash_id_scope != "local":
            raise RowError(shown(self.document.hash_id_scope), "'local'", field="hash_id_scope")
        self.blocks.size = count(self.document.block_size, "block_size")
        if self.blocks.size < 1:
            raise RowError("0", "1 or more", field="block_size")
        before: _Step | None = None  # the session's own call before
        joined: list[_Step] = []  # last calls of the subagents that the next call waits for
        last_ns = 0
        for place, call in enumerate(self.document.requests):
            where = f"requests[{place}]"
            stamp = _stamp(call.t, f"{where}.t", last_ns)
            last_ns = stamp
            if call.type == "subagent":
                last, joins = self._subagent(call, stamp, before, where)
                joined += [last] if joins else []
                continue
            step = self._step(f"{self.id}/{place:04d}", stamp, call, where, "")
            if before is not None:
                self._wait(step, before, joined, where)
            before, joined = step, []
        self.blocks.finish()

    def _subagent(
        self, entry: Call, stamp: int, parent: _Step | None, where: str
    ) -> tuple[_Step, bool]:
        """The last call of a subagent, and whether the session waits for it."""
        duration = entry.duration_ms
        joins = duration is not None
        floor = 0 if parent is None else parent.ended_ns
        began = stamp - time_ns(duration, f"{where}.duration_ms", "ms") if joins else stamp
        began = max(began, floor)
        before: _Step | None = None
        last_ns = 0
        if not isinstance(entry.requests, list) or not entry.requests:
            raise RowError(shown(entry.requests), "a list of calls", field=f"{where}.requests")
        agent = string(entry.agent_id, f"{where}.agent_id")
        for place, call in enumerate(entry.requests):
            inside = f"{where}.requests[{place}]"
            number = self.calls_of[agent] = self.calls_of.get(agent, -1) + 1
            inner = _stamp(call.t, f"{inside}.t", last_ns)
            last_ns = inner
            step = self._step(f"{self.id}/{agent}/{number:04d}", began + inner, call, inside, agent)
            if before is not None:
                self._wait(step, before, [], inside)
            elif parent is not None:
                step.depends_on = (parent.id,)
                step.delay_ns = step.sent_ns - parent.ended_ns
            before = step
        assert before is not None
        return before, joins

    def _step(self, name: str, sent_ns: int, call: Call, where: str, agent: str) -> _Step:
        if call.type not in ("n", "s"):
            raise RowError(shown(call.type), "'n', 's' or 'subagent'", field=f"{where}.type")
        tokens = count(call.in_, f"{where}.in")
        if tokens < 1:
            raise RowError("0", "at least one token", field=f"{where}.in")
        self.empty_answers += count(call.out, f"{where}.out") == 0
        self.blocks.add(call, tokens, where, agent)
        took = 0 if call.api_time is None else time_ns(call.api_time, f"{where}.api_time", "s")
        step = _Step(name, sent_ns, sent_ns + took, call)
        self.steps.append(step)
        return step

    def _wait(self, step: _Step, before: _Step, joined: list[_Step], where: str) -> None:
        waited = [before, *joined]
        step.depends_on = tuple(other.id for other in waited)
        step.sent_ns = max(step.sent_ns, *(other.sent_ns for other in waited))
        think = step.call.think_time
        if think is not None and not joined:
            step.delay_ns = time_ns(think, f"{where}.think_time", "s")
            return
        # a think time counts from the session's own call before; of a join the end of the
        # last subagent is what the client waited for
        ended = max(other.ended_ns for other in waited)
        step.delay_ns = max(0, step.sent_ns - ended)
        self.derived_delays += think is None

    def requests(self, ordinal: int, base: int) -> list[TraceRequest]:
        """The calls in the order of the document; hash `h` becomes block `base + h`."""
        made: list[TraceRequest] = []
        prompts = self.blocks.prompts(base, self.vocab_size)
        for row, (step, prompt) in enumerate(zip(self.steps, prompts, strict=True)):
            call = step.call
            key = (ordinal << 33) | (row << 1)
            output = SyntheticTokens(key, max(1, int(str(call.out))), self.vocab_size)
            made.append(
                TraceRequest(
                    id=step.id,
                    arrival_ns=step.sent_ns,
                    prompt=self._with_tail(prompt, int(str(call.in_)), key + 1),
                    output=output,
                    session=self.id,
                    depends_on=step.depends_on,
                    delay_ns=step.delay_ns,
                    turn=row,
                )
            )
        return made

    def _with_tail(self, blocks: Tokens, length: int, key: int) -> Tokens:
        """A prompt: whole blocks, and what is left over, which no hash names."""
        left = length - len(blocks)
        if not left:
            return blocks
        return JoinedTokens([blocks, SyntheticTokens(key, left, self.vocab_size)])


def _stamp(value: object, field: str, last_ns: int) -> int:
    stamp = time_ns(value, field, "s")
    if stamp < last_ns:
        raise RowError(
            f"{shown(value)}, earlier than the entry before",
            "entries in order of time",
            field=field,
        )
    return stamp
