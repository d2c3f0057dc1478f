"""What a client asks of sampling: the options by their usual names, checked as they come in.

The names are those of vLLM, SGLang and OpenAI, and so are the ranges. Knows no model: what depends on
its vocabulary is checked by `SamplingParams.check_vocabulary`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

GREEDY_BELOW = 1e-5  # temperatures below are 0, as in vLLM: dividing by them would overflow
MOST_LOGPROBS = 20  # OpenAI's limit, and vLLM's default one
_SPELLINGS = {
    "max_tokens": "max_new_tokens",
    "max_completion_tokens": "max_new_tokens",
    "min_tokens": "min_new_tokens",
}


class SamplingError(ValueError):
    """A sampling option that cannot be: names the field, the value and what would be accepted."""


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How one request's tokens are chosen and when it ends.

    A token is chosen in this order: penalties, logit bias, temperature, top-k, top-p (of what top-k
    left), min-p. Tokens that tie with the last one kept are kept too.

    Attributes:
        max_new_tokens: output tokens at most; 0 computes the prompt and samples nothing.
        min_new_tokens: EOS and stop ids cannot be sampled before that many tokens, and stop strings
            are not looked for.
        temperature: logits are divided by it; below 1e-5 the most likely token is taken, and top-k,
            top-p, min-p and seed say nothing then.
        top_k: only so many most likely tokens; None for all. Clients' 0 and -1 become None.
        top_p: only the most likely tokens that together have this probability, in (0, 1].
        min_p: only tokens at least so likely as this share of the most likely one, in [0, 1].
        repetition_penalty: logits of tokens in prompt or output are divided by it (multiplied where
            negative), as in HuggingFace; 1 is none.
        presence_penalty: taken off the logits of tokens that were output, in [-2, 2].
        frequency_penalty: taken off once for every time a token was output, in [-2, 2].
        logit_bias: token id to what is added to its logit, in [-100, 100].
        seed: fixes the request's random choices, whatever else runs; None leaves it to the engine.
        stop: strings that end the output; one may be given alone. The text ends before them.
        stop_token_ids: ids that end the output besides the model's EOS.
        include_stop_str_in_output: leave the stop string, or the stop id's text, in the text.
        ignore_eos: the model's EOS does not end the output.
        logprobs: log-probabilities of each sampled token and of so many most likely ones (0 to 20),
            of the model's own distribution, before penalties, bias and temperature, as vLLM's; None
            for none.
    """

    max_new_tokens: int = 128
    min_new_tokens: int = 0
    temperature: float = 1.0
    top_k: int | None = None
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict, hash=False)
    seed: int | None = None
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    include_stop_str_in_output: bool = False
    ignore_eos: bool = False
    logprobs: int | None = None

    def __post_init__(self) -> None:
        if type(self.top_k) is int and self.top_k in {0, -1}:
            self._set("top_k", None)
        for name, (low, high) in _INTEGERS.items():
            value = getattr(self, name)
            if value is not None or name not in _MAY_BE_NONE:
                self._set(name, _integer(name, value, low, high))
        for name, (least, most, above) in _NUMBERS.items():
            self._set(name, _number(name, getattr(self, name), least, most, above=above))
        for name in ("include_stop_str_in_output", "ignore_eos"):
            if not isinstance(getattr(self, name), bool):
                raise _error(name, getattr(self, name), "true or false")
        self._set("stop", _strings(self.stop))
        self._set("stop_token_ids", _ids(self.stop_token_ids))
        self._set("logit_bias", _bias(self.logit_bias))
        if self.min_new_tokens > self.max_new_tokens:
            limit = f"at most max_new_tokens, which is {self.max_new_tokens}"
            raise _error("min_new_tokens", self.min_new_tokens, limit)

    def _set(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)

    @property
    def greedy(self) -> bool:
        """The most likely token is taken, the lowest id where several are."""
        return self.temperature < GREEDY_BELOW or self.top_k == 1

    @property
    def penalises(self) -> bool:
        """The choice depends on how often tokens occurred before."""
        return (
            self.repetition_penalty != 1.0
            or self.presence_penalty != 0.0
            or self.frequency_penalty != 0.0
        )

    def end_ids(self, eos_ids: Iterable[int]) -> frozenset[int]:
        """The ids that end the output, of a model whose own are `eos_ids`."""
        own = () if self.ignore_eos else eos_ids
        return frozenset(self.stop_token_ids).union(own)

    def check_vocabulary(self, vocab_size: int) -> None:
        """See that every id given is one of the model's.

        Raises:
            SamplingError: one is not.
        """
        for name, ids in (("stop_token_ids", self.stop_token_ids), ("logit_bias", self.logit_bias)):
            for token in ids:
                if token >= vocab_size:
                    accepted = f"ids below {vocab_size}, the model's vocabulary"
                    raise _error(name, token, accepted)

    @classmethod
    def from_mapping(
        cls, options: Mapping[str, Any], *, ignore_unknown: bool = False
    ) -> SamplingParams:
        """Parameters as a client or a trace gives them; null means the default.

        `max_tokens` and `max_completion_tokens` are read as `max_new_tokens`, `min_tokens` as
        `min_new_tokens`; `logprobs` may be OpenAI's boolean, with `top_logprobs` beside it; `n` may
        be given as 1.

        Args:
            options: names to values, of JSON's types.
            ignore_unknown: leave out fields that are not known here, as a server must.

        Raises:
            SamplingError: a value cannot be, two spellings disagree, or a field is unknown.
        """
        known = {f.name for f in fields(cls)}
        found: dict[str, Any] = {}
        spelled: dict[str, str] = {}
        for given, value in options.items():
            name = _SPELLINGS.get(given, given)
            if value is None or name in {"n", "top_logprobs"}:
                continue
            if name not in known:
                if ignore_unknown:
                    continue
                all_known = sorted(known | _SPELLINGS.keys() | {"n", "top_logprobs"})
                msg = f"unknown sampling field {given!r}; known are {', '.join(all_known)}"
                raise SamplingError(msg)
            if name in found and found[name] != value:
                accepted = f"one value, and {spelled[name]} says {found[name]!r}"
                raise _error(given, value, accepted)
            found[name], spelled[name] = value, given
        if options.get("n") is not None and (type(options["n"]) is not int or options["n"] != 1):
            raise _error("n", options["n"], "1: one output for a request")
        if "logprobs" in found or options.get("top_logprobs") is not None:
            found["logprobs"] = _logprobs(found.get("logprobs"), options.get("top_logprobs"))
        return cls(**found)


