"""Which rounds the simulated world goes through at once: up to the next thing that could happen.

The scheduler says how many rounds would differ in nothing but their number. What it cannot know is
the world's: when something comes in, and which sequence stops by itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from simulator.leap import HostRound, Leap, overlapped_leap, serial_leap

if TYPE_CHECKING:
    from policies.batch import Batch
    from policies.scheduler import Scheduler
    from simulator.device import Ticket
    from simulator.host import HostModel
    from simulator.latency.base import LatencyModel
    from simulator.model import ReplayedModel
    from traces.load import Load

MOST = 65_536
"""Rounds gone through at once, at most: their times take memory."""

WORTH_LEAPING = 4
"""Fewer rounds than this are walked through in less time than a leap takes to prepare."""


class Leaper:
    """See the module. Its arguments are the world's (see `World`)."""

    def __init__(
        self,
        scheduler: Scheduler,
        load: Load,
        latency: LatencyModel,
        host: HostModel,
        model: ReplayedModel,
    ) -> None:
        self._scheduler = scheduler
        self._load = load
        self._latency = latency
        self._host = host
        self._model = model

    def plan(self, batch: Batch, at_most: int, now: int, last: Ticket) -> Leap | None:
        """The rounds to go through at once, with their times; None where that is not worth it.

        Args:
            batch: the decode batch launched last.
            at_most: rounds that the scheduler allows.
            now: when the first of them would begin, ns.
            last: the ticket of that batch.
        """
        overlapped = self._scheduler.overlapped
        if overlapped and last.result.stops:
            return None
        # the last step's result is committed only after the leap where it stays in flight
        rounds = min(at_most, self._model.rounds_to_stop(batch) + overlapped, MOST)
        if rounds < WORTH_LEAPING:
            return None
        assert batch.decode is not None
        rows = len(batch.decode)
        host = self._host_round(rows)
        until = self._load.next_ns()
        if until is not None:  # look no further than there is time for, by the step before
            on_device = last.end_ns - last.start_ns
            on_host = host.to_launch + host.to_commit
            round_ns = max(on_device, on_host) if overlapped else on_device + on_host
            rounds = min(rounds, max(until - now, 0) // max(round_ns, 1) + 1)
            if rounds < WORTH_LEAPING:
                return None
        kv_tokens = batch.decode.kv_tokens + rows
        device = self._latency.decode_steps_ns(rows, kv_tokens, rounds, batch.decode.seq_lens)
        if overlapped:
            leap = overlapped_leap(now, host, device, until, last)
        else:
            leap = serial_leap(now, host, device, until)
        if len(leap) < 2:
            return None
        self._latency.took(rows, kv_tokens, len(leap))
        return leap

    def _host_round(self, rows: int) -> HostRound:
        waiting, running = len(self._scheduler.waiting), len(self._scheduler.running)
        return HostRound(
            self._host.receive_ns(0),
            self._host.schedule_ns(waiting, running, 0),
            self._host.prepare_ns(0, 0, rows),
            self._host.launch_ns(),
            self._host.collect_ns(rows),
            self._host.commit_ns(rows, 0),
        )
