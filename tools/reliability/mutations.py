"""Small damages to files: of bytes, of JSON, of the tensors, chunks or members that they hold.

A damage is a function of the content and of a random generator. Equal seeds give equal damages.
"""

from __future__ import annotations

import io
import json
import math
import random
import re
import struct
import zipfile
import zlib
from collections.abc import Callable, Sequence
from typing import Any, Final

Damage = Callable[[bytes, random.Random], bytes]

NESTED: Final = 3000
"""Levels of JSON beyond what Python's parser follows."""

NUMBERS: Final = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
"""What counts and lengths are replaced by."""

WIDE: Final = (0, 1 << 31, 1 << 32, 1 << 40, 1 << 62, (1 << 63) - 1, 1 << 63, (1 << 64) - 1)

RAW: Final = (
    "null", "true", "false", "0", "-0", "1", "-1", "-0.0", "0.5", "-2.5", "1e308", "-1e308",
    "5e-324", "1e-30", "1e999", "-1e999", "NaN", "Infinity", "-Infinity", "255", "1000000",
    "2147483648", "4294967296", "9223372036854775807", "9223372036854775808",
    "-9223372036854775809", "1" + "0" * 400, "1" + "0" * 5000, '""', '"x"', '"0"', '"-1"',
    '"NaN"', '"\\ud800"', '"\\udfff\\ud800"', '"\\u0000"', '"../../x"', '"/"', '"é"', '"%s{0}"',
    '"' + "y" * 100_000 + '"', "[]", "{}", "[[]]", "[{}]", "[null]", "[0]", "[1,2,3]",
    "[0,0,0,0]", '{"x":null}', '{"x":1,"x":2}', '{"\\ud800":1}', "[NaN,1,2]",
    "[" * NESTED + "]" * NESTED, '{"a":' * NESTED + "1" + "}" * NESTED,
)  # fmt: skip
"""JSON that stands where something else belongs, as text: Python's writer makes not all of it."""

DTYPES: Final = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "I16": 2, "U16": 2, "F16": 2,
    "BF16": 2, "I32": 4, "U32": 4, "F32": 4, "I64": 8, "U64": 8, "F64": 8, "C64": 8,
}  # fmt: skip
"""Types of safetensors files, and bytes of a number."""

_HOLE: Final = re.compile(r'"@raw(\d+)@"')
_KEY: Final = re.compile(r'"[^"\\]{1,40}":')


def _place(data: bytes, rng: random.Random) -> int:
    """Somewhere in the content; at its beginning or its end more often than elsewhere."""
    if not data:
        return 0
    kind = rng.random()
    if kind < 0.4:
        return rng.randrange(min(len(data), 256))
    if kind < 0.55:
        return len(data) - 1 - rng.randrange(min(len(data), 256))
    return rng.randrange(len(data))


def flip_bit(data: bytes, rng: random.Random) -> bytes:
    """One bit is another."""
    if not data:
        return data
    changed, place = bytearray(data), _place(data, rng)
    changed[place] ^= 1 << rng.randrange(8)
    return bytes(changed)


def set_bytes(data: bytes, rng: random.Random) -> bytes:
    """A few bytes are random, or all zeros, or all ones."""
    place, count = _place(data, rng), rng.choice((1, 1, 2, 4, 8, 32))
    fill = rng.choice((b"\0" * count, b"\xff" * count, rng.randbytes(count)))
    return data[:place] + fill[: max(0, len(data) - place)] + data[place + count :]


def set_length(data: bytes, rng: random.Random) -> bytes:
    """A whole number of 2, 4 or 8 bytes, in either order, holds what it should not."""
    form, numbers = rng.choice(
        (("<H", NUMBERS), ("<I", NUMBERS), (">I", NUMBERS), ("<Q", WIDE), (">Q", WIDE))
    )
    size = struct.calcsize(form)
    place = _place(data, rng)
    place -= place % rng.choice((1, 2, 4))
    number = rng.choice(numbers) & ((1 << 8 * size) - 1)
    return (data[:place] + struct.pack(form, number) + data[place + size :])[: len(data)]


