"""Kinds of dense tasks by name. Importing this module registers all of them."""

from mtpeft.dense.base import KINDS, Kind, Measure, Metric, build_kind, register_kind
from mtpeft.dense.depth import Depth
from mtpeft.dense.edges import Edges
from mtpeft.dense.labelled import IGNORED, ClassKind, ValueKind
from mtpeft.dense.layout import Layout
from mtpeft.dense.normals import Normals
from mtpeft.dense.regression import Distance, Regression
from mtpeft.dense.saliency import Saliency
from mtpeft.dense.segmentation import Parts, SemanticSegmentation

__all__ = [
    "IGNORED",
    "KINDS",
    "ClassKind",
    "Depth",
    "Distance",
    "Edges",
    "Kind",
    "Layout",
    "Measure",
    "Metric",
    "Normals",
    "Parts",
    "Regression",
    "Saliency",
    "SemanticSegmentation",
    "ValueKind",
    "build_kind",
    "register_kind",
]
