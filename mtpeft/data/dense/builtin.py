"""Imports the modules that register the data sets of mtpeft."""

from __future__ import annotations

from mtpeft.data.dense import nyud, pascal, segmentation  # noqa: F401
from mtpeft.data.dense.scenes import dataset  # noqa: F401
