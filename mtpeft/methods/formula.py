"""How many weights a method has on a plain ViT, by the formula it is registered with."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Mapping
from typing import Any

from mtpeft.errors import ConfigError

#: what a formula may name beside the options: sizes of a plain ViT
SIZES = ("L", "d", "m", "n", "p", "h")
WHERE = " where "
_OPERATORS: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
    ast.Pow: operator.pow,
}


def weights_by_formula(formula: str, sizes: Mapping[str, float], options: Mapping[str, Any]) -> int:
    """The value of "2 * L * r * (d + m) where r = d // reduction".

    `sizes` are those of `SIZES`, `options` the method's. Raises `ConfigError` for what is no arithmetic of them.
    """
    text, _, given = formula.partition(WHERE)
    names: dict[str, Any] = {**options, **sizes}
    for part in given.split(", ") if given else ():
        name, sign, value = part.partition(" = ")
        if not sign or not name.isidentifier():
            raise ConfigError(f"formula {formula!r}: write {part!r} as name = value")
        names[name] = _value(formula, value, names)
    result = _value(formula, text, names)
    if result != int(result):
        raise ConfigError(f"formula {formula!r} gives {result}, which is no number of weights")
    return int(result)


def names_in(formula: str) -> set[str]:
    """The names a formula uses, its own left out."""
    text, _, given = formula.partition(WHERE)
    pairs = [part.partition(" = ") for part in given.split(", ")] if given else []
    used = {n.id for t in (text, *(p[2] for p in pairs)) for n in ast.walk(ast.parse(t)) if isinstance(n, ast.Name)}
    return used - {name for name, *_ in pairs}


def _value(formula: str, text: str, names: Mapping[str, Any]) -> Any:
    try:
        return _of(ast.parse(text.strip(), mode="eval").body, names)
    except (SyntaxError, KeyError, TypeError) as error:
        what = f"{error.args[0]!r} is unknown or no number" if isinstance(error, KeyError) else "that is no arithmetic"
        raise ConfigError(
            f"formula {formula!r}: {what}; it has {', '.join(SIZES)}, the options, and + - * // **"
        ) from None


def _of(node: ast.expr, names: Mapping[str, Any]) -> Any:
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        return _OPERATORS[type(node.op)](_of(node.left, names), _of(node.right, names))
    if isinstance(node, ast.Constant) and isinstance(node.value, (int, float)):
        return node.value
    if isinstance(node, ast.Name):
        if not isinstance(names.get(node.id), (int, float)):
            raise KeyError(node.id)
        return names[node.id]
    raise TypeError
