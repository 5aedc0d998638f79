"""Options: what values they take (`annotations`, `declared`), and reading them so that none goes unnoticed (`section`)."""

from mtpeft.options.annotations import (
    Count,
    Length,
    Name,
    NotNegative,
    OddSize,
    OneOf,
    Positive,
    Range,
    Rate,
    Share,
    WholeNumber,
    choices,
)
from mtpeft.options.declared import fits, take
from mtpeft.options.section import Option, Section, check_fields, check_options, options_of
from mtpeft.options.words import expected, shown

__all__ = [
    "Count",
    "Length",
    "Name",
    "NotNegative",
    "OddSize",
    "OneOf",
    "Option",
    "Positive",
    "Range",
    "Rate",
    "Section",
    "Share",
    "WholeNumber",
    "check_fields",
    "check_options",
    "choices",
    "expected",
    "fits",
    "options_of",
    "shown",
    "take",
]
