"""Chats and questions with their text: ShareGPT, LMBenchmark, MT-bench and LMCache's agent logs.

Sources: ShareGPT-type JSONL or a JSON list with `conversations` (or `conversation`), a list of
{from|role, value|content}, as `vllm bench serve` and `sglang.bench_serving` read it, here with all
turns; https://github.com/LMCache/LMBenchmark, a JSON list of {input, output_length};
https://github.com/lm-sys/FastChat, MT-bench questions with `turns`, a list of texts, and perhaps
`reference`, the answers ("" where there is none); https://github.com/LMCache/lmcache-agent-trace,
JSONL with `timestamp` (us), `input` (all that is sent), `output` and `session_id`, not in order of
time. All but ShareGPT's data are Apache-2.0. Where no times are given every chat starts at 0, and a
follow-up is sent when the answer has ended.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from traces.errors import RowError, shown
from traces.readers.conversations import Conversations, Turn, from_start
from traces.readers.fields import (
    Row,
    an_object,
    json_row,
    name_of,
    objects,
    required,
    row_keys,
    time_ns,
)
from traces.readers.formats import Facts, ReadOptions, TraceContent
from traces.readers.lines import Place
from traces.readers.texts import Texts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from traces.readers.lines import TraceLines
    from traces.workload import TraceRequest

_HUMANS = ("human", "user")
_OTHERS = ("system", "tool")


class ShareGptFormat:
    """Reads `conversations`."""

    name = "sharegpt"
    described = "JSONL, or a JSON list, with conversations, a list of {from, value}, a row"
    facts = Facts("", sessions="turns, each only what is new")

    def recognises(self, line: str) -> bool:
        """Whether a line is a JSON object with conversations."""
        return bool({"conversations", "conversation"} & row_keys(line))

    def claims(self, head: list[str]) -> bool:
        """Whether a JSON list of such objects begins here."""
        return _begins_list(head, "conversations") or _begins_list(head, "conversation")

    def read(
        self, source: TraceLines, lines: Iterator[tuple[int, str]], options: ReadOptions
    ) -> TraceContent:
        """All turns, or those of the first chats up to `options.limit`."""
        texts = Texts(options.vocab_size, options.encode)
        chats = 0

        def parse(row: Row) -> list[TraceRequest]:
            nonlocal chats
            given = row.get("id")
            name = f"s{chats:06d}" if given is None else name_of(given, "id")
            field = "conversations" if "conversations" in row else "conversation"
            made = _chat(objects(row.get(field), field), name, field, texts)
            chats += 1
            return made

        return _content(_rows(source, lines, parse), texts, options)


class LmBenchmarkFormat:
    """Reads a list of `input` and `output_length`."""

    name = "lmbenchmark"
    described = "a JSON list of objects with input and output_length"
    facts = Facts("")

    def recognises(self, line: str) -> bool:
        """Whether a line is an object of such a list."""
        return row_keys(line) == {"input", "output_length"}

    def claims(self, head: list[str]) -> bool:
        """Whether a JSON list of such objects begins here."""
        return _begins_list(head, "input")

    def read(
        self, source: TraceLines, lines: Iterator[tuple[int, str]], options: ReadOptions
    ) -> TraceContent:
        """All requests, or the first `options.limit`."""
        texts = Texts(options.vocab_size, options.encode)
        conversations = Conversations("")
        number = -1

        def parse(row: Row) -> list[TraceRequest]:
            nonlocal number
            number += 1
            prompt = texts.prompt(required(row, "input", "the prompt's text"), "input")
            output = texts.output(required(row, "output_length", "the answer's tokens"))
            return [conversations.add(Turn(f"r{number:06d}", None, prompt, output))]

        return _content(_rows(source, lines, parse), texts, options)


class MtBenchFormat:
    """Reads questions of several turns."""

    name = "mt-bench"
    described = "JSONL with question_id and turns, a list of texts, a row"
    facts = Facts("", sessions="turns, each only what is new")

    def recognises(self, line: str) -> bool:
        """Whether a line is a question."""
        return {"question_id", "turns"} <= row_keys(line)

    def read(
        self, source: TraceLines, lines: Iterator[tuple[int, str]], options: ReadOptions
    ) -> TraceContent:
        """All turns, or those of the first questions up to `options.limit`."""
        texts = Texts(options.vocab_size, options.encode)
        conversations = Conversations("", deltas=True)

        def parse(row: Row) -> list[TraceRequest]:
            name = f"q{name_of(required(row, 'question_id', 'a number'), 'question_id')}"
            turns, answers = row.get("turns"), row.get("reference", [])
            if not isinstance(turns, list) or not turns:
                raise RowError(shown(turns), "a list of texts", field="turns")
            if not isinstance(answers, list):
                raise RowError(shown(answers), "a list of texts", field="reference")
            made: list[TraceRequest] = []
            for place, turn in enumerate(turns):
                prompt = texts.prompt(turn, f"turns[{place}]")
                if place < len(answers) and answers[place] != "":
                    output = texts.answer(answers[place], f"reference[{place}]")
                else:
                    output = texts.output(None)
                made.append(conversations.add(Turn(f"{name}/{place}", name, prompt, output)))
            return made

        return _content(_rows(source, lines, parse), texts, options)


class LmCacheFormat:
    """Reads agents' calls, put in order of time."""

    name = "lmcache"
    described = "JSONL with timestamp (us), input, output and session_id a row"
    facts = Facts("us", sessions="agents' calls, each all of it")

    def recognises(self, line: str) -> bool:
        """Whether a line is such a call."""
        return {"timestamp", "input", "output", "session_id"} <= row_keys(line)

    def read(
        self, source: TraceLines, lines: Iterator[tuple[int, str]], options: ReadOptions
    ) -> TraceContent:
        """All calls, or the first `options.limit` in order of time."""
        texts = Texts(options.vocab_size, options.encode)
        calls: dict[str, int] = {}

        def parse(line: str) -> Turn:
            row = json_row(line)
            session = name_of(required(row, "session_id", "a name"), "session_id")
            stamp = required(row, "timestamp", "microseconds since 1970")
            turn = Turn(
                id=f"{session}/{calls.get(session, 0):04d}",
                session=session,
                prompt=texts.prompt(required(row, "input", "the prompt's text"), "input"),
                output=texts.answer(required(row, "output", "the answer's text"), "output"),
                stamp_ns=time_ns(stamp, "timestamp", "us"),
            )
            calls[session] = calls.get(session, 0) + 1
            return turn

        turns = [turn for _, turn in source.rows(lines, parse)]
        turns.sort(key=lambda turn: turn.stamp_ns or 0)
        conversations = Conversations("timestamp")
        requests = [conversations.add(turn) for turn in turns[: options.limit]]
        return TraceContent(from_start(requests), texts.meta())