def cut(data: bytes, rng: random.Random) -> bytes:
    """The end is missing."""
    return data[: _place(data, rng)]


def remove(data: bytes, rng: random.Random) -> bytes:
    """A part is missing."""
    place, count = _place(data, rng), rng.choice((1, 2, 4, 16, 256))
    return data[:place] + data[place + count :]


def splice(data: bytes, rng: random.Random) -> bytes:
    """A part stands a second time, elsewhere."""
    source, target, count = _place(data, rng), _place(data, rng), rng.choice((1, 4, 16, 256))
    return data[:target] + data[source : source + count] + data[target:]


def overwrite(data: bytes, rng: random.Random) -> bytes:
    """A part stands in the place of another."""
    source, target, count = _place(data, rng), _place(data, rng), rng.choice((1, 4, 16, 256))
    part = data[source : source + count]
    return (data[:target] + part + data[target + len(part) :])[: len(data)]


BYTES: Final[tuple[Damage, ...]] = (
    flip_bit, flip_bit, set_bytes, set_length, set_length, cut, remove, splice, overwrite,
)  # fmt: skip


def _nodes(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Ways to everything in a JSON value, itself left out; the first ones of long lists."""
    inner: list[tuple[Any, Any]] = []
    if isinstance(value, dict):
        inner = list(value.items())
    elif isinstance(value, list):
        inner = list(enumerate(value[:24]))
    return [way for key, part in inner for way in ((*path, key), *_nodes(part, (*path, key)))]


def _at(value: Any, path: Sequence[Any]) -> Any:
    for key in path:
        value = value[key]
    return value


def damage_value(value: Any, rng: random.Random) -> Any:
    """One place of a JSON value holds something else, is missing, or has swapped with another.

    Args:
        value: Parsed JSON; it is changed.
        rng: Decides.
    """
    ways = _nodes(value)
    if not ways:
        return f"@raw{rng.randrange(len(RAW))}@"
    way = rng.choice(ways)
    owner, key = _at(value, way[:-1]), way[-1]
    kind = rng.random()
    if kind < 0.15:
        del owner[key]
    elif kind < 0.3:
        other = rng.choice(ways)
        owner[key] = json.loads(json.dumps(_at(value, other)))
    elif kind < 0.35 and isinstance(owner, list):
        owner.insert(key, owner[key])
    elif kind < 0.38 and isinstance(owner, dict):
        owner[f"@raw{rng.randrange(len(RAW))}@"] = owner.pop(key)
    else:
        owner[key] = f"@raw{rng.randrange(len(RAW))}@"
    return value


def _as_text(value: Any) -> str:
    """JSON text, with the raw pieces in the places that `damage_value` marked."""

    def piece(match: re.Match[str]) -> str:
        raw = RAW[int(match[1])]
        # Names of members are text.
        is_key = match.string[match.end() : match.end() + 1] == ":" and not raw.startswith('"')
        return json.dumps(raw) if is_key else raw

    return _HOLE.sub(piece, json.dumps(value))


def damage_json(data: bytes, rng: random.Random) -> bytes:
    """One value of JSON text is another, or a name stands twice."""
    text = data.decode("utf-8", "replace")
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return flip_bit(data, rng)
    keys = list(_KEY.finditer(text))
    if keys and rng.random() < 0.1:
        key = rng.choice(keys)
        twice = f"{key[0]}{rng.choice(RAW)},"
        return f"{text[: key.start()]}{twice}{text[key.start() :]}".encode()
    try:
        return _as_text(damage_value(value, rng)).encode()
    except (ValueError, RecursionError):
        return flip_bit(data, rng)


def damage_text(data: bytes, rng: random.Random) -> bytes:
    """One word of a text is another, or one line is missing or stands twice."""
    lines = data.decode("utf-8", "replace").splitlines()
    if not lines:
        return data
    row = rng.randrange(len(lines))
    words = lines[row].split(" ")
    kind = rng.random()
    if kind < 0.1:
        del lines[row]
    elif kind < 0.2:
        lines.insert(rng.randrange(len(lines)), lines[row])
    else:
        word = rng.choice(("nan", "inf", "-1", "0", "1e400", "x", "", "9" * 5000, "\ud800", "é"))
        words[rng.randrange(len(words))] = word
        lines[row] = " ".join(words)
    return "\n".join(lines).encode("utf-8", "surrogatepass")


def damage_safetensors(data: bytes, rng: random.Random) -> bytes:
    """The header of a safetensors file says something else, or its JSON entries do."""
    try:
        (length,) = struct.unpack_from("<Q", data)
        header = json.loads(data[8 : 8 + length])
        entries = [name for name in header if name != "__metadata__"]
        body = data[8 + length :]
        kind = rng.random()
        if kind < 0.35 and header.get("__metadata__"):
            _damage_metadata(header["__metadata__"], rng)
        elif kind < 0.85 and entries:
            body = rng.choice(_TENSOR_DAMAGES)(header, rng.choice(entries), body, rng)
        else:
            header = damage_value(header, rng)
        text = _as_text(header).encode()
    except (struct.error, ValueError, RecursionError, TypeError, AttributeError, LookupError):
        return flip_bit(data, rng)
    return struct.pack("<Q", len(text)) + text + body


def _damage_metadata(metadata: dict[str, str], rng: random.Random) -> None:
    """An entry holds something else; entries that are JSON stay so, mostly."""
    key = rng.choice(sorted(metadata))
    kind = rng.random()
    if kind < 0.1:
        del metadata[key]
    elif kind < 0.2:
        metadata[key] = rng.choice(("", "x", "-1", "0", "1,1", "9" * 5000, "²", "null", "\u0000"))
    else:
        metadata[key] = damage_json(metadata[key].encode(), rng).decode("utf-8", "replace")


def _reshape(header: dict[str, Any], name: str, body: bytes, rng: random.Random) -> bytes:
    entry = header[name]
    count = math.prod(entry["shape"])
    shapes = [[count], [1] * 70 + [count], [count, 1], [1, count], [1, 1, count], [1, 1, 1, count]]
    entry["shape"] = rng.choice(shapes + ([[]] if count == 1 else []))
    return body


def _retype(header: dict[str, Any], name: str, body: bytes, rng: random.Random) -> bytes:
    entry = header[name]
    size = entry["data_offsets"][1] - entry["data_offsets"][0]
    fitting = [kind for kind, width in DTYPES.items() if size % width == 0]
    entry["dtype"] = rng.choice(fitting)
    entry["shape"] = [size // DTYPES[entry["dtype"]]]
    return body


def _refill(header: dict[str, Any], name: str, body: bytes, rng: random.Random) -> bytes:
    start, end = header[name]["data_offsets"]
    count = rng.choice((end - start, min(8, end - start)))
    return (
        body[:start]
        + rng.choice((b"\xff", b"\0", b"\x7f", b"\x80")) * count
        + body[start + count :]
    )


def _swap(header: dict[str, Any], name: str, body: bytes, rng: random.Random) -> bytes:
    other = rng.choice(sorted(key for key in header if key != "__metadata__"))
    header[other], header[name] = header[name], header[other]
    return body


def _empty(header: dict[str, Any], name: str, body: bytes, rng: random.Random) -> bytes:
    """The tensor holds nothing, or is missing; what follows it moves up."""
    entry = header.pop(name)
    start, end = entry["data_offsets"]
    for other, part in header.items():
        if other != "__metadata__" and part["data_offsets"][0] >= end:
            part["data_offsets"] = [offset - (end - start) for offset in part["data_offsets"]]
    body = body[:start] + body[end:]
    shape = rng.choice(([0], [0, 3], [0] * 66, [5, 0], None))
    if shape is not None:
        header[name] = {**entry, "shape": shape, "data_offsets": [len(body), len(body)]}
    return body


def _rename(header: dict[str, Any], name: str, body: bytes, rng: random.Random) -> bytes:
    names = ("x", "", "a.alpha", "block.0", f"{name}.x", "é", "\u0000", f"blocks.{'9' * 5000}.x")
    header[rng.choice(names)] = header.pop(name)
    return body


_TENSOR_DAMAGES: Final = (_reshape, _reshape, _retype, _retype, _refill, _swap, _empty, _rename)


def damage_glb(data: bytes, rng: random.Random) -> bytes:
    """The JSON of a binary glTF file says something else."""
    if len(data) < 20:
        return flip_bit(data, rng)
    (length,) = struct.unpack_from("<I", data, 12)
    text = damage_json(data[20 : 20 + length], rng)
    text += b" " * (-len(text) % 4)
    rest = data[20 + length :]
    total = 20 + len(text) + len(rest)
    return data[:8] + struct.pack("<II", total, len(text)) + data[16:20] + text + rest


_BROKEN_ZIP: Final = (
    zipfile.BadZipFile, zlib.error, struct.error, ValueError, OSError, EOFError, RuntimeError,
)  # fmt: skip


def damage_npz(data: bytes, rng: random.Random) -> bytes:
    """A member of an archive is damaged, and the archive itself is whole."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
    except _BROKEN_ZIP:
        return flip_bit(data, rng)
    name = rng.choice(sorted(members))
    members[name] = rng.choice((*BYTES, _damage_npy, _damage_npy))(members[name], rng)
    if rng.random() < 0.1:
        other = rng.choice(sorted(members))
        members[other] = members.pop(name)
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w", rng.choice((0, zipfile.ZIP_DEFLATED))) as archive:
        for member, content in members.items():
            archive.writestr(member, content)
    return written.getvalue()


def _damage_npy(data: bytes, rng: random.Random) -> bytes:
    """The header of an array says something else."""
    shapes = (
        "()", "(0,)", "(1,)", "(-1,)", "(1, 1, 1, 1)", "(3, 0, 0)", "(99999999999, 1)",
        "(1 << 62,)", "(2.5,)", "('x',)", "(" + "1, " * 70 + ")", "(" + "(" * 300 + ")" * 300 + ")",
    )  # fmt: skip
    kinds = ("'<f8'", "'|O'", "'>i2'", "'<c8'", "'|S3'", "'<U2'", "[('a', '<f4')]", "'<M8[s]'", "5")
    text = data[10:128].decode("latin-1")
    if rng.random() < 0.5:
        text = re.sub(r"'shape': \([^)]*\)", f"'shape': {rng.choice(shapes)}", text)
    else:
        text = re.sub(r"'descr': '[^']*'", f"'descr': {rng.choice(kinds)}", text)
    header = text.rstrip() + "\n"
    body = data[128:]
    return data[:8] + struct.pack("<H", len(header)) + header.encode("latin-1") + body


BY_SUFFIX: Final[dict[str, Damage]] = {
    ".json": damage_json, ".gltf": damage_json, ".txt": damage_text, ".glb": damage_glb,
    ".safetensors": damage_safetensors, ".npz": damage_npz,
}  # fmt: skip
"""Damages that know what kind of file they have before them."""


def damages(seed: str, suffix: str) -> list[tuple[Damage, int]]:
    """One to three damages, each with a seed of its own."""
    rng = random.Random(seed)
    chosen = []
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        own = BY_SUFFIX.get(suffix)
        pick = own if own is not None and rng.random() < 0.7 else rng.choice(BYTES)
        chosen.append((pick, rng.getrandbits(48)))
    # What knows the structure comes first, while there is one.
    return sorted(chosen, key=lambda damage: damage[0] in BYTES)


def apply(data: bytes, chosen: Sequence[tuple[Damage, int]]) -> bytes:
    """The content after all damages."""
    for damage, seed in chosen:
        data = damage(data, random.Random(seed))
    return data
