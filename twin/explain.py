"""A config, or a datasheet, as YAML in which every key is explained.

A config's keys are explained by the docstrings of its fields, read from the source of the sections'
classes, so that there is one text for whoever reads the code and whoever writes a config. (Pydantic's
`use_attribute_docstrings` reads them too, but whenever a class is imported, so that every command would
pay for this one.) What it prints is what `--config` takes, or `device.name`.
"""

from __future__ import annotations

import ast
import inspect
from textwrap import dedent, indent, wrap
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin

from pydantic import BaseModel

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from simulator.config import SimulatorConfig

WIDTH = 100
"""Columns of a comment, at most."""


def explained(config: SimulatorConfig) -> str:
    """The config as YAML, with a comment over each key that says what it means.

    The runtime's section, which a simulation does not read, is written out with its defaults.
    """
    from runtime.config import RuntimeOptions

    runtime = RuntimeOptions.model_validate(config.runtime or {})
    shown = config.model_copy(update={"runtime": runtime})
    first, _, _ = config.to_yaml().partition("\n")
    head = [first] if first.startswith("#") else []
    return "\n".join([*head, *_section(shown, shown.model_dump(mode="json"))]) + "\n"


def datasheet(name: str) -> str:
    """A GPU's datasheet as YAML, with what each key means and where its figure comes from.

    Args:
        name: of a bundled datasheet, or the path of a file.

    Raises:
        ValueError: as `Device.load` does.
    """
    import yaml

    from simulator.devices import MEANS, Device

    device = Device.load(name)
    lines: list[str] = []
    for key, means in MEANS.items():
        value = getattr(device, key)
        lines += _comment(f"{means[0].upper()}{means[1:]}.")
        if isinstance(value, float):
            lines.append(f"{key}: {value:.6g}")
        else:
            value = dict(value) if key == "sources" else value
            lines += yaml.safe_dump({key: value}, sort_keys=False, width=1000).splitlines()
    return "\n".join(lines) + "\n"


def _comment(words: str) -> Iterator[str]:
    yield from (f"# {line}" for line in wrap(" ".join(words.split()), WIDTH))


def _section(
    section: BaseModel, values: Mapping[str, Any], chosen_by: str | None = None
) -> Iterator[str]:
    """The lines of a section, without the indentation of those around it.

    Args:
        section: its values.
        values: the same, as YAML has them.
        chosen_by: the key that says which of several sections it is; it comes first.
    """
    import yaml

    docstrings = field_docstrings(type(section))
    fields = type(section).model_fields
    for name in sorted(fields, key=lambda name: name != chosen_by):
        field = fields[name]
        inner = getattr(section, name)
        if isinstance(inner, BaseModel):
            words = docstrings.get(name) or (inspect.getdoc(inner) or "").partition("\n\n")[0]
            chooses = field.discriminator if isinstance(field.discriminator, str) else None
            within = _section(inner, values[name], chooses)
            lines = [f"{name}:", *(indent(line, "  ") for line in within)]
        else:
            words = docstrings.get(name) or field.description or ""
            lines = yaml.safe_dump({name: values[name]}, sort_keys=False).splitlines()
        choices = ", ".join(_choices(field.annotation))
        if choices:
            words = f"{words.rstrip('.')} ({choices})." if words else f"{choices}."
        yield from _comment(words)
        yield from lines


def field_docstrings(cls: type) -> dict[str, str]:
    """The text below each field in the source of a class and of those it derives from."""
    found: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        if base is BaseModel or not issubclass(base, BaseModel):
            continue
        [body] = ast.parse(dedent(inspect.getsource(base))).body
        assert isinstance(body, ast.ClassDef)
        for field, text in zip(body.body, body.body[1:], strict=False):
            match field, text:
                case (
                    ast.AnnAssign(target=ast.Name(id=name)),
                    ast.Expr(value=ast.Constant(value=str(words))),
                ):
                    found[name] = words
    return found


def _choices(annotation: Any) -> list[str]:
    """What a field that takes one of a few words may be; nothing for a single one."""
    if get_origin(annotation) is Literal:
        words = [str(word) for word in get_args(annotation)]
        return words if len(words) > 1 else []
    return []
