"""Conformance checks of attaching: a backbone that stays itself, before, during and after."""

from __future__ import annotations

import copy
from typing import Any

import torch

from mtpeft.errors import ConfigError
from mtpeft.testing.case import FRAMES, Case, Snapshot, clips, images, perturb, training


def check_refusal(case: Case) -> None:
    """On a backbone without the method's sites, attaching is a `ConfigError` and changes nothing."""
    backbone = case.backbone()
    before = Snapshot(backbone, case)
    try:
        case.attach(backbone)
    except ConfigError as error:
        case.require(
            case.name in str(error) and "\n" not in str(error), f"the refusal {str(error)!r} must name the method"
        )
    else:
        raise case.fail("attached to a backbone whose sites it does not claim")
    before.compare(backbone, "after a refused attach")


def check_detach(case: Case) -> None:
    """Attach, train a step, detach: the same object with the same bits, flags and modes, and no hook."""
    backbone = case.backbone().train()
    next(backbone.parameters()).requires_grad_(False)
    before = Snapshot(backbone, case)
    manager = case.attach(backbone)
    case.add_task(manager, "birds", num_classes=3)
    case.require(manager.backbone is backbone, "the backbone is another object under the method")
    case.require(backbone.state_dict().keys() == before.weights.keys(), "the backbone's own state_dict has other keys")
    training(manager)(case.inputs(2), "birds").sum().backward()
    manager.zero_grad()
    perturb(manager)
    case.require(manager.detach() is backbone, "detach returns another object")
    before.compare(backbone, "after detach")


def check_identity(case: Case) -> None:
    """At step 0 features are the backbone's own where the method claims it, and others where it does not."""
    backbone = case.backbone()
    with torch.no_grad():
        plain = _outputs(backbone)
        manager = case.attach(backbone)
        case.add_task(manager, "birds", num_classes=3)
        attached = _outputs(backbone)
    if case.spec.properties.identity_at_init:
        instrumented = any("forward" in vars(module) for module in backbone.modules())
        case.close(attached, plain, "identity at init", atol=1e-5 if instrumented else 0)
    else:
        same = all(torch.allclose(found, own, atol=1e-6) for found, own in zip(attached, plain, strict=True))
        case.require(not same, "is the identity at init but claims not to be")


def _outputs(backbone: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Features and pooled features: where tokens are averaged the final norm comes after the pooling."""
    features = backbone.forward_features(images())
    return features, backbone.forward_head(features, pre_logits=True)


def check_intermediates(case: Case) -> None:
    """`forward_intermediates` works under the method, with timm's own shapes."""
    backbone = case.backbone()
    with torch.no_grad():
        plain = backbone.forward_intermediates(images(2), intermediates_only=True)
        manager = case.attach(backbone)
        case.add_task(manager, "birds", num_classes=3)
        attached = backbone.forward_intermediates(images(2), intermediates_only=True)
    shapes = [tuple(t.shape) for t in attached]
    expected = [tuple(t.shape) for t in plain]
    case.require(shapes == expected, f"forward_intermediates gives {shapes}, the plain backbone {expected}")


def check_deepcopy(case: Case) -> None:
    """A deep copy gives the same outputs, and neither side feels the other's changes."""
    manager = case.manager().eval()
    twin = copy.deepcopy(manager)
    with torch.no_grad():
        before = manager(case.inputs(), "birds")
        case.close(twin(case.inputs(), "birds"), before, "outputs of a deep copy", atol=0)
        perturb(twin, std=0.5, seed=3)
        case.close(manager(case.inputs(), "birds"), before, "outputs after the deep copy was changed", atol=0)
        twin.head("birds").load_state_dict(manager.head("birds").state_dict())
        same = torch.equal(twin(case.inputs(), "birds"), before)
        features_move = bool(twin.attachments[0].selected) or case.spec.own_weights
        case.require(same != features_move, "a deep copy uses the original's weights")


def check_clips(case: Case) -> None:
    """To a method for images every frame of a clip is one; for others a still clip is its image at step 0.

    A batch with a task for every clip, and several tasks for each, equal each task alone. In double precision.
    """
    batch, tasks = clips().double(), ["birds", "depth", "cars", "birds"]
    manager = training(case.manager(double=True))
    with torch.no_grad():
        if not case.temporal:
            frames = batch.unbind(2)
            mean = torch.stack([manager.features(frame, "birds") for frame in frames]).mean(0)
            case.close(manager.features(batch, "birds"), mean, "features of clips against those of their frames")
            maps = torch.stack([manager(frame, "normals") for frame in frames], dim=2)
            case.close(manager(batch, "normals"), maps, "dense outputs of clips against those of their frames")
        elif case.spec.properties.identity_at_init:
            backbone, image = case.backbone().double(), images().double()
            plain = backbone.forward_head(backbone.forward_features(image), pre_logits=True)
            fresh = case.attach(backbone)
            case.add_task(fresh, "birds", num_classes=3)
            still = image.unsqueeze(2).expand(-1, -1, FRAMES, -1, -1)
            case.close(fresh.features(still, "birds"), plain, "features of a still clip at step 0", atol=1e-5)
        for task, (rows, output) in manager(batch, tasks).items():
            case.close(output, manager(batch[rows], task), f"mixed batch of clips: outputs of {task}")
        for task, output in manager.forward_tasks(batch, ["birds", "normals"]).items():
            case.close(output, manager(batch, task), f"forward_tasks of clips: output of {task}")
