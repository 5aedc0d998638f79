"""Conformance checks of options: whatever a field does not declare is refused, before the backbone is touched."""

from __future__ import annotations

from typing import Any

from mtpeft.errors import ConfigError
from mtpeft.manager.attach import attach
from mtpeft.options import options_of
from mtpeft.testing.case import Case
from mtpeft.testing.wrong_values import wrong_values


class Untouchable:
    """Stands for a backbone that must not be looked at."""

    def __getattribute__(self, name: str) -> Any:
        if name == "__class__":  # whether it is a name or a model may be asked
            return Untouchable
        raise AssertionError(f"the backbone is touched ({name}) before the options are checked")


def check_refused_options(case: Case) -> None:
    """Every value that a field's annotation does not take is one line that names the method, the field and the value."""
    for field, option in options_of(case.spec.config).items():
        wrong = wrong_values(option.annotation)
        case.require(bool(wrong), f"the annotation of {field} says nothing of its values")
        for value in wrong:
            try:
                attach(Untouchable(), case.name, **{field: value})  # type: ignore[arg-type]
            except ConfigError as error:
                line = f"method {case.name!r}: {field} is "
                good = str(error).startswith(line) and ", expected " in str(error) and "\n" not in str(error)
                case.require(good, f"the refusal {str(error)!r} of {field} must begin with {line!r}")
            except AssertionError as error:
                raise case.fail(f"{field}={value!r}: {error}") from None
            else:
                raise case.fail(f"{field}={value!r} is accepted")
