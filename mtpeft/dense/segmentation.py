"""Classes per pixel: semantic segmentation, and parts of objects or humans. Loss and measure are mmsegmentation's."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

import numpy as np
import torch

from mtpeft.dense.base import PERCENT_UP, Measure, register_kind, zeros
from mtpeft.dense.colours import blacken, palette
from mtpeft.dense.labelled import IGNORED, ClassKind
from mtpeft.heads.mmlab import build, mmseg
from mtpeft.options import Range


class IoU(Measure):
    """mIoU, mean class accuracy and pixel accuracy in percent, by mmsegmentation's IoUMetric.

    Areas of all images are added up per class (in float64, where the metric itself adds float32). mIoU is the mean over
    classes that occur in labels or predictions, mean accuracy over those that occur in labels.
    """

    def __init__(self, num_classes: int) -> None:
        """Areas of intersection, union, prediction and label, per class."""
        super().__init__(areas=zeros(4, num_classes))

    def update(self, output: torch.Tensor, label: torch.Tensor) -> None:
        """output (n, C, H, W) class scores, label (n, H, W)."""
        metric: Any = mmseg("mmseg.evaluation").IoUMetric
        classes = self.totals["areas"].shape[1]
        for scores, truth in zip(output.detach(), label, strict=True):  # one image: its counts are exact in float32
            areas = metric.intersect_and_union(scores.argmax(0), truth.long(), classes, IGNORED)
            self.totals["areas"] += torch.stack([area.cpu().double() for area in areas])

    def compute(self) -> dict[str, float | None]:
        """mIoU, mean_accuracy and pixel_accuracy."""
        areas = self.totals["areas"]
        if not bool(areas[3].any()):
            return {"mIoU": None, "mean_accuracy": None, "pixel_accuracy": None}
        values = mmseg("mmseg.evaluation").IoUMetric.total_area_to_metrics(*areas, metrics=["mIoU"])
        return {
            "mIoU": 100 * float(np.nanmean(values["IoU"])),
            "mean_accuracy": 100 * float(np.nanmean(values["Acc"])),
            "pixel_accuracy": 100 * float(values["aAcc"]),
        }


@register_kind("semseg")
class SemanticSegmentation(ClassKind):
    """One of `classes` classes per pixel; labels long (n, H, W), 255 ignored. Cross-entropy."""

    metrics: ClassVar = {"mIoU": PERCENT_UP, "mean_accuracy": PERCENT_UP, "pixel_accuracy": PERCENT_UP}

    def __init__(self, classes: Annotated[int, Range(at_least=2, at_most=IGNORED)], metric: str | None = None) -> None:
        """2 to 255 classes."""
        super().__init__(metric)
        self.channels = self.num_classes = classes
        self._criterion: Any = None

    def pixel_loss(self, output: torch.Tensor, label: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
        """Cross-entropy."""
        if self._criterion is None:
            self._criterion = build({"type": "mmseg.CrossEntropyLoss", "avg_non_ignore": True})
        return self._criterion(output.float(), label.long(), avg_factor=valid.sum(), ignore_index=IGNORED)

    def measure(self) -> Measure:
        """Sums of areas."""
        return IoU(self.channels)

    def values(self, output: torch.Tensor) -> np.ndarray:
        """The class with the largest score: uint8 (H, W)."""
        return output.argmax(0).cpu().numpy().astype(np.uint8)

    def picture(self, sample: torch.Tensor, reference: torch.Tensor | None = None) -> np.ndarray:
        """A colour per class; of an output the best class, at every pixel."""
        classes = (sample.argmax(0) if sample.ndim == 3 else sample).cpu().numpy().astype(np.int64)
        keep = classes != IGNORED
        return blacken(palette(self.channels)[np.where(keep, classes, 0)], keep)


@register_kind("parts")
class Parts(SemanticSegmentation):
    """Parts of humans or objects, background being class 0; pixels of images without labelled parts are 255."""

    default_weight = 2.0
