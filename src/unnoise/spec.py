"""Values and modules as JSON, and back.

A frozen dataclass is described by its fields, an `nn.Module` by the arguments of its constructor, which it keeps as
attributes of the same names, a `Build` by the arguments it will be constructed with. What a description may build is
this package's own types and those that the caller passes; nothing else is imported and nothing is unpickled.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, Generic, TypeVar

from torch import nn

from unnoise.errors import UserError

PACKAGE = __name__.split(".", maxsplit=1)[0]
TYPE, MAP, FLOAT = "$type", "$map", "$float"
T = TypeVar("T", bound=nn.Module)


class SpecError(UserError):
    """A value cannot be described, or a description cannot be built."""


class Pending(ABC):
    """A component of a recipe that is made when a run begins."""

    @abstractmethod
    def __call__(self) -> Any:
        """The component."""


class Build(Pending, Generic[T]):
    """A module that is described but not yet constructed: ``Build(UNet, channels=1)()`` is ``UNet(channels=1)``.

    Recipes hold these, so that a recipe is a light value and every run begins with fresh weights.

    Args:
        cls: the class of the module.
        args: arguments of its constructor, by name; checked against its signature at once. `Pending` ones among them
            are made too.

    Raises:
        TypeError: for an argument that the constructor does not have, or one it lacks.
    """

    def __init__(self, cls: type[T], /, **args: Any) -> None:
        inspect.signature(cls).bind(**args)
        self.cls = cls
        self.args: Mapping[str, Any] = MappingProxyType(args)

    def __call__(self) -> T:
        """The module, with fresh weights."""
        return self.cls(**{k: v() if isinstance(v, Pending) else v for k, v in self.args.items()})

    def replace(self, **args: Any) -> Build[T]:
        """The same with other arguments."""
        return Build(self.cls, **{**self.args, **args})

    def all_args(self) -> dict[str, Any]:
        """Every argument, defaults included."""
        parameters = _arguments(self.cls)
        defaults = {k: p.default for k, p in parameters.items() if p.default is not inspect.Parameter.empty}
        return {k: {**defaults, **self.args}[k] for k in parameters}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Build) and self.cls is other.cls and self.all_args() == other.all_args()

    def __hash__(self) -> int:
        return hash(self.cls)

    def __repr__(self) -> str:
        return f"{self.cls.__name__}({', '.join(f'{k}={v!r}' for k, v in self.args.items())})"


def fields_of(value: Any) -> dict[str, Any]:
    """What a value consists of, by name: fields of a dataclass, constructor arguments of a module or a `Build`."""
    if isinstance(value, Build):
        return value.all_args()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: getattr(value, f.name) for f in dataclasses.fields(value) if f.init}
    if isinstance(value, nn.Module):
        out = {}
        cls = _class_of(value)
        for name in _arguments(cls):
            if not hasattr(value, name):
                raise SpecError(
                    f"{cls.__name__} cannot be saved: it does not keep its argument {name!r}; "
                    f"write self.{name} = {name} in its constructor"
                )
            out[name] = getattr(value, name)
        return out
    raise SpecError(f"{value!r} of type {type(value).__name__} is neither a dataclass nor a module")


def _arguments(cls: type[Any]) -> Mapping[str, inspect.Parameter]:
    """What a constructor takes, by name."""
    if cls.__init__ is nn.Module.__init__:
        return {}
    parameters = inspect.signature(cls).parameters
    for p in parameters.values():
        if p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD):
            raise SpecError(
                f"{cls.__name__} cannot be saved: its constructor takes {p}, which have no names to be rebuilt by; "
                "write its arguments out"
            )
    return parameters


def _class_of(value: Any) -> type[Any]:
    """The class that a value was constructed by; a module that is sharded has got another one since, made by torch."""
    return next(c for c in type(value).__mro__ if not c.__module__.startswith("torch.distributed."))


def describe(value: Any) -> Any:
    """`value` as JSON.

    Raises:
        SpecError: for a value that is not made of dataclasses, modules, mappings, tuples, numbers and strings.
    """
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else {FLOAT: str(value)}
    if isinstance(value, list | tuple):
        return [describe(v) for v in value]
    if isinstance(value, Mapping):
        return {MAP: {str(k): describe(v) for k, v in value.items()}}
    cls = value.cls if isinstance(value, Build) else _class_of(value)
    return {TYPE: f"{cls.__module__}.{cls.__qualname__}"} | {k: describe(v) for k, v in fields_of(value).items()}


def build(spec: Any, types: Iterable[type] = (), *, lazy: bool = False) -> Any:
    """The value that `spec` describes.

    Args:
        spec: what `describe` gave.
        types: classes outside this package that may be built.
        lazy: leave modules as `Build`s.

    Raises:
        SpecError: for a type that may not be built, or arguments that do not fit it.
    """
    if isinstance(spec, list):
        return tuple(build(v, types, lazy=lazy) for v in spec)
    if not isinstance(spec, dict):
        return spec
    if spec.get(FLOAT) in ("inf", "-inf", "nan"):
        return float(spec[FLOAT])
    if isinstance(spec.get(MAP), dict):
        return {k: build(v, types, lazy=lazy) for k, v in spec[MAP].items()}
    if not isinstance(spec.get(TYPE), str):
        raise SpecError(f"a description without {TYPE}: {spec}")
    cls = _resolve(spec[TYPE], types)
    args = {k: build(v, types, lazy=lazy) for k, v in spec.items() if k != TYPE}
    try:
        return Build(cls, **args) if lazy and issubclass(cls, nn.Module) else cls(**args)
    except (TypeError, ValueError) as e:
        raise SpecError(f"{spec[TYPE]} cannot be built from {sorted(args)}: {e}") from e


def _resolve(name: str, types: Iterable[type]) -> type[Any]:
    module, _, attribute = name.rpartition(".")
    ours = module.startswith(f"{PACKAGE}.")
    for cls in types:
        # A file of the user's may go by another name than when the description was made.
        if f"{cls.__module__}.{cls.__qualname__}" == name or (not ours and cls.__qualname__ == attribute):
            return cls
    refusal = SpecError(
        f"the description names the type {name!r}, which is not one of {PACKAGE}'s: if it is yours, pass its class "
        "(types=[...] in Python, --types FILE.py on the command line)"
    )
    if not ours:
        raise refusal
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as e:
        raise refusal from e
    buildable = isinstance(found, type) and (dataclasses.is_dataclass(found) or issubclass(found, nn.Module))
    if not buildable or found.__module__ != module:
        raise refusal
    return found
