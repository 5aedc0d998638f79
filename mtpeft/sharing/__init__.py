"""Where a method's weights come from: `per_task`, `shared`, ... Importing this package registers all of them."""

from mtpeft.sharing import per_task, shared
from mtpeft.sharing.bank import Bank
from mtpeft.sharing.base import SHARINGS, Sharing, register_sharing

__all__ = ["SHARINGS", "Bank", "Sharing", "per_task", "register_sharing", "shared"]
