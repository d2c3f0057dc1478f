"""When a sequence ends by itself: EOS, a stop id or a stop string, decided on the host.

One `Stops` for each request. It also makes the request's text, since the text ends where a stop string
begins. Without stop strings, and where nobody wants text, a token costs one look into a set. Does not
know the length limit: that is the scheduler's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from runtime.text.detokenize import Detokenizer
from runtime.text.stop_strings import StopStrings

if TYPE_CHECKING:
    from collections.abc import Collection

    import numpy as np
    import numpy.typing as npt

    from runtime.sampling.params import SamplingParams
    from runtime.text.detokenize import Decodes

    IntArray = npt.NDArray[np.integer]


class Stops:
    """Whether each token of one request ends it, and what the text is.

    Args:
        params: the request's.
        eos_ids: the model's own ends.
        tokenizer: needed for stop strings and for text.
        text: make the text also where no stop string asks for it.

    Raises:
        ValueError: there are stop strings, or text is wanted, and no tokenizer.

    Attributes:
        reason: what ended it, a token id or a stop string; None as long as nothing has.
    """

    __slots__ = ("_ends", "_first_end", "_text", "reason")

    def __init__(
        self,
        params: SamplingParams,
        eos_ids: Collection[int] = (),
        tokenizer: Decodes | None = None,
        *,
        text: bool = False,
    ) -> None:
        self.reason: int | str | None = None
        self._ends = params.end_ids(eos_ids)
        self._first_end = params.min_new_tokens
        self._text: _Text | None = None
        if text or params.stop:
            if tokenizer is None:
                what = f"stop strings {list(params.stop)}" if params.stop else "text"
                msg = f"no tokenizer was loaded, and {what} cannot do without; use stop_token_ids"
                raise ValueError(msg)
            shown = self._ends.difference(eos_ids) if params.include_stop_str_in_output else ()
            self._text = _Text(params, tokenizer, frozenset(shown))

    def ends(self, output: IntArray) -> bool:
        """Whether the last of these output ids ends the sequence; those before it did not.

        Called with one more token each time. After `restart`, or where the output is not one longer
        than the last, it is gone through from the beginning.
        """
        last = len(output) - 1
        token = int(output[last])
        may_end = last >= self._first_end
        ends_by_id = may_end and token in self._ends
        self.reason = token if ends_by_id else None
        text = self._text
        if text is not None:
            if text.tokens != last:
                self._go_through(output[:last])
            if ends_by_id:
                text.end(token)
            else:
                self.reason = text.push(token, armed=may_end)
        return self.reason is not None

    def restart(self) -> None:
        """The output may come differently from what was seen."""
        self.reason = None
        if self._text is not None:
            self._text.clear()

    def finish(self, output: IntArray) -> None:
        """No more will come than these output ids: what of the text was held back belongs to it."""
        text = self._text
        if text is None:
            return
        if text.tokens != len(output):
            self.reason = None
            self._go_through(output)
        if self.reason is None:
            text.flush()

    def _go_through(self, output: IntArray) -> None:
        assert self._text is not None
        self._text.clear()
        for at, token in enumerate(output.tolist()):
            self._text.push(token, armed=at >= self._first_end)

    @property
    def text(self) -> str:
        """The text so far, as far as it is certain; "" where it is not made."""
        return "" if self._text is None else self._text.whole()

    def take(self) -> str:
        """What the text has gained since `take` was last called."""
        return "" if self._text is None else self._text.take()


class _Text:
    """The text of one request, up to a stop string."""

    __slots__ = (
        *("_again", "_detokenizer", "_given", "_params", "_pieces", "_seen", "_shown"),
        *("_strings", "_tokenizer", "tokens"),
    )

    def __init__(self, params: SamplingParams, tokenizer: Decodes, shown: frozenset[int]) -> None:
        self._params = params
        self._tokenizer = tokenizer
        self._shown = shown  # ids that are text although they end it
        self._given = 0  # characters given out by `take`
        self.clear()

    def clear(self) -> None:
        """Start over; what was given out by `take` is not given out again."""
        include = self._params.include_stop_str_in_output
        self.tokens = 0
        self._pieces: list[str] = []
        self._seen = 0  # pieces that `take` has been through
        self._again = self._given  # characters of those to come that were given out before
        self._detokenizer = Detokenizer(self._tokenizer)
        self._strings = StopStrings(self._params.stop, include=include)

    def push(self, token: int, *, armed: bool) -> str | None:
        """Add a token's text; the stop string that ends it, if one does."""
        self.tokens += 1
        self._pieces.append(self._strings.push(self._detokenizer.push(token), armed=armed))
        return self._strings.found

    def end(self, token: int) -> None:
        """A token ends the sequence by its id."""
        if token in self._shown:
            self.push(token, armed=False)
        else:
            self.tokens += 1
        self.flush()

    def flush(self) -> None:
        """Add what was held back."""
        self._pieces.append(self._strings.push(self._detokenizer.finish(), armed=False))
        self._pieces.append(self._strings.finish())

    def whole(self) -> str:
        """All of it."""
        return "".join(self._pieces)

    def take(self) -> str:
        """What was added since this was last called."""
        new = "".join(self._pieces[self._seen :])
        self._seen = len(self._pieces)
        again = min(self._again, len(new))
        self._again -= again
        self._given += len(new) - again
        return new[again:]
