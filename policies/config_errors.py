"""What pydantic found wrong with a config, in the words of whoever wrote it.

Pydantic says where in its types an error is: a member of a union has its tag, its class or its type's
name in the path, and each member of a union complains for itself. Here a path becomes the key as it stands
in YAML and in `--set`, and all that is wrong with one key one line. What the keys mean is not known here.
"""

from __future__ import annotations

import types
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pydantic import ValidationError
    from pydantic_core import ErrorDetails

_SECTIONS = frozenset(("model_type", "model_attributes_type", "dict_type", "mapping_type"))


def described(cls: type[BaseModel], error: ValidationError) -> list[str]:
    """A line for each key that something is wrong with.

    Args:
        cls: what was to be made.
        error: why it could not be.
    """
    by_key: dict[str, list[tuple[ErrorDetails, Any]]] = {}
    for detail in error.errors():
        key, within = _key(cls, detail["loc"])
        by_key.setdefault(key, []).append((detail, within))
    return [_line(key, found) for key, found in by_key.items()]


def _line(key: str, found: Sequence[tuple[ErrorDetails, Any]]) -> str:
    detail, within = found[0]
    kind = detail["type"]
    if kind == "extra_forbidden":
        known = ", ".join(getattr(within, "model_fields", {}))
        meant = None if "." in key else key_in_a_section(within, key)
        return (
            f"unknown key {key!r}"
            + (f": that is {meant}" if meant else "")
            + (f"; known here are {known}" if known else "")
        )
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        return _about_tag(key, detail, within)
    if kind in _SECTIONS:
        return f"{key}: is a section, a mapping of keys, not {detail['input']!r}"
    why = _or(_said(each) for each, _ in found).removeprefix("Value error, ")
    if kind == "value_error" and (why.startswith((f"{key}.", f"unknown key '{key}."))):
        return why  # names the key within the section itself
    if isinstance(detail["input"], BaseModel | dict):
        return f"{key}: {why}" if key else why
    return f"{key}: {why}, not {detail['input']!r}"


def _said(detail: ErrorDetails) -> str:
    """Pydantic's message, without how it tried to read the value."""
    message = detail["msg"]
    if detail["type"].endswith(("_parsing", "_type", "_from_float")):
        message = message.partition(",")[0].replace("a valid integer", "an integer")
        message = message.replace("a valid boolean", "true or false").replace("a valid ", "a ")
    return message


def key_in_a_section(cls: type[BaseModel], key: str) -> str | None:
    """The dotted key of what stands in one section, and in one only; None for any other key."""
    sections = {
        section
        for section, field in cls.model_fields.items()
        for member in _members(field.annotation)
        if key in getattr(member, "model_fields", {})
    }
    return f"{sections.pop()}.{key}" if len(sections) == 1 else None


def _or(messages: Iterator[str]) -> str:
    """What each member of a union would have taken, as one message."""
    first, *others = dict.fromkeys(messages)
    if not others:
        return first
    wanted = [message.partition(",")[0].removeprefix("Input should be ") for message in others]
    return " or ".join((first.partition(",")[0], *wanted))


def _about_tag(key: str, detail: ErrorDetails, union: Any) -> str:
    """Which member of a union is meant was not said, or not with a name that one has."""
    name = detail["ctx"]["discriminator"].strip("'")
    known = ", ".join(
        str(tag)
        for member in _members(union)
        if (field := getattr(member, "model_fields", {}).get(name)) is not None
        for tag in get_args(field.annotation)
    )
    if detail["type"] == "union_tag_not_found":
        return f"{key}.{name}: is missing; known are {known}"
    return f"{key}.{name}: unknown {detail['ctx']['tag']!r}; known are {known}"


def _key(cls: type[BaseModel], loc: tuple[int | str, ...]) -> tuple[str, Any]:
    """The dotted key of a place in the types, and the type that holds it (or is there)."""
    parts: list[str] = []
    at: Any = cls
    holds: Any = cls
    for part in loc:
        at = _chosen(at, part)
        if isinstance(at, _Member):
            at = holds = at.annotation
            continue
        origin = get_origin(at)
        if isinstance(at, type) and issubclass(at, BaseModel):
            parts.append(str(part))
            field = at.model_fields.get(str(part))
            holds, at = (at, None) if field is None else (field.annotation, field.annotation)
        elif isinstance(origin, type) and issubclass(origin, Collection):
            parts.append(str(part))
            at = holds = get_args(at)[1 if issubclass(origin, Mapping) else 0]
    return ".".join(parts), holds


class _Member:
    """The path names a member of a union here, not a key."""

    def __init__(self, annotation: Any) -> None:
        self.annotation = annotation


def _chosen(annotation: Any, part: int | str) -> Any:
    """The annotation that a part of a path is looked up in; a `_Member` where it chooses one."""
    members = [member for member in _members(annotation) if member is not type(None)]
    if len(members) == 1:
        return members[0]
    for member in members:
        if part in (_tags(member) | {getattr(member, "__name__", None)}):
            return _Member(member)
    return None


def _members(annotation: Any) -> list[Any]:
    """Members of a union, those of unions in it among them; else the annotation itself."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return _members(get_args(annotation)[0])
    if origin is Union or isinstance(annotation, types.UnionType):
        return [inner for member in get_args(annotation) for inner in _members(member)]
    return [annotation]


def _tags(member: Any) -> set[Any]:
    """What a member of a union may be called by the field that tells them apart."""
    if not (isinstance(member, type) and issubclass(member, BaseModel)):
        return set()
    annotations = [field.annotation for field in member.model_fields.values()]
    return {tag for one in annotations if get_origin(one) is Literal for tag in get_args(one)}
