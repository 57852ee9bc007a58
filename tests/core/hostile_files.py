"""Files that a stranger might send, made from good ones: cut, flipped, lying, renamed. The same every time."""

from __future__ import annotations

import io
import json
import pickle
import random
import struct
import zipfile
from collections.abc import Iterator

import numpy as np

FLIPS, CUTS = 14, 7  # per good file
_HUGE = 10**12

Case = tuple[str, bytes]


def damaged(good: bytes, seed: int) -> Iterator[Case]:
    """What any transport or disk may do, and files of another kind under this name."""
    rng = random.Random(seed)
    for kept in sorted({0, 1, 7, 8, 9, *(rng.randrange(len(good)) for _ in range(CUTS))}):
        yield f"cut to {kept} bytes", good[:kept]
    for _ in range(FLIPS):
        at = rng.randrange(min(len(good), 4096)) if rng.random() < 0.8 else rng.randrange(len(good))
        yield f"bit flipped at byte {at}", good[:at] + bytes([good[at] ^ 1 << rng.randrange(8)]) + good[at + 1 :]
    start = rng.randrange(len(good))
    yield "zeros in the middle", good[:start] + bytes(min(64, len(good) - start)) + good[start + 64 :]
    yield "random bytes", rng.randbytes(3000)
    yield "zeros", bytes(3000)
    yield "something hung on", good + b"#!/bin/sh\n" * 20
    yield "a pickle that would run", pickle.dumps(_Runs())
    yield "a zip archive", _zipped({"archive/data.pkl": pickle.dumps([1])})
    yield "a zip bomb", _zipped({"archive/data/0": bytes(1 << 26)})


def json_lies(good: str) -> Iterator[Case]:
    """Texts that a JSON reader trips over, and every value of the document replaced by what does not belong there."""
    yield "nested lists", ("[" * 200_000).encode()
    yield "nested objects", ('{"a":' * 100_000).encode()
    yield "a closed nest", ("[" * 50_000 + "]" * 50_000).encode()
    yield "a number of 20 000 digits", ('{"version": ' + "9" * 20_000 + "}").encode()
    yield "a key of a megabyte", json.dumps({"k" * 1_000_000: 1}).encode()
    yield "a million empty lists", ("[" + "[]," * 1_000_000 + "[]]").encode()
    yield "another encoding", good.encode("utf-16")
    document = json.loads(good)
    yield "a list for an object", json.dumps([document]).encode()
    if isinstance(document, dict):
        first = next(iter(document), "a")
        yield "a key twice", ("{" + json.dumps(first) + ": 1, " + good.lstrip()[1:]).encode()
        for key in document:
            for value in (None, [], {}, "x", -1, 10**400, 1e308, True, [[[]]], {"a": {"a": {}}}):
                text = json.dumps({**document, key: value})
                yield f"{key} is {str(value)[:12]}", text.encode()
            yield f"{key} is NaN", json.dumps({**document, key: float("nan")}).encode()
            yield f"no {key}", json.dumps({one: value for one, value in document.items() if one != key}).encode()


def deep_lies(good: str, seed: int, count: int) -> Iterator[Case]:
    """JSON with one value anywhere in the document replaced, left out, or put in twice."""
    rng = random.Random(seed)
    places = list(_places(json.loads(good)))
    for _ in range(count):
        document, place = json.loads(good), rng.choice(places)
        holder = document
        for step in place[:-1]:
            holder = holder[step]
        at, value = place[-1], rng.choice(_LIES)
        if value == "left out":
            del holder[at]
        elif value == "twice" and isinstance(holder, list):
            holder.insert(at, holder[at])
        else:
            holder[at] = value
        yield f"{place[-3:]} is {str(value)[:12]}", json.dumps(document).encode()


_LIES = (
    None, [], {}, "", "x", -1, 0, 1.5, 2**31, 2**63, 10**30, 10**400, 1e308, -1e308, 1e-320, True, [[]], [None],
    "9" * 5000, {"range": [0, 10**9, 1]}, {"range": [0, 10**30, 1]}, {"dict": {}}, {"type": "Rollout", "fields": {}},
    {"tensor": ["", ""]}, "left out", "twice",
)  # fmt: skip


