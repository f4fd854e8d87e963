"""Damage: of bytes, of JSON, of lists; and values that nobody expects."""
from __future__ import annotations

import json
import random
import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ODD_TEXTS = ("", " ", "\0", "a\0b", "a\nb", "\r\n", "\t", "é", "e\u0301", "日本語", "😀", "\u202e", "\ufeff", "\u2028x",
             "\x1b[31m", "%s", "%d%n", "{}", "{0}", "../x", "/", ".", "..", "~", "-", "--", "nan", "inf", "1e999",
             "None", "True", "0x10", "1_000", "٣", "a" * 300, "é" * 200, "'", '"', "\\", "$(x)", "`x`", ";", "*", "?")
ODD_NUMBERS = (0, -1, 1, 2, 3, 7, 2**31, 2**31 - 1, -2**31, 2**32, 2**53 + 1, 2**63, 2**63 - 1, -2**63, 2**64, 10**30,
               -10**30, 0.0, -0.0, 0.5, -0.5, 1e-320, 1e308, -1e308, float("inf"), float("-inf"), float("nan"))


def damaged(rng: random.Random, content: bytes) -> bytes:
    """``content`` with one to a dozen changes: flipped bits, other bytes, cut, inserted, repeated, zeroed or moved."""
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 1, 1, 2, 3, 5, 12))):
        if not data:
            break
        _damage(rng, data)
    return bytes(data)


def _damage(rng: random.Random, data: bytearray) -> None:
    at = rng.randrange(len(data))
    length = min(len(data) - at, rng.choice((1, 2, 4, 8, 16, 64, 512)))
    kind = rng.randrange(10)
    if kind <= 2:
        data[at] ^= 1 << rng.randrange(8)
    elif kind == 3:
        data[at] = rng.randrange(256)
    elif kind == 4:
        del data[at:len(data) if rng.random() < 0.5 else at + length]
    elif kind == 5:
        data[at:at] = rng.randbytes(length)
    elif kind == 6:
        data[at:at + length] = bytes(length)
    elif kind == 7:
        data[at:at + length] = b"\xff" * length
    elif kind == 8:  # a number that means a size or an address
        number = struct.pack("<Q", rng.choice((0, 1, 255, 2**31, 2**32 - 1, 2**63, 2**64 - 1, rng.getrandbits(24))))
        data[at:at + 8] = number[:min(8, len(data) - at)]
    else:
        other = rng.randrange(len(data))
        data[at:at + length] = data[other:other + length]


def odd_value(rng: random.Random, depth: int = 0) -> Any:
    """A JSON value that few readers expect."""
    kind = rng.randrange(8)
    if kind <= 1:
        return rng.choice(ODD_NUMBERS)
    if kind <= 3:
        return rng.choice(ODD_TEXTS)
    if kind == 4:
        return rng.choice((None, True, False))
    if kind == 5 and depth < 3:
        return [odd_value(rng, depth + 1) for _ in range(rng.randrange(4))]
    if kind == 6 and depth < 3:
        return {rng.choice(ODD_TEXTS): odd_value(rng, depth + 1) for _ in range(rng.randrange(4))}
    return rng.choice(([], {}, [[]], "x", 1))


def odd_json(rng: random.Random, content: Any) -> bytes:
    """JSON text of ``content`` with values replaced, left out or added, or text that is nearly JSON."""
    value = json.loads(json.dumps(content))
    for _ in range(rng.choice((1, 1, 2, 4))):
        value = _changed(rng, value)
    text = json.dumps(value, ensure_ascii=rng.random() < 0.5)
    kind = rng.randrange(12)
    if kind == 0:
        text = rng.choice(("[" * 100_000, '{"a":' * 50_000, "", "null", "NaN", "[]", '""', "1", text + text,
                           "\ufeff" + text,
                           "1" * 5000, '{"seed": ' + "9" * 5000 + "}"))
    encoded = text.encode("utf-8", "surrogatepass")
    return damaged(rng,
                   encoded) if kind == 1 else text.encode("utf-16") if kind == 2 and rng.random() < 0.2 else encoded


def _changed(rng: random.Random, value: Any) -> Any:
    """``value`` with one part of it replaced, left out or renamed, at any depth."""
    if isinstance(value, dict) and value and rng.random() < 0.93:
        key = rng.choice(sorted(value))
        kind = rng.randrange(10)
        if kind == 0:
            return {name: part for name, part in value.items() if name != key}
        if kind == 1:
            return {**value, rng.choice(ODD_TEXTS): odd_value(rng)}
        return {**value, key: _changed(rng, value[key])}
    if isinstance(value, list) and value and rng.random() < 0.8:
        at = rng.randrange(len(value))
        if rng.random() < 0.2:
            return value[:at]
        return [*value[:at], _changed(rng, value[at]), *value[at + 1:]]
    if isinstance(value, int | float) and not isinstance(value, bool) and rng.random() < 0.5:
        return rng.choice((-value, value + 1, str(value), float(value), [value], *ODD_NUMBERS[:8]))
    return odd_value(rng)


def shuffled(rng: random.Random, parts: Sequence[str], others: Sequence[str]) -> list[str]:
    """``parts`` with some left out, repeated, exchanged or replaced by ``others``."""
    changed = list(parts)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 6))):
        if not changed:
            break
        at, other = rng.randrange(len(changed)), rng.randrange(len(changed))
        kind = rng.randrange(5)
        if kind == 0:
            del changed[at]
        elif kind == 1:
            changed.insert(at, changed[other])
        elif kind == 2:
            changed[at], changed[other] = changed[other], changed[at]
        elif kind == 3:
            changed[at] = rng.choice(others)
        else:
            changed.insert(at, rng.choice(others))
    return changed


class Malicious:
    """An object whose unpickling makes the file ``path``."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str, str]]:
        return open, (str(self.path), "w")