def _chat(said: list[Row], name: str, field: str, texts: Texts) -> list[TraceRequest]:
    """A request for each answer of a chat, and for a question at its end that has none."""
    conversations = Conversations("", deltas=True)
    made: list[TraceRequest] = []
    asked: list[str] = []
    for place, turn in enumerate(said):
        where = f"{field}[{place}]"
        speaker = turn.get("from", turn.get("role"))
        text = texts.text(turn.get("value", turn.get("content")), where)
        if speaker in _HUMANS or speaker in _OTHERS:
            asked.append(text)
            continue
        if asked:
            prompt, output = texts.prompt("\n".join(asked), where), texts.answer(text, where)
            made.append(conversations.add(Turn(f"{name}/{len(made)}", name, prompt, output)))
            asked = []
    if asked:
        prompt, output = texts.prompt("\n".join(asked), field), texts.output(None)
        made.append(conversations.add(Turn(f"{name}/{len(made)}", name, prompt, output)))
    if not made:
        raise RowError("no question", f"one from {' or '.join(_HUMANS)} at least", field=field)
    return made


def _rows(
    source: TraceLines,
    lines: Iterator[tuple[int, str]],
    parse: Callable[[Row], list[TraceRequest]],
) -> Iterator[list[TraceRequest]]:
    """What each object gives: of a JSON list, or one a line."""
    first = next(lines)
    if not first[1].startswith("["):
        yield from (
            made for _, made in source.rows(_again(first, lines), lambda x: parse(json_row(x)))
        )
        return
    for name, content in source.documents():
        try:
            rows = json.loads(content)
        except (ValueError, RecursionError) as error:
            source.reject(Place(name, getattr(error, "lineno", None)), _no_list(content, error))
            continue
        for place, row in enumerate(rows):
            try:
                made = parse(an_object(row))
            except RowError as error:
                field = f"[{place}]" if error.field is None else f"[{place}].{error.field}"
                source.reject(Place(name, None), RowError(error.found, error.expected, field=field))
            else:
                yield made


def _again(first: tuple[int, str], lines: Iterator[tuple[int, str]]) -> Iterator[tuple[int, str]]:
    yield first
    yield from lines


def _no_list(content: bytes, error: Exception) -> RowError:
    return RowError(
        f"{shown(content[:40].decode(errors='replace'))} ({error})", "one well-formed JSON list"
    )


def _content(
    rows: Iterator[list[TraceRequest]], texts: Texts, options: ReadOptions
) -> TraceContent:
    requests: list[TraceRequest] = []
    for made in rows:
        requests += made
        if options.limit is not None and len(requests) >= options.limit:
            break
    return TraceContent(from_start(requests[: options.limit]), texts.meta())


def _begins_list(head: list[str], key: str) -> bool:
    return head[0].startswith("[") and any(f'"{key}":' in line[:400] for line in head[:4])
