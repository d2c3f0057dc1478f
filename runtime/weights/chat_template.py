"""Rendering a chat template: messages in, the text that the model was tuned on out.

Templates are Jinja programs that come with checkpoints. They run sandboxed, in the environment that
transformers gives them: its options, its `tojson`, `raise_exception` and `strftime_now`.
"""

from __future__ import annotations

import json
from datetime import datetime
from typing import TYPE_CHECKING, Any

import jinja2
from jinja2.ext import Extension
from jinja2.sandbox import ImmutableSandboxedEnvironment

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from jinja2 import nodes
    from jinja2.parser import Parser


class _Generation(Extension):
    """`{% generation %}` marks an answer, for training; what is inside is rendered as it is."""

    tags = {"generation"}  # noqa: RUF012 - as jinja2 declares it

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class ChatTemplate:
    """A compiled template and the special tokens that it may write."""

    def __init__(self, source: str, special_tokens: Mapping[str, str], where: str) -> None:
        """Compile a template.

        Args:
            source: the Jinja program.
            special_tokens: `bos_token`, `eos_token` ... as text.
            where: names the template in errors.

        Raises:
            ValueError: it does not compile.
        """
        self.source = source
        self._special_tokens = dict(special_tokens)
        self._where = where
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=[_Generation, "jinja2.ext.loopcontrols"],
        )
        environment.filters["tojson"] = _to_json
        environment.globals["raise_exception"] = _raise
        environment.globals["strftime_now"] = _now
        try:
            self._template = environment.from_string(source)
        except jinja2.TemplateError as error:
            raise ValueError(f"{where}: the chat template does not compile: {error}") from error

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        add_generation_prompt: bool = True,
        **variables: Any,
    ) -> str:
        """The chat as one text.

        Args:
            messages: each with `role` and `content`.
            add_generation_prompt: end with what comes before an answer.
            variables: what else the template knows (`tools`, `enable_thinking` ...).

        Raises:
            ValueError: the template refuses the messages.
        """
        try:
            return self._template.render(
                messages=messages,
                add_generation_prompt=add_generation_prompt,
                **{"tools": None, "documents": None, **self._special_tokens, **variables},
            )
        except Exception as error:  # a template is a program of its own
            msg = f"{self._where}: the chat template refuses these messages: {error}"
            raise ValueError(msg) from error


def _to_json(value: Any, ensure_ascii: bool = False, **options: Any) -> str:
    # Jinja's own filter would escape HTML
    return json.dumps(value, ensure_ascii=ensure_ascii, **options)


def _raise(message: str) -> None:
    raise jinja2.TemplateError(message)


def _now(pattern: str) -> str:
    return datetime.now().strftime(pattern)  # noqa: DTZ005 - templates write the local date
