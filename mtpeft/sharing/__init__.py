"""Where a method's weights come from: `per_task`, `shared`, ... Importing this package registers all of them."""

from mtpeft.sharing import accumulated, averaged, hyperformer, per_task, polyhistor, pool, shared, split
from mtpeft.sharing.bank import Bank, BankFactory
from mtpeft.sharing.base import SHARINGS, Sharing, register_sharing

__all__ = [
    "SHARINGS",
    "Bank",
    "BankFactory",
    "Sharing",
    "accumulated",
    "averaged",
    "hyperformer",
    "per_task",
    "polyhistor",
    "pool",
    "register_sharing",
    "shared",
    "split",
]
