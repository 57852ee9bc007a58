"""A Rollout as a tree of plain JSON, in which every tensor is the name of the place where it lies, and back.

Any dataclass that a Rollout is made of is described field by field, so fields that are added later are kept too. What a
file with such a tree is called, and whether it can be trusted, is rollout_files.py.
"""

from __future__ import annotations

import functools
import json
import typing
from collections.abc import Iterator, Mapping
from dataclasses import Field, fields, is_dataclass
from typing import Any

import torch

from .rollout import Rollout

# Where a tensor lies: the key of the segment whose file holds it, and its name there.
Place = tuple[str, str]


class ForeignSegment(ValueError):
    """A segment of another version of this code: nothing is wrong with it, and it has to stay as it is."""


def canonical(value: Any) -> bytes:
    """JSON of a value, always the same for the same value."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()


def described(value: Any, places: dict[int, Place], key: str) -> tuple[Any, dict[str, torch.Tensor]]:
    """A value as JSON, and the tensors in it that lie nowhere yet, by name. `places` is added to."""
    types, tensors = _types(), {}

    def describe(value: Any, name: str) -> Any:
        if isinstance(value, torch.Tensor):
            if id(value) not in places:
                places[id(value)] = (key, name)
                tensors[name] = value
            on_device = {} if value.device.type == "cpu" else {"device": value.device.type}
            return {"tensor": list(places[id(value)]), **on_device}
        if value is None or isinstance(value, (bool, int, float, str)):
            return value
        if isinstance(value, (tuple, list)):
            return [describe(one, f"{name}.{index}") for index, one in enumerate(value)]
        if isinstance(value, range):
            return {"range": [value.start, value.stop, value.step]}
        if isinstance(value, dict) and all(isinstance(one, str) for one in value):
            return {"dict": {one: describe(inner, f"{name}.{one}") for one, inner in value.items()}}
        if types.get(type(value).__name__) is type(value) and is_dataclass(value):
            parts = {
                one.name: describe(getattr(value, one.name), f"{name}.{one.name}")
                for one in fields(value)
                if not _is_default(one, getattr(value, one.name))
            }
            return {"type": type(value).__name__, "fields": parts}
        raise TypeError(f"A film holds a {type(value).__name__} at {name or 'its top'}, which no file can keep.")

    return describe(value, ""), tensors


def restored(tree: Any, tensors: Mapping[Place, torch.Tensor], parts: Mapping[bytes, Any]) -> Any:
    """The value of a tree. parts: dataclasses that are there already, by canonical() of their trees.

    Raises ForeignSegment for parts that this code does not know, and ValueError, LookupError or TypeError for what is
    no tree.
    """
    types = _types()

    def restore(tree: Any) -> Any:
        if tree is None or isinstance(tree, (bool, int, float, str)):
            return tree
        if isinstance(tree, list):
            return tuple(restore(one) for one in tree)
        if "tensor" in tree:
            tensor = tensors[place_of(tree)]
            return tensor.cuda() if tree.get("device") == "cuda" and torch.cuda.is_available() else tensor
        if "range" in tree:
            return range(*(int(one) for one in tree["range"]))
        if "dict" in tree:
            return {str(name): restore(one) for name, one in tree["dict"].items()}
        kind = types.get(tree["type"])
        if kind is None:
            raise ForeignSegment(f"it holds a {str(tree['type'])[:40]}, which this code does not know")
        if kind is not Rollout and (part := parts.get(canonical(tree))) is not None:
            return part
        known = {one.name for one in fields(kind)}
        if unknown := [name for name in tree["fields"] if name not in known]:
            raise ForeignSegment(f"its {kind.__name__} has a field {unknown[0][:40]!a}, which this code does not know")
        return kind(**{name: restore(one) for name, one in tree["fields"].items()})

    return restore(tree)


def paired(value: Any, tree: Any) -> Iterator[tuple[Any, Any]]:
    """The tensors and dataclasses in a value, each with the tree that it was restored from."""
    if isinstance(value, torch.Tensor):
        yield value, tree
    elif isinstance(value, (tuple, list)):
        for one, inner in zip(value, tree, strict=True):
            yield from paired(one, inner)
    elif isinstance(value, dict):
        for name, one in value.items():
            yield from paired(one, tree["dict"][name])
    elif is_dataclass(value):
        yield value, tree
        for one in fields(value):
            if one.name in tree["fields"]:  # a field younger than the file has its default
                yield from paired(getattr(value, one.name), tree["fields"][one.name])


def places_in(tree: Any) -> Iterator[Place]:
    """Where the tensors of a tree lie, each as often as it is named."""
    if isinstance(tree, list):
        for one in tree:
            yield from places_in(one)
    elif isinstance(tree, dict):
        if "tensor" in tree:
            yield place_of(tree)
        else:
            for one in tree.values():
                yield from places_in(one)


def keys_in(tree: Any) -> set[str]:
    """The segments whose files hold tensors of a tree."""
    return {key for key, _ in places_in(tree)}


def place_of(tree: dict) -> Place:
    """Where the tensor of a leaf lies.  Raises ValueError for a leaf that names none."""
    key, name = tree["tensor"]
    if not isinstance(key, str) or not isinstance(name, str):
        raise ValueError("it names a tensor by something that is no name")
    return key, name


@functools.cache
def _types() -> dict[str, type]:
    """Every dataclass a Rollout is made of, by name."""
    found: dict[str, type] = {}

    def add(kind: Any) -> None:
        if isinstance(kind, type) and is_dataclass(kind):
            if kind.__name__ not in found:
                found[kind.__name__] = kind
                for hint in typing.get_type_hints(kind).values():
                    add(hint)
        for inner in typing.get_args(kind):
            add(inner)

    add(Rollout)
    return found


def _is_default(field: Field, value: Any) -> bool:
    """True for a field that says nothing; left out, a film has the same key before and after it gained such a field."""
    return type(value) is type(field.default) and not isinstance(value, torch.Tensor) and value == field.default
