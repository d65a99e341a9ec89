"""YAML in which no key hides another: a second `journal:` would silently take the place of the first."""

from collections.abc import Iterator
from typing import Any

import yaml

__all__ = ["DuplicateKeyError", "load_yaml"]

_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # both are safe
_MERGE = "tag:yaml.org,2002:merge"


class DuplicateKeyError(ValueError):
    """A mapping has a key twice. The text names the key and both lines."""


def load_yaml(text: str) -> Any:
    """The value of a YAML document, None for an empty one.

    Raises:
        DuplicateKeyError: a mapping has a key twice, also as another type (``1``, ``"1"``) or by a merge key.
        yaml.YAMLError, ValueError, RecursionError: it is not YAML, or holds a value that cannot be made.

    """
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        _check(node, loader, (), set())
        return loader.construct_document(node)
    finally:
        loader.dispose()


def _check(node: yaml.Node, loader: Any, path: tuple[str, ...], seen: set[int]) -> None:
    if id(node) in seen:  # an alias
        return
    seen.add(id(node))
    if isinstance(node, yaml.SequenceNode):
        for number, item in enumerate(node.value):
            _check(item, loader, (*path, str(number)), seen)
    if not isinstance(node, yaml.MappingNode):
        return
    lines: dict[object, int] = {}
    for key in _keys(node, frozenset()):
        line = key.start_mark.line + 1
        names = {key.value, str(loader.construct_object(key))}  # `on` and `yes` are one key, as are 1 and "1"
        for name in names:
            if name in lines:
                where = ".".join((*path, key.value))
                raise DuplicateKeyError(f"the key {where} stands twice, in lines {lines[name]} and {line}: keep one")
        lines |= dict.fromkeys(names, line)
    for key, value in node.value:
        _check(value, loader, path if key.tag == _MERGE else (*path, str(key.value)), seen)


def _keys(node: yaml.MappingNode, above: frozenset[int]) -> Iterator[yaml.ScalarNode]:
    """The scalar keys of a mapping, those of merged ones too; other keys cannot be settings."""
    for key, value in node.value:
        if key.tag == _MERGE:
            yield from _merged(value, above | {id(node)})
        elif isinstance(key, yaml.ScalarNode):
            yield key


def _merged(value: yaml.Node, above: frozenset[int]) -> Iterator[yaml.ScalarNode]:
    for one in value.value if isinstance(value, yaml.SequenceNode) else [value]:
        if isinstance(one, yaml.MappingNode) and id(one) not in above:
            yield from _keys(one, above)
