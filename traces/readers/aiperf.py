"""NVIDIA AIPerf's datasets: mooncake_trace without hashes on each row, single_turn, multi_turn.

Source: https://github.com/ai-dynamo/aiperf, docs and src/aiperf/dataset/loader (Apache-2.0).
`mooncake_trace` has one of `input_length` (with `hash_ids` of 512 tokens or without), `text_input`,
`messages` and `payload` a row, and may have `output_length`, `timestamp` or `delay` (ms) and
`session_id`; rows of a session are its turns, each only what is new, except that `messages` and
`payload` are all that is sent. `single_turn` has `text` or `texts`, and rows of one session follow
each other but hold all of it; `multi_turn` has `turns` of such rows, each only what is new, after an
opening `system` turn if there is one. Images, audio and video are counted, and not read.

A row may have one hash more than it has blocks: AIPerf's own examples do where a prompt ends with a
full block. It names no token and is left out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from traces.errors import RowError, shown
from traces.readers.conversations import Conversations, Turn, from_start
from traces.readers.fields import (
    Clock,
    Row,
    integers,
    json_row,
    length,
    name_of,
    objects,
    required,
    row_keys,
    time_ns,
)
from traces.readers.formats import Facts, ReadOptions, TraceContent
from traces.readers.mooncake import BLOCK_SIZE
from traces.readers.texts import Texts
from traces.tokens import BlockTokens, SyntheticTokens, Tokens

if TYPE_CHECKING:
    from collections.abc import Iterator

    from traces.readers.lines import TraceLines
    from traces.workload import TraceRequest

_PROMPTS = ("input_length", "text_input", "messages", "payload")
_MEDIA = ("image", "images", "audio", "audios", "video", "videos")
_WHOLE = ("messages", "payload")


class AiperfTraceFormat:
    """Reads `mooncake_trace` files."""

    name = "aiperf"
    described = "JSONL with input_length, text_input, messages or payload a row (mooncake_trace)"
    facts = Facts("ms", "512, a hash for the last, partial one too", "turns, each only what is new")

    def recognises(self, line: str) -> bool:
        """Whether a line is a JSON object with one of the prompts and something beside it."""
        keys = row_keys(line)
        given = [name for name in _PROMPTS if name in keys]
        known = {"timestamp", "delay", "session_id", "output_length"}
        return len(given) == 1 and bool(keys & known)

    def claims(self, head: list[str]) -> bool:
        """Whether these are rows of sessions of which some have no hashes.

        A first row with hashes alone would be Mooncake's, whose rows all have them.
        """
        keys = [row_keys(line) for line in head]
        return (
            all("input_length" in row for row in keys)
            and any("hash_ids" not in row for row in keys)
            and any("session_id" in row for row in keys)
        )

    def read(
        self, source: TraceLines, lines: Iterator[tuple[int, str]], options: ReadOptions
    ) -> TraceContent:
        """All requests, or the first `options.limit`; the rest of the file is then not read."""
        texts = Texts(options.vocab_size, options.encode)
        clock = Clock("timestamp")
        deltas = Conversations("timestamp", deltas=True)
        wholes = Conversations("timestamp")
        ordinal = -1

        def parse(line: str) -> TraceRequest:
            nonlocal ordinal
            ordinal += 1
            row = json_row(line)
            prompt = _prompt(row, ordinal, texts, options)
            turn = _turn(row, f"r{ordinal:06d}", prompt, texts.output(row.get("output_length")))
            if turn.session is None and turn.stamp_ns is not None:
                clock.check(turn.stamp_ns, row["timestamp"])
            kind = wholes if any(name in row for name in _WHOLE) else deltas
            return kind.add(turn)

        requests = [request for _, request in source.rows(lines, parse, options.limit)]
        return TraceContent(from_start(requests), texts.meta())


class SingleTurnFormat:
    """Reads `single_turn` files."""

    name = "aiperf-single-turn"
    described = "JSONL with text or texts a row (AIPerf single_turn)"
    facts = Facts("ms", sessions="rows that follow each other, each all of it")

    def recognises(self, line: str) -> bool:
        """Whether a line is a JSON object with a text."""
        keys = row_keys(line)
        return ("text" in keys or "texts" in keys) and not keys & {"turns", "question_id"}

    def read(
        self, source: TraceLines, lines: Iterator[tuple[int, str]], options: ReadOptions
    ) -> TraceContent:
        """All requests, or the first `options.limit`; the rest of the file is then not read."""
        texts = Texts(options.vocab_size, options.encode)
        conversations = Conversations("timestamp")
        ordinal = -1

        def parse(line: str) -> TraceRequest:
            nonlocal ordinal
            ordinal += 1
            row = json_row(line)
            prompt = texts.prompt(_said(row, texts), "text")
            output = texts.output(row.get("output_length"))
            return conversations.add(_turn(row, f"r{ordinal:06d}", prompt, output))

        requests = [request for _, request in source.rows(lines, parse, options.limit)]
        return TraceContent(from_start(requests), texts.meta())


class MultiTurnFormat:
    """Reads `multi_turn` files."""

    name = "aiperf-multi-turn"
    described = "JSONL with turns, a list of objects with text, a row (AIPerf multi_turn)"
    facts = Facts("ms", sessions="turns, each only what is new")

    def recognises(self, line: str) -> bool:
        """Whether a line is a JSON object with turns that are objects."""
        if "turns" not in row_keys(line):
            return False
        turns = json_row(line)["turns"]
        return isinstance(turns, list) and all(isinstance(turn, dict) for turn in turns)

    def read(
        self, source: TraceLines, lines: Iterator[tuple[int, str]], options: ReadOptions
    ) -> TraceContent:
        """All turns, or those of the first sessions up to `options.limit`."""
        texts = Texts(options.vocab_size, options.encode)
        conversations = Conversations("timestamp", deltas=True)
        turns_of: dict[str, int] = {}

        def parse(line: str) -> list[TraceRequest]:
            row = json_row(line)
            given = row.get("session_id")
            name = f"s{len(turns_of):06d}" if given is None else name_of(given, "session_id")
            turns = objects(required(row, "turns", "a list of turns"), "turns")
            made: list[TraceRequest] = []
            opening = ""
            for place, turn in enumerate(turns):
                said = _said(turn, texts)
                if place == 0 and turn.get("role") == "system" and len(turns) > 1:
                    opening = f"{said}\n"
                    continue
                number = turns_of.get(name, 0)
                turns_of[name] = number + 1
                prompt = texts.prompt(opening + said, f"turns[{place}].text")
                output = texts.output(turn.get("output_length"))
                row_of = {**turn, "session_id": name}
                made.append(conversations.add(_turn(row_of, f"{name}/{number}", prompt, output)))
                opening = ""
            return made

        requests: list[TraceRequest] = []
        for _, made in source.rows(lines, parse):
            requests += made
            if options.limit is not None and len(requests) >= options.limit:
                break
        return TraceContent(from_start(requests[: options.limit]), texts.meta())


def _turn(row: Row, name: str, prompt: Tokens, output: Tokens) -> Turn:
    session, stamp, delay = row.get("session_id"), row.get("timestamp"), row.get("delay")
    return Turn(
        id=name,
        session=None if session is None else name_of(session, "session_id"),
        prompt=prompt,
        output=output,
        stamp_ns=None if stamp is None else time_ns(stamp, "timestamp", "ms"),
        delay_ns=None if delay is None else time_ns(delay, "delay", "ms"),
    )


def _prompt(row: Row, ordinal: int, texts: Texts, options: ReadOptions) -> Tokens:
    given = [name for name in _PROMPTS if row.get(name) is not None]
    if len(given) != 1:
        raise RowError(
            f"{', '.join(given) or 'none'} of them", f"exactly one of {', '.join(_PROMPTS)}"
        )
    if given[0] == "text_input":
        return texts.prompt(row["text_input"], "text_input")
    if given[0] == "messages":
        messages = objects(row["messages"], "messages")
        return texts.prompt("\n".join(texts.message(m, "messages") for m in messages), "messages")
    if given[0] == "payload":
        return texts.prompt(texts.payload(row["payload"]), "payload")
    tokens = length(row["input_length"], "input_length")
    if row.get("hash_ids") is None:
        return SyntheticTokens(2 * ordinal, tokens, options.vocab_size)
    size = options.block_size or BLOCK_SIZE
    hashes = integers(row["hash_ids"], "hash_ids")
    blocks = -(-tokens // size)
    surplus = tokens % size == 0 and len(hashes) == blocks + 1
    if len(hashes) != blocks and not surplus:
        raise RowError(
            f"{len(hashes)} hashes for {tokens} tokens",
            f"{blocks}: one per {size} tokens, the last, partial block included",
            field="hash_ids",
        )
    return BlockTokens(hashes[:blocks], size, tokens, options.vocab_size)


def _said(row: Row, texts: Texts) -> str:
    """The text of a single turn; several are joined by line ends."""
    for name in _MEDIA:
        if row.get(name):
            texts.media += 1
    if row.get("text") is not None:
        return texts.text(row["text"], "text")
    several = required(row, "texts", "text or texts")
    if not isinstance(several, list):
        raise RowError(shown(several), "a list of strings, or of objects", field="texts")
    pieces: list[str] = []
    for piece in several:
        contents = piece.get("contents") if isinstance(piece, dict) else [piece]
        if not isinstance(contents, list):
            raise RowError(shown(piece), "an object with contents, a list", field="texts")
        pieces += [texts.text(content, "texts") for content in contents]
    return "\n".join(pieces)
