"""YAML in: safe values only, and no key twice in one mapping.

PyYAML lets the last of two equal keys win without a word; YAML itself forbids them. What a text means to
its reader is not known here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from yaml import Node


class YamlError(ValueError):
    """A text that is not YAML, or holds a key twice: says in which line."""


def read_yaml(text: str) -> Any:
    """The value that a text holds.

    Raises:
        YamlError: names the line, and the key that is there twice by its dotted path.
    """
    import yaml

    loader = yaml.SafeLoader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        _check_keys(node, "", set())
        return loader.construct_document(node)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        if mark is None:
            raise YamlError(f"is not YAML: {error}") from None
        problem = getattr(error, "problem", "")
        raise YamlError(f"is not YAML, line {mark.line + 1}: {problem}") from None
    except RecursionError:
        raise YamlError("is not YAML that can be read: it is nested too deeply") from None
    finally:
        loader.dispose()


def _check_keys(node: Node, path: str, seen: set[int]) -> None:
    """Refuse a key that is twice in one mapping; keys merged in by `<<` are not its own."""
    import yaml

    if id(node) in seen:  # an alias: looked at where its anchor is
        return
    seen.add(id(node))
    if isinstance(node, yaml.SequenceNode):
        for i, item in enumerate(node.value):
            _check_keys(item, f"{path}.{i}" if path else str(i), seen)
    if not isinstance(node, yaml.MappingNode):
        return
    first: dict[tuple[str, str], int] = {}
    for key, value in node.value:
        if not isinstance(key, yaml.ScalarNode):
            continue
        name = f"{path}.{key.value}" if path else str(key.value)
        line = key.start_mark.line + 1
        before = first.get((key.tag, key.value))
        if before is not None:
            raise YamlError(
                f"line {line}: key {name!r} is there already, in line {before}; leave one out"
            )
        first[key.tag, key.value] = line
        _check_keys(value, name, seen)