def _places(value: object, before: tuple = ()) -> Iterator[tuple]:
    """The way to every value inside a document."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for at, one in inside:
        yield (*before, at)
        yield from _places(one, (*before, at))


def word_lies(good: str, seed: int, count: int) -> Iterator[Case]:
    """Text files with one word replaced, a line doubled or torn, and lines without end."""
    rng = random.Random(seed)
    words = [*"nan inf -inf 1e400 -1 0 1_0 0x10 \0 \u202e \u0663 x #".split(" "), "9" * 5000, ""]
    lines = good.splitlines()
    for _ in range(count):
        at, changed = rng.randrange(len(lines)), list(lines)
        told = changed[at].split(" ")
        if rng.random() < 0.1:
            changed.insert(at, changed[at])
        elif rng.random() < 0.1:
            changed[at] = changed[at][: len(changed[at]) // 2]
        else:
            told[rng.randrange(len(told))] = rng.choice(words)
            changed[at] = " ".join(told)
        yield f"line {at + 1}: {ascii(changed[at])[:20]}", "\n".join(changed).encode()
    yield "a line of two million words", good.encode() + b"1 " * 2_000_000
    yield "two million empty lines", b"\n" * 2_000_000 + good.encode()
    yield "half a million lines", (lines[-1] + "\n").encode() * (500_000 // max(1, len(lines[-1]) // 8))


def npy_lies() -> Iterator[Case]:
    """Arrays whose header, which numpy reads as Python text, says what is not there; archives; pickled objects."""
    good = io.BytesIO()
    np.save(good, np.tile(np.eye(4), (3, 1, 1)))
    shapes = "(10**12, 4, 4) (1000000000000, 4, 4) (-1, 4, 4) (3.0, 4, 4) ('a', 4, 4) (True, 4, 4) () 3 None"
    for shape in shapes.replace(", ", ",").split(" "):
        header = f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
        yield f"shape {shape}", good.getvalue()[:10] + header.encode() + good.getvalue()[128:]
    for kind in ("|O", "<f16", "<U9999999", "|V8", "<M8[s]", "[('a', '<f8')]", "x", "<f8000000000"):
        header = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': (3, 4, 4), }}".ljust(117) + "\n"
        yield f"numbers of kind {kind}", good.getvalue()[:10] + header.encode() + good.getvalue()[128:]
    for text in ("(" * 100, "__import__('os')", "{}", "[" * 5000, "9" * 5000):
        header = text.ljust(117) + "\n"
        size = struct.pack("<H", len(header))
        yield f"header {text[:8]}", good.getvalue()[:8] + size + header.encode() + good.getvalue()[128:]
    archive = io.BytesIO()
    np.savez(archive, poses=np.tile(np.eye(4), (3, 1, 1)))
    yield "an .npz under another name", archive.getvalue()
    objects = io.BytesIO()
    np.save(objects, np.array([_Runs()], dtype=object), allow_pickle=True)
    yield "pickled objects", objects.getvalue()


def header_lies(good: bytes) -> Iterator[Case]:
    """Safetensors files whose header says what the bytes behind it are not."""
    length = struct.unpack("<Q", good[:8])[0]
    header, body = json.loads(good[8 : 8 + length]), good[8 + length :]
    names = [name for name in header if name != "__metadata__"]
    first = names[0]

    def changed(name: str, **values: object) -> bytes:
        return _file({**header, name: {**header[name], **values}}, body)

    for claimed in (0, 1, length - 1, length + 1, len(good), 2**31, 2**40, 2**62, 2**63, 2**64 - 1):
        yield f"header of {claimed} bytes", struct.pack("<Q", claimed) + good[8:]
    for name in names:
        begin, end = header[name]["data_offsets"]
        yield f"10^12 in {name}", changed(name, shape=[_HUGE, *header[name]["shape"][1:]])
        yield f"10^12 in {name} and its place", changed(name, shape=[_HUGE], data_offsets=[begin, begin + 4 * _HUGE])
        yield f"{name} overlaps", changed(name, data_offsets=[max(0, begin - 4), max(0, end - 4)])
        yield f"{name} beyond the end", changed(name, data_offsets=[begin + len(body), end + len(body)])
        yield f"{name} of another kind", changed(name, dtype="I8")
        yield f"without {name}", _file({one: told for one, told in header.items() if one != name}, body)
    for label, values in (
        ("shape below 0", {"shape": [-1, 3]}),
        ("shape that overflows", {"shape": [2**32, 2**32, 2**32]}),
        ("shape of floats", {"shape": [1.5, 3]}),
        ("shape of texts", {"shape": ["3", "3"]}),
        ("shape of 10 000 dimensions", {"shape": [1] * 10_000}),
        ("offsets backwards", {"data_offsets": [8, 0]}),
        ("offsets below 0", {"data_offsets": [-8, 0]}),
        ("offsets with 400 digits", {"data_offsets": [0, 10**400]}),
        ("three offsets", {"data_offsets": [0, 1, 2]}),
        ("an unknown kind", {"dtype": "F4096"}),
        ("a kind that is a list", {"dtype": ["F32"]}),
        ("a kind that is null", {"dtype": None}),
    ):
        yield label, changed(first, **values)
    doubled = json.dumps(header)[:-1] + f", {json.dumps(first)}: {json.dumps(header[first])}}}"
    yield "a tensor twice", struct.pack("<Q", len(doubled)) + doubled.encode() + body
    tiny = {f"t{index}": {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]} for index in range(12_000)}
    yield "12 000 empty tensors", _file({"__metadata__": header.get("__metadata__", {}), **tiny}, b"")
    many = {f"t{index}": {"dtype": "U8", "shape": [1], "data_offsets": [index, index + 1]} for index in range(60_000)}
    yield "60 000 tensors of a byte", _file({"__metadata__": header.get("__metadata__", {}), **many}, bytes(60_000))
    yield "metadata of numbers", _file({**header, "__metadata__": {"format": 3}}, body)
    yield "metadata that is a list", _file({**header, "__metadata__": []}, body)
    for text in ("[" * 100_000, "{" * 100_000, '{"a":' * 50_000, "", "null", '"', "{}" * 3, "\ud800"):
        raw = text.encode("utf-8", "surrogatepass")
        yield f"header {text[:8]!r}", struct.pack("<Q", len(raw)) + raw + body


def value_lies(good: bytes) -> Iterator[Case]:
    """Safetensors files with NaN, infinite and huge values, tensor by tensor."""
    length = struct.unpack("<Q", good[:8])[0]
    header = json.loads(good[8 : 8 + length])
    kinds = {"F32": "<f", "F64": "<d", "F16": "<e"}
    for name, told in header.items():
        if name == "__metadata__" or told["dtype"] not in kinds or told["data_offsets"][0] == told["data_offsets"][1]:
            continue
        for value in ("nan", "inf", "-inf"):
            raw = struct.pack(kinds[told["dtype"]], float(value))
            at = 8 + length + told["data_offsets"][0]
            yield f"{name} with {value}", good[:at] + raw + good[at + len(raw) :]


def metadata_lies(good: bytes) -> Iterator[Case]:
    """Safetensors files with every text of their metadata replaced."""
    length = struct.unpack("<Q", good[:8])[0]
    header, body = json.loads(good[8 : 8 + length]), good[8 + length :]
    told = header.get("__metadata__", {})
    texts = ("", "[]", "{}", "null", "-1", "9" * 5000, "[" * 100_000, '{"a": 1, "a": 2}', "[1e400]", "NaN", "\u202e")
    for key in told:
        for text in texts:
            yield f"metadata {key} = {text[:10]!r}", _file({**header, "__metadata__": {**told, key: text}}, body)
        rest = {one: value for one, value in told.items() if one != key}
        yield f"no metadata {key}", _file({**header, "__metadata__": rest}, body)
    if "block_sizes" in told:
        for sizes in ([_HUGE], [0], [1] * 200_000, [[1]], [True], [-5], [1e9]):
            lie = {**told, "block_sizes": json.dumps(sizes)}
            yield f"block sizes {str(sizes)[:20]}", _file({**header, "__metadata__": lie}, body)
    if "blocks_with" in told:
        for lie in ('{"is_locked": [0, 0]}', '{"is_locked": [99]}', '{"points": [0]}', '{"is_locked": 10}'):
            yield f"blocks with {lie}", _file({**header, "__metadata__": {**told, "blocks_with": lie}}, body)


def _file(header: object, body: bytes) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


def _zipped(files: dict[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return packed.getvalue()


class _Runs:
    """Unpickled, this would write into the folder of the trial."""

    def __reduce__(self) -> tuple:
        return (exec, ("open('it_ran', 'w').close()",))
