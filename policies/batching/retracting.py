"""Retraction: the next decode round of a prefill-first batch does not fit, so some of it has to wait again.

Who goes first is for `policies.retraction` to say; when to stop, and what becomes of the last one, is
SGLang's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from policies.request import FinishReason

if TYPE_CHECKING:
    from policies.kv.memory import KVMemory
    from policies.scheduler import Scheduler


def retract(s: Scheduler, kv: KVMemory) -> None:
    """Take memory from running requests until the rest can decode; the last one is spared.

    It is not if the chunked request holds the memory it lacks: then it waits, too.
    """
    s.running.full = False
    kept = s.retraction.arrange(s.running.requests, s.priorities)
    s.running.keep(kept)  # they go on in the order of retraction
    while len(kept) > 1:
        victim = kept.pop()
        s.give_up(victim)
        s.retracted.append(victim)
        kv.make_room(len(kept) * s.config.new_token_ratio.retract_decode_steps)
        if kv.round_fits(s.running):
            break
    s.ratio.after_retraction(kept)
    if len(kept) == 1 and not kv.round_fits(s.running):
        if s.chunked is None:
            full = f"the KV pool of {kv.capacity} tokens has no room for the last request"
            s.end_running(kept[0], FinishReason.ABORT, full)
        else:
            s.give_up(kept[0])
            s.retracted.append(kept[0])
    for victim in s.retracted:
        s.enqueue(victim)
