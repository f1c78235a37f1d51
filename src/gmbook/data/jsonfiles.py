"""JSON files of runs and records, read with suspicion: a damaged one gets one clear error, whatever its shape."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

Fields = Mapping[str, type | tuple[type, ...]]  # name -> what its value must be
NUMBER = (int, float)


class Damaged(ValueError):
    """A file does not hold what it should; the message names it and says what to do."""


def read_json(file: Path, fields: Fields, remedy: str) -> dict[str, Any]:
    """The object in a JSON file, which has at least these fields, of these types.

    Args:
        fields: what must be there.
        remedy: what the reader of the error can do.

    Raises:
        FileNotFoundError: there is no such file.
        Damaged: it is no JSON, is nested too deeply, holds something else than an object, or lacks a field.
        OSError: it cannot be read.
    """
    try:
        content = json.loads(file.read_bytes())
    except ValueError:
        raise Damaged(f"{file} is damaged (no valid JSON): {remedy}") from None
    except RecursionError:
        raise Damaged(f"{file} is damaged (nested too deeply): {remedy}") from None
    try:
        return checked(content, fields)
    except ValueError as error:
        raise Damaged(f"{file} is damaged ({error}): {remedy}") from None


def checked(content: Any, fields: Fields) -> dict[str, Any]:
    """`content`, if it is an object with at least these fields, of these types. A boolean is no number.

    Raises:
        ValueError: it is not; the message says where.
    """
    if not isinstance(content, dict):
        raise ValueError(f"an object is needed, not {named(content)}")
    for name, kind in fields.items():
        if name not in content:
            raise ValueError(f"{name!r} is missing")
        if not isinstance(content[name], kind) or (isinstance(content[name], bool) and kind is not bool):
            raise ValueError(f"{name!r} is {named(content[name])}")
    return content


def known(content: Any, fields: Fields) -> dict[str, Any]:
    """`content`, if it is an object with none but these fields, of these types; any may be missing.

    Raises:
        ValueError: it is not; the message says where.
    """
    found = checked(content, {})
    for name in found:
        if name not in fields:
            raise ValueError(f"{name!r} is unknown: known are {', '.join(fields)}")
    return checked(found, {name: fields[name] for name in found})


def named(value: Any) -> str:
    """What kind of JSON value it is, in a word."""
    kinds = {
        dict: "an object",
        list: "a list",
        str: "a text",
        bool: "true or false",
        int: "an integer",
        float: "a float",
    }
    return kinds.get(type(value), "null")


def as_json(content: Any) -> bytes:
    """JSON as it is written here: one space of indent, letters as they are, a newline at the end."""
    return (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode()
