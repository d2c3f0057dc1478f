"""What a recorder does in either world: count how requests end, and make the rows of requests and steps.

A world's recorder derives from this and adds how it notices tokens. Requests, tickets and their batches are
the worlds' own; they are read here by the names that both give them, and not otherwise known.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from traces.records.itl import ItlAccumulator

if TYPE_CHECKING:
    from traces.records.writer import RunWriter

FLUSH_REQUESTS = 4096  # requests written between looks at whether a flush is due


class Seen(Protocol):
    """What a recorder noted of a live request; times in nanoseconds."""

    first_scheduled: int | None
    first_token: int | None
    times: list[int]  # when it was given each token, where that is recorded


S = TypeVar("S", bound=Seen)


class Recording(Generic[S]):
    """See the module.

    Args:
        writer: where rows go; None where only counts are kept.

    Attributes:
        finished: requests that ended by stop or length.
        cut: those of them whose output limit the intake had cut.
    """

    def __init__(self, writer: RunWriter | None) -> None:
        self.itl = ItlAccumulator()
        self.finished = 0
        self.aborted = 0
        self.refused = 0
        self.cut = 0
        self.steps = 0
        wanted: frozenset[str] = frozenset() if writer is None else writer.records
        self.wants_steps = "steps" in wanted
        self._want_times = "tokens" in wanted
        self._want_decisions = "decisions" in wanted
        self._live: dict[Any, S] = {}
        self._evicted = 0  # tokens, up to the last step written
        self._out = writer
        self._written = 0  # requests

    def itl_summary(self) -> dict[str, float | int | bool]:
        """The manifest's `itl`: see `ItlAccumulator.summary`."""
        return self.itl.summary()

    def counts(self, unfinished: int) -> dict[str, int]:
        """The manifest's counts; `unfinished` is what `left_behind` said."""
        return {
            "finished": self.finished,
            "aborted": self.aborted,
            "refused": self.refused,
            "cut": self.cut,
            "unfinished": unfinished,
            "steps": self.steps,
        }

    def _scheduled(self, batch: Any, launch_ns: int) -> None:
        """Note who is in a batch for the first time."""
        for item in batch.prefill:
            seen = self._live[item.request]
            if seen.first_scheduled is None:
                seen.first_scheduled = launch_ns

    def left_behind(self) -> int:
        """Write the requests that a run which was stopped has not ended; returns how many."""
        left = len(self._live)
        for request, seen in self._live.items():
            self._write(request, seen, None)
        self._live.clear()
        return left

    def _end(self, request: Any, now_ns: int) -> None:
        seen = self._live.pop(request)
        match request.finish_reason:
            case "refused":
                self.refused += 1
            case "abort":
                self.aborted += 1
            case _:
                self.finished += 1
                self.cut += request.max_new_tokens < request.requested_max_new_tokens
        self._write(request, seen, now_ns)

    def _complete_times(self, request: Any, seen: S) -> None:
        """Bring `seen.times` up to date; called where they are wanted, before they are written."""

    def _write(self, request: Any, seen: S, now_ns: int | None) -> None:
        if self._out is None:
            return
        # one whose end was not reported any more has not ended for anyone
        reason = None if now_ns is None else request.finish_reason
        row: tuple[object, ...] = (
            request.id,
            request.session,
            request.tenant,
            request.priority,
            request.arrival_ns,
            seen.first_scheduled,
            seen.first_token,
            now_ns,
            request.prompt_len,
            request.cached_tokens,
            request.output_len,
            request.max_new_tokens,
            request.requested_max_new_tokens,
            request.retractions,
            reason,
            request.refusal,
        )
        if self._want_times:
            self._complete_times(request, seen)
            row = (*row, seen.times)
        self._out.request(row)
        self._written += 1
        if self._written % FLUSH_REQUESTS == 0:
            self._out.maybe_flush()
        if self._want_decisions:
            ids = request.tokens.read(request.prompt_len + request.output_len)
            self._out.tokens(
                request.id,
                ids[: request.prompt_len],
                ids[request.prompt_len :],
                ignore_eos=request.ignore_eos,
                extra_key=request.extra_key,
                routing_key=request.routing_key,
                lora_id=request.lora_id,
            )

    def _step(self, ticket: Any, commit_ns: int) -> None:
        """Write the row of a step whose results were accepted at `commit_ns`."""
        assert self._out is not None
        batch, gauges = ticket.batch, ticket.gauges
        assert gauges is not None
        prefill_tokens = cached = read = product = 0
        for item in batch.prefill:
            prefill_tokens += item.length
            cached += item.start
            read += item.seq_len
            product += item.length * item.seq_len
        rows = batch.decode
        decoding, kv_tokens = (0, 0) if rows is None else (len(rows), rows.kv_tokens)
        evicted, self._evicted = gauges.evicted_tokens - self._evicted, gauges.evicted_tokens
        self._out.steps.append(
            (
                batch.iteration,
                batch.mode,
                ticket.launch_ns,
                ticket.start_ns,
                ticket.end_ns,
                commit_ns,
                *ticket.host,
                ticket.collect_host_ns,
                commit_ns - ticket.collected_ns,
                len(batch.prefill),
                prefill_tokens,
                cached,
                decoding,
                read + kv_tokens,
                product + kv_tokens,
                *gauges[:6],
                evicted,
            )
        )
