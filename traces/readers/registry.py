"""The known formats by name, and which of them a file is in."""

from __future__ import annotations

from typing import TYPE_CHECKING

from traces.errors import RowError, TraceError, shown
from traces.native import NativeFormat
from traces.readers.agentic import AgenticMooncakeFormat
from traces.readers.aiperf import AiperfTraceFormat, MultiTurnFormat, SingleTurnFormat
from traces.readers.applied_compute import AppliedComputeFormat
from traces.readers.azure import AzureFormat
from traces.readers.bailian import BailianFormat
from traces.readers.chats import LmBenchmarkFormat, LmCacheFormat, MtBenchFormat, ShareGptFormat
from traces.readers.dynamo import DynamoFormat
from traces.readers.fields import json_row
from traces.readers.lengths import BurstGptFormat, NanoFlowFormat, VidurFormat
from traces.readers.llmservingsim import LlmServingSimFormat
from traces.readers.mooncake import MooncakeDeltaFormat, MooncakeFormat
from traces.readers.weka import WekaFormat

if TYPE_CHECKING:
    from traces.readers.formats import HeadFormat, TraceFormat
    from traces.readers.lines import TraceLines

_NANOFLOW, _DELTA, _WEKA = NanoFlowFormat(), MooncakeDeltaFormat(), WekaFormat()
_SHAREGPT, _LMBENCHMARK, _AIPERF = ShareGptFormat(), LmBenchmarkFormat(), AiperfTraceFormat()

FORMATS: dict[str, TraceFormat] = {
    form.name: form
    for form in (
        AzureFormat(),
        MooncakeFormat(),
        NativeFormat(),
        BailianFormat(),
        BurstGptFormat(),
        _WEKA,
        _SHAREGPT,
        LlmServingSimFormat(),
        _LMBENCHMARK,
        _NANOFLOW,
        VidurFormat(),
        DynamoFormat(),
        AgenticMooncakeFormat(),
        _DELTA,
        AppliedComputeFormat(),
        _AIPERF,
        SingleTurnFormat(),
        MultiTurnFormat(),
        LmCacheFormat(),
        MtBenchFormat(),
    )
}
"""Every format, as `twin trace formats` lists them."""

_BY_HEAD: tuple[HeadFormat, ...] = (
    _NANOFLOW,
    _DELTA,
    _WEKA,
    _SHAREGPT,
    _LMBENCHMARK,
    _AIPERF,
)

# Formats whose rows hold another's fields and more are asked before it.
_LAST = ("mooncake-delta", "mooncake", "aiperf", "aiperf-single-turn")
_BY_LINE: tuple[TraceFormat, ...] = (
    *(form for form in FORMATS.values() if form.name not in _LAST),
    *(FORMATS[name] for name in _LAST[1:]),
)


def format_of(line: str) -> TraceFormat | None:
    """The format that a line is written in."""
    return next((form for form in _BY_LINE if form.recognises(line)), None)


def recognised(source: TraceLines, head: list[tuple[int, str]]) -> TraceFormat:
    """The format of a trace that begins with these lines.

    Raises:
        TraceError: no format knows any of them as its own; the known ones are named.
    """
    texts = [line for _, line in head]
    for by_head in _BY_HEAD:
        if by_head.claims(texts):
            return by_head
    for line in texts:
        form = format_of(line)
        if form is not None:
            return form
    number, line = head[0]
    if line.startswith("{") and len(line) > 1 and len(head) == 1:
        try:
            json_row(line)
        except RowError as error:
            raise source.at(number, line, error) from None
    known = f"one of {', '.join(FORMATS)}; `twin trace formats` lists how each is recognised"
    raise TraceError(source.path, f"no known trace format in {shown(line)}", known, line=number)
