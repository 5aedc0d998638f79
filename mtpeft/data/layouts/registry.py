"""The layouts by name, and how many classes each data set has, which its options may say."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from mtpeft.data.layouts import cub, domains, fgvc, folders, stream51, vtab


@dataclass(frozen=True)
class Layout:
    """`build(train, **options)` reads one part; `classes` is a function of the options, which needs no file."""

    build: Callable[..., Any]
    classes: Callable[[Mapping[str, Any]], int]


def _always(number: int) -> Callable[[Mapping[str, Any]], int]:
    return lambda options: number


LAYOUTS: dict[str, Layout] = {
    "VTAB": Layout(vtab.vtab, lambda options: vtab.CLASSES[options["task"]]),
    "FGVC": Layout(fgvc.fgvc, lambda options: fgvc.CLASSES[options["task"]]),
    "CUB200": Layout(cub.cub200, lambda options: cub.CLASSES),
    "DomainNet": Layout(domains.domainnet, lambda options: domains.DOMAINNET_CLASSES),
    "CORe50": Layout(
        domains.core50,
        lambda options: len(domains.CATEGORIES) if options.get("labels") == "category" else domains.OBJECTS,
    ),
    "Stream51": Layout(stream51.stream51, lambda options: stream51.CLASSES),
    **{name: Layout(folders.class_folders(name), _always(number)) for name, number in folders.CLASSES.items()},
}
