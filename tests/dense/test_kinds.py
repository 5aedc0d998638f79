"""Every loss and measure against numbers worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from mtpeft.dense.kinds import KINDS, build_kind
from mtpeft.errors import CheckpointError, ConfigError, DataError, UnknownNameError

OPTIONS = {"semseg": {"classes": 4}, "parts": {"classes": 3}, "edges": {"thresholds": 9, "max_distance": 0.1}}


def batch(name: str, images: int = 3, size: int = 12) -> tuple[torch.Tensor, torch.Tensor]:
    """Random outputs, and labels in which a third of the pixels is invalid."""
    kind = build_kind(name, **OPTIONS.get(name, {}))
    output = torch.randn(images, kind.channels, size, size)
    invalid = torch.rand(images, size, size) < 0.33
    if name in ("semseg", "parts", "saliency", "edges"):
        label = torch.randint(max(2, kind.channels), (images, size, size))
        return output, label.masked_fill(invalid, 255)
    if name == "normals":
        label = torch.nn.functional.normalize(torch.randn(images, 3, size, size), dim=1)
        return output, label.masked_fill(invalid[:, None], 0)
    label = torch.rand(images, kind.channels, size, size) + 0.1
    return output, label.masked_fill(invalid[:, None], {"depth": math.nan}.get(name, -1.0))


def kind_of(name: str):
    return build_kind(name, **OPTIONS.get(name, {}))


def values(name: str, output, label, **options) -> dict:
    measure = build_kind(name, **{**OPTIONS.get(name, {}), **options}).measure()
    measure.update(output, label)
    return measure.compute()


@pytest.mark.parametrize("name", list(KINDS))
def test_contract(name):
    kind, (output, label) = kind_of(name), batch(name)
    output.requires_grad_()
    valid = kind.valid(label)
    assert valid.dtype == torch.bool and valid.shape == (3, 12, 12) and 0 < valid.float().mean() < 1
    loss = kind.loss(output, label)
    assert loss.ndim == 0 and loss > 0
    loss.backward()
    moved = output.grad.ne(0).any(1)
    assert (moved & ~valid).sum() == 0 and moved.any()
    found = values(name, output, label)
    assert list(found) == list(kind.metrics) and all(math.isfinite(v) for v in found.values())
    assert (kind.unit, kind.higher_is_better) == kind.metrics[kind.metric]


@pytest.mark.parametrize("name", list(KINDS))
def test_invalid_pixels_do_not_matter(name):
    kind, (output, label) = kind_of(name), batch(name)
    other = torch.where(kind.valid(label)[:, None], output, output + 7 * torch.randn_like(output))
    assert torch.equal(kind.loss(output, label), kind.loss(other, label))
    if name != "edges":  # lines are thinned with their surroundings: see test_matching
        assert values(name, output, label) == values(name, other, label)


@pytest.mark.parametrize("name", list(KINDS))
def test_no_valid_pixel(name):
    kind, (output, label) = kind_of(name), batch(name)
    output.requires_grad_()
    valid = kind.valid(label)
    label = torch.where(valid if label.ndim == 3 else valid[:, None], torch.full_like(label, kind.layout.fill), label)
    assert not kind.valid(label).any()
    loss = kind.loss(output, label)
    loss.backward()
    assert loss == 0 and not output.grad.any()
    measure = kind.measure()
    assert set(measure.compute().values()) == {None}
    measure.update(output, label)
    assert set(measure.compute().values()) == {None}


@pytest.mark.parametrize("name", list(KINDS))
def test_parts_merge_into_the_whole(name):
    output, label = batch(name, images=5)
    kind = kind_of(name)
    whole, one, two = kind.measure(), kind.measure(), kind.measure()
    whole.update(output, label)
    one.update(output[:2], label[:2])
    two.update(output[2:3], label[2:3])
    two.update(output[3:], label[3:])
    resumed = kind.measure()
    resumed.load(one.state())
    resumed.merge(two.state())
    assert resumed.compute() == pytest.approx(whole.compute(), rel=1e-12)
    assert all(isinstance(t, torch.Tensor) for t in resumed.state().values())
    before = one.state()
    one.update(output[2:], label[2:])
    assert any(not torch.equal(before[k], v) for k, v in one.state().items())  # a state is a copy
    with pytest.raises(CheckpointError, match="state of another measure"):
        one.load({"sums": torch.zeros(99)})


def test_merged_loss_of_images_equals_the_loss_of_their_pixels():
    for name in KINDS:
        if name == "saliency":  # balanced over the batch
            continue
        kind, (output, label) = kind_of(name), batch(name)
        counts = kind.valid(label).flatten(1).sum(1)
        parts = torch.stack([kind.loss(output[i : i + 1], label[i : i + 1]) for i in range(3)])
        assert torch.allclose(kind.loss(output, label), (parts * counts).sum() / counts.sum(), rtol=1e-5)


# segmentation --------------------------------------------------------------------------------------------------------


def scores_of(classes: list[list[int]], count: int) -> torch.Tensor:
    return torch.nn.functional.one_hot(torch.tensor(classes), count).movedim(-1, 0)[None].float() * 5


def test_segmentation():
    label = torch.tensor([[[0, 0, 1], [1, 2, 255]]])
    predicted = [[0, 1, 1], [1, 0, 3]]
    found = values("semseg", scores_of(predicted, 4), label)
    # class 0: 1 of {0, 0} and {0, 0}: 1/3; class 1: 2/3; class 2: 0/1; class 3 occurs only where ignored
    assert found["mIoU"] == pytest.approx(100 * (1 / 3 + 2 / 3 + 0) / 3)
    assert found["mean_accuracy"] == pytest.approx(100 * (0.5 + 1 + 0) / 3)
    assert found["pixel_accuracy"] == pytest.approx(60.0)
    loss = build_kind("semseg", classes=4).loss(scores_of(predicted, 4), label)
    right, wrong = -5 + math.log(math.exp(5) + 3), math.log(math.exp(5) + 3)
    assert loss.item() == pytest.approx((3 * right + 2 * wrong) / 5, rel=1e-5)


def test_segmentation_equals_the_metric_of_mmsegmentation():
    from mtpeft.heads.mmlab import mmseg

    metric = mmseg("mmseg.evaluation").IoUMetric()
    metric.dataset_meta = {"classes": list("abcd")}
    output, label = batch("semseg", images=4)
    measure = build_kind("semseg", classes=4).measure()
    measure.update(output, label)
    samples = [
        {"pred_sem_seg": {"data": o.argmax(0, keepdim=True)}, "gt_sem_seg": {"data": y[None]}}
        for o, y in zip(output, label, strict=True)
    ]
    metric.process({}, samples)
    theirs = metric.compute_metrics(metric.results)
    ours = measure.compute()
    assert [round(ours[k], 2) for k in ("mIoU", "mean_accuracy", "pixel_accuracy")] == pytest.approx(
        [theirs[k] for k in ("mIoU", "mAcc", "aAcc")]
    )


# depth ---------------------------------------------------------------------------------------------------------------


def test_depth():
    label = torch.tensor([[[[1.0, 2.0, 4.0, 0.0, math.inf]]]])
    output = torch.tensor([[[[1.2, 3.0, 1.0, 9.0, 9.0]]]])
    found = values("depth", output, label)
    assert found["rmse"] == pytest.approx(math.sqrt((0.04 + 1 + 9) / 3))
    assert found["abs_rel"] == pytest.approx(100 * (0.2 + 0.5 + 0.75) / 3)
    assert found["log_rmse"] == pytest.approx(
        math.sqrt((math.log(1.2) ** 2 + math.log(1.5) ** 2 + math.log(4) ** 2) / 3)
    )
    # ratios 1.2, 1.5 and 4 against 1.25, 1.5625 and 1.953
    assert [found[f"delta{p}"] for p in (1, 2, 3)] == pytest.approx([100 / 3, 200 / 3, 200 / 3])
    assert build_kind("depth").loss(output, label).item() == pytest.approx((0.2 + 1 + 3) / 3)


def test_depth_below_zero_is_raised_for_ratios():
    found = values("depth", torch.tensor([[[[-2.0]]]]), torch.tensor([[[[1.0]]]]))
    assert found["rmse"] == pytest.approx(3) and found["log_rmse"] == pytest.approx(math.log(1000))


# normals -------------------------------------------------------------------------------------------------------------


def turned(*degrees: float) -> torch.Tensor:
    """(1, 3, 1, n) vectors turned from z towards x."""
    angle = torch.deg2rad(torch.tensor(degrees, dtype=torch.float64))
    return torch.stack([angle.sin(), torch.zeros_like(angle), angle.cos()])[None, :, None].float()


def test_normals():
    angles = (10.0, 20.0, 25.0, 90.0, 0.001)
    label = turned(*[0.0] * 5)
    found = values("normals", 3 * turned(*angles), label)
    assert found["mean"] == pytest.approx(sum(angles) / 5, rel=1e-5)
    assert found["median"] == pytest.approx(20, abs=0.01)
    assert found["rmse"] == pytest.approx(math.sqrt(sum(a * a for a in angles) / 5), rel=1e-5)
    assert [found[f"within_{s}"] for s in ("11.25", "22.5", "30")] == pytest.approx([40, 60, 80])
    output = turned(0.0, 90.0) * torch.tensor([2.0, 0.5])
    assert build_kind("normals").loss(output, turned(0, 0)).item() == pytest.approx(2 / 6)
    assert build_kind("normals", loss="cosine").loss(output, turned(0, 0)).item() == pytest.approx(0.5)


def test_median_angle_of_many_pixels():
    vectors = torch.nn.functional.normalize(torch.randn(2, 3, 64, 64), dim=1)
    other = torch.nn.functional.normalize(torch.randn(2, 3, 64, 64), dim=1)
    exact = torch.rad2deg(torch.acos((vectors * other).sum(1).double())).median().item()
    assert values("normals", vectors, other)["median"] == pytest.approx(exact, abs=0.02)


# saliency ------------------------------------------------------------------------------------------------------------


def logits(*probabilities: float) -> torch.Tensor:
    return torch.logit(torch.tensor(probabilities)).reshape(1, 1, 1, -1)


def test_saliency():
    output, label = logits(0.9, 0.6, 0.7, 0.2, 0.999), torch.tensor([[[1, 1, 0, 0, 255]]])
    found = values("saliency", output, label)
    # above 0.7: P 1, R 1/2; above 0.2: P 2/3, R 1; below: P 1/2, R 1
    best = max(1.3 * p * r / (0.3 * p + r) for p, r in ((1, 0.5), (2 / 3, 1), (0.5, 1)))
    assert found["maxF"] == pytest.approx(100 * best)
    assert found["mIoU"] == pytest.approx(100 * 2 / 3)
    loss = build_kind("saliency").loss(output, label)
    parts = [-math.log(0.9), -math.log(0.6), -math.log(0.3), -math.log(0.8)]
    assert loss.item() == pytest.approx(0.5 * sum(parts) / 4, rel=1e-5)


def test_saliency_is_balanced_and_averaged_over_images():
    output, label = logits(0.9, 0.3, 0.3, 0.3), torch.tensor([[[1, 0, 0, 0]]])
    loss = build_kind("saliency").loss(output, label)
    assert loss.item() == pytest.approx((0.75 * -math.log(0.9) + 0.25 * 3 * -math.log(0.7)) / 4, rel=1e-5)
    second, empty = logits(0.3, 0.9, 0.9, 0.9), torch.tensor([[[0, 0, 0, 0]]])
    found = values("saliency", torch.cat([output, second]), torch.cat([label, empty]))
    assert found["maxF"] == pytest.approx(100)  # the second image has no recall
    # between 0.3 and 0.9: indices 1 and 0; from 0.9 on (exclusive) 0 and 1
    assert found["mIoU"] == pytest.approx(50)


# edges: the loss; the measure is in test_matching --------------------------------------------------------------------


def test_edge_loss():
    loss = build_kind("edges").loss(logits(0.9, 0.4, 0.5), torch.tensor([[[1, 0, 255]]]))
    assert loss.item() == pytest.approx((0.95 * -math.log(0.9) + 0.05 * -math.log(0.6)) / 2, rel=1e-5)


# regression ----------------------------------------------------------------------------------------------------------


def test_regression():
    label, output = torch.tensor([[[[0.5, 1.0, -1.0]]]]), torch.tensor([[[[0.2, 1.5, 9.0]]]])
    assert values("regression", output, label) == pytest.approx({"rmse": math.sqrt((0.09 + 0.25) / 2), "mae": 0.4})
    assert build_kind("distance").loss(output, label).item() == pytest.approx(0.4)


# choosing a kind -----------------------------------------------------------------------------------------------------


def test_main_metric_can_be_chosen():
    kind = build_kind("normals", metric="within_30")
    assert (kind.metric, kind.unit, kind.higher_is_better) == ("within_30", "%", True)
    assert (build_kind("normals").metric, build_kind("depth").unit) == ("mean", "m")
    with pytest.raises(UnknownNameError, match=r"unknown metric 'rmsee' .kind normals.. Did you mean 'rmse'"):
        build_kind("normals", metric="rmsee")


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("depht", {}, "Did you mean 'depth'"),
        ("depth", {"colour": 1}, "kind 'depth' takes no option 'colour'"),
        ("semseg", {}, "kind 'semseg' needs the option 'classes'"),
        ("semseg", {"classes": 1}, "classes is 1, expected a whole number from 2 to 255"),
        ("normals", {"loss": "l2"}, "loss is 'l2', expected one of l1, cosine"),
        ("edges", {"thresholds": 0}, "thresholds is 0, expected a whole number from 1"),
    ],
)
def test_wrong_options(name, options, message):
    with pytest.raises(ConfigError, match=message):
        build_kind(name, **options)


def test_published_weights():
    found = {name: kind.default_weight for name, kind in ((n, KINDS.get(n)) for n in KINDS)}
    published = {"semseg": 1, "parts": 2, "saliency": 5, "normals": 10, "edges": 50, "depth": 1}
    assert {name: found[name] for name in published} == published


# checks and pictures -------------------------------------------------------------------------------------------------

GOOD = {
    "semseg": np.array([[0, 3], [255, 1]], dtype=np.uint8),
    "parts": np.array([[0, 2], [255, 1]]),
    "saliency": np.array([[0, 1], [255, 1]], dtype=np.uint8),
    "edges": np.array([[False, True]]),
    "depth": np.array([[0.5, 80.0], [0.0, np.nan]], dtype=np.float32),
    "normals": np.array([[[0, 0, 1], [0.6, 0, 0.8], [0, 0, 0]]], dtype=np.float32),
    "regression": np.array([[0.0, 5.0], [-1, 2]], dtype=np.float32),
    "distance": np.array([[0.0, 1.0], [-1, 0.5]], dtype=np.float32),
}


@pytest.mark.parametrize("name", list(KINDS))
def test_good_labels_pass(name, recwarn):
    kind_of(name).check(GOOD[name], "a.png")
    assert not recwarn.list


@pytest.mark.parametrize(
    ("name", "label", "message"),
    [
        ("semseg", np.array([[0, 7, -1]]), "a.png: label values -1, 7 are out of range: 0 to 3"),
        ("semseg", np.zeros((2, 2), dtype=np.float32), "a.png: the label is float32"),
        ("semseg", np.zeros((2, 2, 3), dtype=np.uint8), r"a.png: the label has shape \(2, 2, 3\), not \(H, W\)"),
        ("edges", np.array([[0, 2]]), "a.png: label values 2 are out of range: 0 to 1"),
        ("depth", np.zeros((2, 2), dtype=np.uint16), "a.png: the depth is uint16"),
        ("normals", np.full((1, 1, 3), 0.9), "row 0, column 0 has length 1.559"),
        ("normals", np.full((1, 1, 3), np.nan), "not finite"),
        ("normals", np.zeros((2, 2)), r"not \(H, W, 3\)"),
        ("distance", np.array([[0.5, 1.5]]), "a.png: value 1.5 is out of range: 0 to 1"),
    ],
)
def test_wrong_labels_are_named(name, label, message):
    with pytest.raises(DataError, match=message):
        kind_of(name).check(label, "a.png")


@pytest.mark.parametrize(("scale", "unit"), [(1000, "millimetres"), (100, "centimetres")])
def test_depth_in_another_unit_is_warned_of(scale, unit):
    label = np.array([[0.7, 9.1, 0.0]], dtype=np.float32) * scale
    with pytest.warns(UserWarning, match=f"a.png: depth from {0.7 * scale:g} to {9.1 * scale:g}; .* {unit}"):
        build_kind("depth").check(label, "a.png")


@pytest.mark.parametrize("name", list(KINDS))
def test_pictures(name):
    kind, (output, label) = kind_of(name), batch(name)
    invalid = ~kind.valid(label)[0].numpy()
    truth, prediction = kind.picture(label[0]), kind.picture(output[0], label[0])
    for picture in (truth, prediction):
        assert picture.dtype == np.uint8 and picture.shape == (12, 12, 3)
        assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 1
    assert not truth[invalid].any() and truth[~invalid].any()


def test_pictures_of_truth_and_perfect_prediction_agree():
    label = torch.rand(1, 6, 6) + 0.5
    for name in ("depth", "regression"):
        kind = build_kind(name)
        assert np.array_equal(kind.picture(label), kind.picture(label, label))
    kind = build_kind("semseg", classes=4)
    classes = torch.randint(4, (6, 6))
    assert np.array_equal(kind.picture(classes), kind.picture(torch.eye(4)[classes].movedim(-1, 0)))
