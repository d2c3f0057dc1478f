"""The tokenizer that a GGUF's metadata describes, built with the `tokenizers` package.

A GGUF keeps vocabulary and merges, and names the rule that texts are split by before merging. Byte-
level BPE is built here (`tokenizer.ggml.model` "gpt2": SmolLM, Llama 3, Qwen), with the rules of
llama.cpp's `llm_tokenizer_bpe` by their names there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, pre_tokenizers, processors

from runtime.weights.tokenizer import Tokenizer

if TYPE_CHECKING:
    from runtime.models.config import ModelConfig
    from runtime.weights.chat_template import ChatTemplate
    from runtime.weights.gguf import GGUFFile

_CONTROL, _USER_DEFINED = 3, 4  # llama.cpp's token types
_WORDS: Final = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|%s"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_REGEX: Final = {  # rules that are one pattern
    "llama-bpe": _WORDS % r"\p{N}{1,3}",
    "qwen2": _WORDS % r"\p{N}",
}
_SINGLE_DIGITS: Final = ("smollm", "starcoder", "refact", "command-r", "codeshell")
_GPT2: Final = ("gpt-2", "default")


def gguf_tokenizer(file: GGUFFile, config: ModelConfig) -> Tokenizer | None:
    """The tokenizer of a GGUF file; None if it holds none.

    Raises:
        ValueError: a kind of tokenizer, or a rule of splitting, that is not known; lists those that
            are.
    """
    values = file.metadata
    kind = values.get("tokenizer.ggml.model")
    if kind is None:
        return None
    if kind != "gpt2":
        msg = (
            f"{file.path}: tokenizer.ggml.model {kind!r} is not supported; supported: gpt2 "
            "(byte-level BPE)"
        )
        raise ValueError(msg)
    tokens: list[str] = values["tokenizer.ggml.tokens"]
    backend = tokenizers.Tokenizer(
        models.BPE(
            vocab={token: i for i, token in enumerate(tokens)},
            merges=[_pair(merge) for merge in values["tokenizer.ggml.merges"]],
            fuse_unk=False,
        )
    )
    prefix_space = bool(values.get("tokenizer.ggml.add_space_prefix", False))
    backend.pre_tokenizer = _pre_tokenizer(file, prefix_space=prefix_space)
    backend.decoder = decoders.ByteLevel()
    types = values.get("tokenizer.ggml.token_type") or [1] * len(tokens)
    backend.add_special_tokens(_added(tokens, types, _CONTROL))
    backend.add_tokens(_added(tokens, types, _USER_DEFINED))
    special = _special_tokens(values, tokens)
    if values.get("tokenizer.ggml.add_bos_token", False) and "bos_token" in special:
        bos = special["bos_token"]
        backend.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A",
            pair=f"{bos} $A {bos} $B",
            special_tokens=[(bos, values["tokenizer.ggml.bos_token_id"])],
        )
    return Tokenizer(
        backend,
        bos_id=config.bos_id,
        eos_ids=config.eos_ids,
        special_tokens=special,
        chat_template=_chat_template(file, special),
    )


def _pre_tokenizer(file: GGUFFile, *, prefix_space: bool) -> pre_tokenizers.PreTokenizer:
    """How a text is cut into the pieces that are merged each by itself."""
    rule = file.metadata.get("tokenizer.ggml.pre", "default")
    if rule in _REGEX:
        return pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(_REGEX[rule]), behavior="isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=prefix_space, use_regex=False),
            ]
        )
    words = pre_tokenizers.ByteLevel(add_prefix_space=prefix_space, use_regex=True)
    if rule in _GPT2:
        return words
    if rule in _SINGLE_DIGITS:
        digits = pre_tokenizers.Digits(individual_digits=True)
        return pre_tokenizers.Sequence([digits, words])
    known = ", ".join([*_REGEX, *_SINGLE_DIGITS, *_GPT2])
    msg = f"{file.path}: tokenizer.ggml.pre {rule!r} is not supported; supported: {known}"
    raise ValueError(msg)


def _pair(merge: str) -> tuple[str, str]:
    left, _, right = merge.partition(" ")
    return left, right


def _added(tokens: list[str], types: list[int], kind: int) -> list[AddedToken]:
    special = kind == _CONTROL
    return [
        AddedToken(token, normalized=False, special=special)
        for token, its_kind in zip(tokens, types, strict=True)
        if its_kind == kind
    ]


def _special_tokens(values: dict[str, Any], tokens: list[str]) -> dict[str, str]:
    names = {"unk_token": "unknown", "pad_token": "padding", "bos_token": "bos", "eos_token": "eos"}
    ids = {key: values.get(f"tokenizer.ggml.{name}_token_id") for key, name in names.items()}
    return {key: tokens[token] for key, token in ids.items() if token is not None}


def _chat_template(file: GGUFFile, special: dict[str, str]) -> ChatTemplate | None:
    from runtime.weights.chat_template import ChatTemplate

    source = file.metadata.get("tokenizer.chat_template")
    return None if source is None else ChatTemplate(source, special, str(file.path))
