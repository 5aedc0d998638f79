"""Published data sets in the folders their publishers, or the papers that split them, gave them."""

from mtpeft.data.layouts.registry import LAYOUTS, Layout

__all__ = ["LAYOUTS", "Layout"]
