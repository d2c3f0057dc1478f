"""The intake: cut what a request asks for to what can ever fit, and refuse what never can.

`PoolIntake` has SGLang 0.5.23's limits, with one addition. A prompt just below the pool's size passes
SGLang's own test, is never admitted by its budget (whose comparison is strict) and blocks the queue
for ever; here it is refused, and told why. `ContextIntake` has vLLM 0.32's, whose budget needs no more.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from policies.request import Request


class PoolIntake:
    """See the module.

    Args:
        capacity: tokens the KV pool holds.
        page_size: tokens a page.
        context_limit: tokens of prompt and output that one request may have; None for the pool's.
        clip: the budget counts at most that many of a request's output tokens.
    """

    def __init__(
        self, capacity: int, page_size: int, context_limit: int | None = None, clip: int = 4096
    ) -> None:
        self.capacity = capacity
        self.page_size = page_size
        self.context_limit = capacity if context_limit is None else context_limit
        self._limit = min(self.context_limit, capacity)
        self._clip = clip

    def check(self, request: Request) -> str | None:
        """Cut the request's `max_new_tokens`; returns why it is refused, or None if it may come in."""
        prompt, limit, page = request.prompt_len, self._limit, self.page_size
        if prompt < 1:
            return "the prompt is empty"
        if prompt >= limit:
            which = "the context limit" if self.context_limit <= self.capacity else "the KV pool"
            return (
                f"the prompt has {prompt} tokens; {which} of {limit} takes prompts of at most "
                f"{limit - 1}"
            )
        pages = -(-prompt // page) * page
        most = min(limit - 1 - prompt - 1, self.capacity - pages - page - 1)
        asked = request.max_new_tokens = max(0, min(request.max_new_tokens, most))
        need = prompt + min(asked, self._clip) + page
        if need >= self.capacity:
            return (
                f"the prompt has {prompt} tokens and needs {need} with its reserve; "
                f"the KV pool of {self.capacity} admits fewer than it holds"
            )
        return None


class ContextIntake:
    """See the module.

    Args:
        context_limit: tokens of prompt and output that one request may have.
    """

    def __init__(self, context_limit: int) -> None:
        self.context_limit = context_limit

    def check(self, request: Request) -> str | None:
        """Cut the request's `max_new_tokens`; returns why it is refused, or None if it may come in."""
        prompt, limit = request.prompt_len, self.context_limit
        if prompt < 1:
            return "the prompt is empty"
        if prompt >= limit:
            return (
                f"the prompt has {prompt} tokens; the context limit of {limit} takes prompts of at "
                f"most {limit - 1}"
            )
        request.max_new_tokens = min(request.max_new_tokens, limit - prompt)
        return None
