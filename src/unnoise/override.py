"""Typed, dotted overrides of nested values: ``optim.lr=2e-4``, ``sampling.sampler=Heun()``.

The type of a key is its annotation; a value of a wrong type, an unknown key and an unknown name fail with the nearest
right one. A key that holds a value of ours (a schedule, a sampler, a weight) takes the name of another of its kind,
with arguments where wanted: ``objective.weight=MinSnr(gamma=5)``.
"""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
import re
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from torch import nn

from unnoise.errors import UserError, nearest
from unnoise.spec import Build, fields_of


class OverrideError(UserError):
    """A key or value that does not fit."""


class Key(NamedTuple):
    """One line of what may be set."""

    name: str
    value: Any
    meaning: str


def keys(value: Any, prefix: str = "") -> Iterator[Key]:
    """Every key below `value` with its value and its meaning (from the docstring's Args)."""
    meanings = _meanings(_class_of(value))
    for name, part in _parts(value).items():
        path = f"{prefix}{name}"
        yield Key(path, part, meanings.get(name, ""))
        if _is_composite(part):
            yield from keys(part, f"{path}.")


def override(value: Any, assignment: str) -> Any:
    """`value` with one key set, as ``key=text``.

    Raises:
        OverrideError: for an unknown key (naming the nearest), or a text of the wrong type (naming the right one).
    """
    path, equals, text = assignment.partition("=")
    if not equals:
        raise OverrideError(f"{assignment!r} is not an override: write key=value, as in optim.lr=2e-4")
    known = {k.name for k in keys(value)}
    if path not in known:
        raise OverrideError(f"unknown key {path!r}{nearest(path, known)}")
    return _set(value, path.split("."), path, text)


def _set(value: Any, path: list[str], full: str, text: str) -> Any:
    head, *rest = path
    current = _parts(value)[head]
    if rest:
        new = _set(current, rest, full, text)
    else:
        plain = type(current) if isinstance(current, bool | int | float | str) else Any  # no annotation: more of it
        new = parse(text, _hints(_class_of(value)).get(head, plain), current, full)
    if isinstance(value, Mapping):
        return {**value, head: new}
    try:
        return value.replace(**{head: new}) if isinstance(value, Build) else dataclasses.replace(value, **{head: new})
    except (ValueError, TypeError) as e:
        raise OverrideError(f"{full}={text}: {e}") from e


def parse(text: str, hint: Any, current: Any = None, name: str = "value") -> Any:
    """`text` as a value of the type `hint`.

    Args:
        text: what the user wrote.
        hint: the annotation.
        current: the value it replaces; where the hint is a protocol, it says where others of its kind are.
        name: for the message.
    """
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if type(None) in args and text.lower() in ("none", "null", ""):
            return None
        errors = []
        for arm in args:
            if arm is not type(None):
                try:
                    return parse(text, arm, current, name)
                except OverrideError as e:
                    errors.append(e)
        raise errors[0]
    if origin is Literal:
        if text in map(str, args):
            return next(a for a in args if str(a) == text)
        raise OverrideError(f"{name}={text!r}{nearest(text, map(str, args))}")
    if hint is bool:
        if text.lower() in ("true", "false", "yes", "no", "1", "0"):
            return text.lower() in ("true", "yes", "1")
        raise OverrideError(f"{name} is true or false, got {text!r}")
    if hint in (int, float):
        return _number(text, hint, name)
    if hint is str:
        return text
    if origin in (tuple, Sequence):
        parts = _entries(text)
        arms = [args[0]] * len(parts) if origin is Sequence or args[-1] is Ellipsis else list(args)
        if len(arms) != len(parts):
            raise OverrideError(f"{name} has {len(arms)} entries, got {len(parts)} in {text!r}")
        return tuple(parse(p, arm, None, name) for p, arm in zip(parts, arms, strict=True))
    if origin in (dict, Mapping) or (isinstance(origin, type) and issubclass(origin, Mapping)):
        pairs = [p.replace(":", "=", 1).partition("=") for p in _entries(text)]
        return {k.strip(" '\""): parse(v.strip(), args[1], None, name) for k, _, v in pairs}
    return _named(text, hint, current, name)


def _entries(text: str) -> list[str]:
    """What stands between commas, but for those within brackets of an entry; brackets around all may be missing."""
    parts, depth = [""], 0
    for letter in text.strip():
        depth += (letter in "([{") - (letter in ")]}")
        if letter == "," and not depth:
            parts.append("")
        else:
            parts[-1] += letter
    if len(parts) == 1 and parts[0][:1] + parts[0][-1:] in ("()", "[]", "{}"):
        return _entries(parts[0][1:-1])
    return [p.strip() for p in parts if p.strip()]


def _number(text: str, hint: type, name: str) -> int | float:
    try:
        number = float(text)
    except ValueError:
        raise OverrideError(f"{name} is {'an integer' if hint is int else 'a number'}, got {text!r}") from None
    if hint is float:
        return number
    if not number.is_integer():
        raise OverrideError(f"{name} is an integer, got {text!r}")
    return int(number)


def _named(text: str, hint: Any, current: Any, name: str) -> Any:
    """A value of ours by its name, with arguments: Cosine, Cosine(offset=0), Shifted(schedule=Cosine(), shift=1)."""
    for source in (text.strip(), _BARE.sub(r"=\1'\2'", text.strip())):
        try:
            return _construct(source, ast.parse(source, mode="eval").body, hint, current, name)
        except SyntaxError:
            continue
    raise OverrideError(f"{name}={text!r} is not a name with arguments, as in Cosine(offset=0)")


