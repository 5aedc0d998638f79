"""Data sets of several domains: DomainNet, whose domains are styles, and CORe50, whose domains are recording sessions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from mtpeft.data.layouts.reading import needed, read_pairs
from mtpeft.data.picture_files import PictureFiles, check_files
from mtpeft.errors import ConfigError, DataError
from mtpeft.options import OneOf, Range

DOMAINNET_CLASSES = 345
DOMAINS = ("clipart", "infograph", "painting", "quickdraw", "real", "sketch")
TRAIN_SESSIONS = (1, 2, 4, 5, 6, 8, 9, 11)
TEST_SESSIONS = (3, 7, 10)
OBJECTS = 50
CATEGORIES = (
    "plug adapters",
    "mobile phones",
    "scissors",
    "light bulbs",
    "cans",
    "glasses",
    "balls",
    "markers",
    "cups",
    "remote controls",
)
"""Of five objects each."""


def domainnet(
    train: bool,
    root: str,
    domains: Annotated[str, OneOf(DOMAINS)] | tuple[Annotated[str, OneOf(DOMAINS)], ...] = DOMAINS,
) -> PictureFiles:
    """DomainNet (Peng et al. 2019, arXiv 1812.01754): `root` holds DOMAIN/CLASS/... and the lists DOMAIN_train.txt and
    DOMAIN_test.txt of lines "DOMAIN/CLASS/... 12".

    `domains` is one or several, then in one data set. A class may be absent from a part, as t-shirts are from the training
    part of painting.
    """
    chosen = (domains,) if isinstance(domains, str) else domains
    if not chosen or len(set(chosen)) < len(chosen):
        raise ConfigError(f"DomainNet: data.domains is {list(chosen)}, expected each domain once")
    names: dict[int, str] = {}
    samples: list[tuple[str, int]] = []
    for domain in chosen:
        for part in ("train", "test"):
            file = Path(root) / f"{domain}_{part}.txt"
            needed(file, "DomainNet", root, "DOMAIN/CLASS/ and the lists DOMAIN_train.txt and DOMAIN_test.txt")
            pairs = read_pairs(file, DOMAINNET_CLASSES)
            for path, label in pairs:
                name = Path(path).parent.name
                if names.setdefault(label, name) != name:
                    raise DataError(f"{file}: label {label} is {name!r} there, but {names[label]!r} elsewhere")
            if train == (part == "train"):
                own = [(str(Path(root) / path), label) for path, label in pairs]
                check_files((path for path, _ in own), str(file))
                samples += own
    return PictureFiles(samples, [names.get(n, str(n)) for n in range(DOMAINNET_CLASSES)], numbered=True)


def core50(
    train: bool,
    root: str,
    sessions: tuple[Annotated[int, Range(at_least=1, at_most=11)], ...] = TRAIN_SESSIONS,
    labels: Literal["object", "category"] = "object",
) -> PictureFiles:
    """CORe50 (Lomonaco and Maltoni 2017, arXiv 1705.03550): `root` (core50_128x128) holds s1/ to s11/, each o1/ to o50/.

    Trains on `sessions`; sessions 3, 7 and 10 are the test part, whatever the training sessions. `labels` are the 50
    objects, or the 10 categories of five objects each.
    """
    if not sessions or len(set(sessions)) < len(sessions) or set(sessions) & set(TEST_SESSIONS):
        raise ConfigError(
            f"CORe50: data.sessions is {list(sessions)}, expected each once, and none of the test sessions {TEST_SESSIONS}"
        )
    samples = [sample for session in (sessions if train else TEST_SESSIONS) for sample in _session(root, session)]
    if labels == "object":
        return PictureFiles(samples, [f"o{number}" for number in range(1, OBJECTS + 1)])
    per_category = OBJECTS // len(CATEGORIES)
    return PictureFiles([(path, label // per_category) for path, label in samples], CATEGORIES)


def _session(root: str, session: int) -> Sequence[tuple[str, int]]:
    found: list[tuple[str, int]] = []
    for number in range(1, OBJECTS + 1):
        folder = needed(Path(root) / f"s{session}" / f"o{number}", "CORe50", root, "s1/ to s11/, each with o1/ to o50/")
        files = sorted(file for file in folder.iterdir() if file.suffix.lower() in (".png", ".jpg", ".jpeg"))
        if not files:
            raise DataError(f"CORe50 {folder}: no image in it")
        found += [(str(file), number - 1) for file in files]
    return found
