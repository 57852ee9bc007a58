"""Segments of films whose folder cannot be written: in RAM, while the server runs, within a bound."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields, is_dataclass

import psutil
import torch

from ..mirage_core.rollout import Rollout


def kept_in_ram(film: str) -> Mapping[str, Rollout]:
    """The segments of a film by key. film: key of its start."""
    return _FILMS.get(film, {})


def keep_in_ram(film: str, key: str, rollout: Rollout, *, limit_bytes: int) -> bool:
    """Hold a segment. Returns whether all of its film fit; where not, nothing of it is held any more.

    limit_bytes: for all films. Others go first, those not used for longest before the rest.
    """
    _FILMS.setdefault(film, {})[key] = rollout
    _FILMS.move_to_end(film)
    while len(_FILMS) > 1 and held_bytes() > limit_bytes:
        _FILMS.popitem(last=False)
    if held_bytes() > limit_bytes:
        del _FILMS[film]
    return film in _FILMS


def forget_in_ram(film: str, key: str) -> None:
    """Let go of a segment."""
    segments = _FILMS.get(film, {})
    segments.pop(key, None)
    if not segments:
        _FILMS.pop(film, None)


def held_bytes() -> int:
    """Size of all segments that are held; what they share counts once."""
    sizes = {}
    for tensor in _tensors(one for film in _FILMS.values() for one in film.values()):
        storage = tensor.untyped_storage()
        sizes[storage.data_ptr()] = storage.nbytes()
    return sum(sizes.values())


def ram_limit() -> int:
    """Bytes of RAM that segments may take: a quarter of the machine's."""
    return psutil.virtual_memory().total // 4


def _tensors(value: object) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif is_dataclass(value):
        for one in fields(value):
            yield from _tensors(getattr(value, one.name))
    elif isinstance(value, Iterable) and not isinstance(value, (str, bytes, range)):
        for one in value.values() if isinstance(value, Mapping) else value:
            yield from _tensors(one)


# By the key of the film's start; the film used last is the last.
_FILMS: OrderedDict[str, dict[str, Rollout]] = OrderedDict()
