"""The two ends every method lies between: training a head only, and training everything.

Linear probe: Kornblith, Shlens, Le, "Do Better ImageNet Models Transfer Better?", CVPR 2019 (arXiv 1805.08974).
"""

from __future__ import annotations

from dataclasses import dataclass

from mtpeft.methods.base import MethodConfig, NoSites, SiteModule
from mtpeft.methods.spec import Properties, register


@dataclass(frozen=True, kw_only=True)
class _SitelessConfig(MethodConfig):
    """Neither end acts at a site, so nothing can be chosen or left out."""

    sites: NoSites = ()
    blocks: None = None
    exclude: NoSites = ()


@dataclass(frozen=True, kw_only=True)
class LinearProbeConfig(_SitelessConfig):
    """Nothing to set: no site of the backbone is used."""


@dataclass(frozen=True, kw_only=True)
class FullConfig(_SitelessConfig):
    """Nothing to set: every weight of the backbone is trained."""


@register(
    "linear_probe",
    LinearProbeConfig,
    paper="Kornblith et al., CVPR 2019 (arXiv 1805.08974)",
    properties=Properties(
        no_added_modules=True,
        structure_preserving=True,
        inference_efficient=True,
        memory_efficient=True,
        head_only=True,
    ),
    weights="0",
)
class LinearProbe(SiteModule):
    """Nothing besides the task's head is trained."""


@register(
    "full",
    FullConfig,
    paper="the reference of every paper above",
    properties=Properties(no_added_modules=True, structure_preserving=True, inference_efficient=True),
    owned=lambda config, anatomy: [name for name, _ in anatomy.backbone.named_parameters()],
    weights="(3 * p ** 2 + n + 5) * d + L * (4 * d ** 2 + 2 * d * m + 9 * d + m)",
)
class Full(SiteModule):
    """The backbone's own parameters are trained, shared by all tasks; `detach` restores what they were."""