_MAY_BE_NONE = {"top_k", "seed", "logprobs"}
_INTEGERS: dict[str, tuple[int, int | None]] = {  # least and most
    "max_new_tokens": (0, None),
    "min_new_tokens": (0, None),
    "top_k": (1, None),
    "seed": (-(2**63), 2**64 - 1),
    "logprobs": (0, MOST_LOGPROBS),
}
_NUMBERS: dict[str, tuple[float, float | None, bool]] = {  # and whether it must be above the least
    "temperature": (0, None, False),
    "top_p": (0, 1, True),
    "min_p": (0, 1, False),
    "repetition_penalty": (0, None, True),
    "presence_penalty": (-2, 2, False),
    "frequency_penalty": (-2, 2, False),
}


def _error(name: str, value: object, accepted: str) -> SamplingError:
    return SamplingError(f"{name} is {value!r}; accepted: {accepted}")


def _integer(name: str, value: object, low: int, high: int | None) -> int:
    accepted = f"an integer of at least {low}" if high is None else f"an integer {low} to {high}"
    if name == "top_k":
        accepted += ", or null, 0 or -1 for all tokens"
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise _error(name, value, accepted)
    number = int(value)
    if number < low or (high is not None and number > high):
        raise _error(name, value, accepted)
    return number


def _number(
    name: str, value: object, low: float, high: float | None, *, above: bool = False
) -> float:
    """A finite number from `low` (or above it) to `high`."""
    accepted = f"a number {'above' if above else 'of at least'} {low:g}"
    if high is not None:
        accepted += f", at most {high:g}"
    if isinstance(value, bool) or not isinstance(value, Real):
        raise _error(name, value, accepted)
    number = float(value)
    too_low = number <= low if above else number < low
    if not math.isfinite(number) or too_low or (high is not None and number > high):
        raise _error(name, value, accepted)
    return number


def _strings(stop: object) -> tuple[str, ...]:
    strings = (stop,) if isinstance(stop, str) else stop
    if not isinstance(strings, list | tuple | set | frozenset):
        raise _error("stop", stop, "a string or a list of strings")
    for string in strings:
        if not isinstance(string, str) or not string:
            raise _error("stop", stop, "strings of at least one character")
    return tuple(strings)


def _ids(ids: object) -> tuple[int, ...]:
    if not isinstance(ids, list | tuple | set | frozenset):
        raise _error("stop_token_ids", ids, "a list of token ids")
    return tuple(_integer("stop_token_ids", token, 0, None) for token in ids)


def _bias(bias: object) -> dict[int, float]:
    """JSON's keys are strings, so ids may be."""
    if not hasattr(bias, "items"):
        raise _error("logit_bias", bias, "token ids with numbers from -100 to 100")
    found = {}
    for token, value in bias.items():
        if isinstance(token, str) and token.isdecimal():
            token = int(token)  # noqa: PLW2901 - the same id, in its own type
        found[_integer("logit_bias", token, 0, None)] = _number("logit_bias", value, -100, 100)
    return found


def _logprobs(logprobs: object, top: object) -> object:
    """OpenAI's chat API has a switch and a number, its older one a number alone."""
    if top is not None and not logprobs:
        raise _error("top_logprobs", top, "nothing unless logprobs is true")
    if isinstance(logprobs, bool):
        if not logprobs:
            return None
        return 0 if top is None else _integer("top_logprobs", top, 0, MOST_LOGPROBS)
    if top is not None and top != logprobs:
        raise _error("top_logprobs", top, f"the number that logprobs says, {logprobs!r}")
    return logprobs