_BARE = re.compile(r"=(\s*)([^\s,'\"()][^,'\"()]*?)(?=\s*[,)])")
"""An argument without quotes: a path is no Python, and a shell has taken its quotes."""


def _construct(source: str, node: ast.expr, hint: Any, current: Any, name: str) -> Any:
    call = node if isinstance(node, ast.Call) else ast.Call(func=node, args=[], keywords=[])
    if not isinstance(call.func, ast.Name) or call.args or any(k.arg is None for k in call.keywords):
        raise OverrideError(f"{name}={ast.unparse(node)!r}: write a name with named arguments, as in Cosine(offset=0)")
    known = _kin(hint, current)
    match = next((c for k, c in known.items() if k.lower() == call.func.id.lower()), None)
    if not known:
        raise OverrideError(f"{name}={call.func.id!r}: what may stand here has no names; write a recipe of your own")
    if match is None:
        raise OverrideError(f"{name}={call.func.id!r} is unknown{nearest(call.func.id, known)}")
    hints, arguments = _hints(match), {}
    for keyword in call.keywords:
        assert keyword.arg is not None
        if keyword.arg not in inspect.signature(match).parameters:
            raise OverrideError(
                f"{match.__name__} has no argument {keyword.arg!r}"
                f"{nearest(keyword.arg, inspect.signature(match).parameters)}"
            )
        inner = f"{name}.{keyword.arg}"
        written = ast.get_source_segment(source, keyword.value)  # a/b is a quotient, unparsed with spaces, and a path
        literal = keyword.value.value if isinstance(keyword.value, ast.Constant) else written
        default = _default(match, keyword.arg)
        arguments[keyword.arg] = parse(str(literal), hints.get(keyword.arg, Any), default, inner)
    try:
        return Build(match, **arguments) if issubclass(match, nn.Module) else match(**arguments)
    except (TypeError, ValueError) as e:
        raise OverrideError(f"{name}={ast.unparse(node)}: {e}") from e


def _default(cls: type, name: str) -> Any:
    """What an argument is unless told otherwise; None where nothing is said."""
    for field in dataclasses.fields(cls) if dataclasses.is_dataclass(cls) else ():
        if field.name == name and field.default_factory is not dataclasses.MISSING:
            return field.default_factory()
    default = inspect.signature(cls).parameters[name].default
    return None if default is inspect.Parameter.empty else default


def _kin(hint: Any, current: Any) -> dict[str, type]:
    """The concrete values that may stand where `current` stands, or where a protocol `hint` is asked for."""
    hint, modules = typing.get_origin(hint) or hint, set()
    for cls in (hint, None if current is None else _class_of(current)):
        if isinstance(cls, type) and cls.__module__.startswith("unnoise."):
            modules |= {cls.__module__, cls.__module__.rpartition(".")[0]}
    found: dict[str, type] = {}
    for module in sorted(modules):
        for k, v in vars(importlib.import_module(module)).items():
            usable = (
                isinstance(v, type)
                and not k.startswith("_")
                and (dataclasses.is_dataclass(v) or issubclass(v, nn.Module))
            )
            if usable and v.__module__.startswith(module) and _fits(v, hint, current):
                found[k] = v
    return found


def _fits(cls: type, hint: Any, current: Any) -> bool:
    """Whether `cls` has what the protocol `hint` states; where there is none, the methods of `current`."""
    if isinstance(hint, type) and getattr(hint, "_is_protocol", False):
        wanted = {k for k in vars(hint) if not k.startswith("_") or k == "__call__"}
    elif isinstance(hint, type) and hint is not Build:
        return issubclass(cls, hint)
    else:
        wanted = {k for k, v in vars(_class_of(current)).items() if callable(v) and (k[0] != "_" or k == "__call__")}
    return all(any(k in vars(c) for c in cls.__mro__) for k in wanted)  # every class has a __call__: its type's


def _parts(value: Any) -> dict[str, Any]:
    return dict(value) if isinstance(value, Mapping) else fields_of(value)


def _is_composite(value: Any) -> bool:
    if isinstance(value, Mapping):  # components by name; not numbers by name, which are set together
        return bool(value) and all(_is_composite(v) for v in value.values())
    return isinstance(value, Build) or (dataclasses.is_dataclass(value) and not isinstance(value, type))


def _class_of(value: Any) -> type[Any]:
    return value.cls if isinstance(value, Build) else type(value)


def _hints(cls: type) -> dict[str, Any]:
    if issubclass(cls, Mapping):
        return {}
    target = cls.__init__ if issubclass(cls, nn.Module) else cls
    return typing.get_type_hints(target)


def _meanings(cls: type) -> dict[str, str]:
    """The "Args:" of a docstring, by name."""
    doc = "" if issubclass(cls, Mapping) else inspect.getdoc(cls) or ""
    match = re.search(r"^Args:\n(.*?)(?=^\S|\Z)", doc, re.MULTILINE | re.DOTALL)
    if match is None:
        return {}
    entries = re.split(r"^ {4}(?=\w)", match[1], flags=re.MULTILINE)
    pairs = (e.partition(":") for e in entries if ":" in e)
    return {k.strip(): " ".join(v.split()) for k, _, v in pairs}
