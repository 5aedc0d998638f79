"""Heads: from features to a task's outputs. Importing this package registers all of them."""

from mtpeft.heads.base import HEADS, Head, register_head
from mtpeft.heads.classification import GrowingHead, LinearHead
from mtpeft.heads.dense import DenseLinearHead

__all__ = ["HEADS", "DenseLinearHead", "GrowingHead", "Head", "LinearHead", "register_head"]
