"""Heads: from features to a task's outputs. Importing this package registers all of them."""

from mtpeft.heads import ease, prototypes, ranpac
from mtpeft.heads.base import HEADS, Head, register_head
from mtpeft.heads.classification import GrowingHead, LinearHead
from mtpeft.heads.decode import DecodeHead, StagesHead
from mtpeft.heads.dense import DenseLinearHead
from mtpeft.heads.hrnet import HRNetHead, HRNetMergedHead
from mtpeft.heads.multiscale import FCNHead, SegformerHead, UPerHead
from mtpeft.heads.tokens import DPTHead, SegmenterHead, SETRHead
from mtpeft.heads.video import VideoLinearHead

__all__ = [
    "HEADS",
    "DPTHead",
    "DecodeHead",
    "DenseLinearHead",
    "FCNHead",
    "GrowingHead",
    "HRNetHead",
    "HRNetMergedHead",
    "Head",
    "LinearHead",
    "SETRHead",
    "SegformerHead",
    "SegmenterHead",
    "StagesHead",
    "UPerHead",
    "VideoLinearHead",
    "ease",
    "prototypes",
    "ranpac",
    "register_head",
]
