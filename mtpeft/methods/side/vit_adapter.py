"""ViT-Adapter: a convolutional branch that exchanges with a plain ViT and gives it the four scales of a pyramid.

Chen et al., "Vision Transformer Adapter for Dense Predictions", ICLR 2023 (arXiv 2205.08534), section 3. A spatial prior
module makes three maps of the image; before each group of blocks an injector adds to the tokens what they read in the maps,
behind it extractors add to the maps what these read in the tokens. Heads of several scales read maps of strides 4 to 32, all
as wide as the ViT; pooled features and the single map are the ViT's own, as injectors have changed them.

The authors train the ViT, too; here it is frozen (to train both: `["vit_adapter", "full"]`). Prefix tokens, which
they drop, pass by injectors and extractors, as in their BEiT. With few images per device take `norm="group"`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from timm.layers import DropPath
from torch import nn

from mtpeft.backbones.site import CHANGED, Site, Stage
from mtpeft.methods.base import MethodConfig, SiteModule, Sites
from mtpeft.methods.side.deformable import DeformableAttention, centres
from mtpeft.methods.side.maps import beside_maps, resized
from mtpeft.methods.spec import Properties, register
from mtpeft.options import Count, NotNegative, Positive, Rate, WholeNumber


@dataclass(frozen=True, kw_only=True)
class ViTAdapterConfig(MethodConfig):
    """`num_heads`, `num_points` and `deform_ratio` (width of the values) of deformable attention: 12, 4, 0.5 for ViT-B.

    (6, 4, 1.0 for ViT-T and ViT-S; 16, 4, 0.5 for ViT-L.) `conv_dim` channels of the stem; `ffn_ratio` of the convolutional
    FFN, 0 for none; `interactions`: groups of blocks; `extra_extractors` behind the last; `drop_path` of the FFN. `reads`:
    each scale adds the tokens behind its group (each, for segmentation) or the last ones (last, for detection).
    """

    sites: Sites = ("pixels", "entry", "block", "scales")
    num_heads: Count = 12
    num_points: Count = 4
    deform_ratio: Positive = 0.5
    conv_dim: Count = 64
    ffn_ratio: NotNegative = 0.25
    interactions: Count = 4
    extra_extractors: WholeNumber = 2
    drop_path: Rate = 0.3
    reads: Literal["each", "last"] = "each"
    norm: Literal["batch", "group"] = "batch"


def group_ends(config: ViTAdapterConfig, depth: int) -> list[int]:
    """The last block of each group."""
    return sorted({max(0, round((i + 1) * depth / config.interactions) - 1) for i in range(config.interactions)})


def sequence(maps: Sequence[torch.Tensor]) -> torch.Tensor:
    """Maps (B, d, H_i, W_i) -> tokens (B, sum H_i W_i, d)."""
    return torch.cat([m.flatten(2).transpose(1, 2) for m in maps], dim=1)


def sizes_of(maps: Sequence[torch.Tensor]) -> list[tuple[int, int]]:
    """(H_i, W_i) of maps."""
    return [(m.shape[2], m.shape[3]) for m in maps]


def split(tokens: torch.Tensor, sizes: Sequence[tuple[int, int]]) -> list[torch.Tensor]:
    """The reverse of `sequence`."""
    parts = tokens.split([h * w for h, w in sizes], dim=1)
    return [part.transpose(1, 2).unflatten(2, size) for part, size in zip(parts, sizes, strict=True)]


def batch_or_group(config: ViTAdapterConfig, channels: int) -> nn.Module:
    """The norm of maps."""
    if config.norm == "batch":
        return nn.BatchNorm2d(channels)
    return nn.GroupNorm(math.gcd(32, channels), channels)


def init(module: nn.Module) -> None:
    """Linear layers truncated normal, convolutions by their fan out, biases zero."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
    elif isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
        fan = module.kernel_size[0] * module.kernel_size[1] * module.out_channels // module.groups
        nn.init.normal_(module.weight, std=math.sqrt(2 / fan))
    if isinstance(module, (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)) and module.bias is not None:
        nn.init.zeros_(module.bias)


class SpatialPrior(nn.Module):
    """Images -> the stem's map at stride 4 and three maps of the ViT's width at strides 8, 16 and 32."""

    def __init__(self, config: ViTAdapterConfig, site: Site) -> None:
        super().__init__()
        c, d = config.conv_dim, site.embed_dim

        def conv(inside: int, outside: int, stride: int = 2) -> nn.Sequential:
            layer = nn.Conv2d(inside, outside, 3, stride, 1, bias=False)
            return nn.Sequential(layer, batch_or_group(config, outside), nn.ReLU())

        self.stem = nn.Sequential(conv(site.in_channels, c), conv(c, c, 1), conv(c, c, 1), nn.MaxPool2d(3, 2, 1))
        self.convs = nn.ModuleList([conv(c, 2 * c), conv(2 * c, 4 * c), conv(4 * c, 4 * c)])
        self.project = nn.ModuleList([nn.Conv2d(width, d, 1) for width in (2 * c, 4 * c, 4 * c)])
        self.level_embed = nn.Parameter(torch.randn(3, d))
        self.apply(init)

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """The images, the stem's map (B, c, H / 4, W / 4), and the three maps (B, d, ., .), which know their level."""
        maps, finest = [], self.stem(x)
        inner = finest
        for conv, project, level in zip(self.convs, self.project, self.level_embed, strict=True):
            inner = conv(inner)
            maps.append(project(inner) + level[:, None, None])
        return y, finest, *maps


class Injector(nn.Module):
    """x + gamma * attention(LN(x), LN(c)); gamma zero at the start."""

    def __init__(self, config: ViTAdapterConfig, site: Site) -> None:
        super().__init__()
        self.site, d = site, site.dim
        self.norm_x, self.norm_c = nn.LayerNorm(d, eps=1e-6), nn.LayerNorm(d, eps=1e-6)
        self.attention = DeformableAttention(d, config.num_heads, 3, config.num_points, config.deform_ratio)
        self.gamma = nn.Parameter(torch.zeros(d))

    def forward(self, x: torch.Tensor, y: torch.Tensor, *state: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """What enters the group, changed, and the state as it is."""
        maps = state[1:4]

        def inject(patches: torch.Tensor) -> torch.Tensor:
            size, tokens = sizes_of([patches]), sequence([patches])
            places, given = centres(size, tokens), self.norm_c(sequence(maps))
            read = self.attention(self.norm_x(tokens), places, given, sizes_of(maps))
            return split(tokens + self.gamma * read, size)[0]

        return beside_maps(self.site, x, inject), *state


class ConvFFN(nn.Module):
    """Linear, depthwise 3 x 3 convolution on each map, GELU, linear."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(dim, hidden), nn.Linear(hidden, dim)
        self.conv = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)
        self.apply(init)

    def forward(self, tokens: torch.Tensor, sizes: Sequence[tuple[int, int]]) -> torch.Tensor:
        """Tokens of maps of these sizes (B, S, d) -> (B, S, d)."""
        hidden = sequence([self.conv(m) for m in split(self.fc1(tokens), sizes)])
        return self.fc2(nn.functional.gelu(hidden))


class Extractor(nn.Module):
    """c + attention(LN(c), LN(x)), then c + drop_path(ConvFFN(LN(c)))."""

    def __init__(self, config: ViTAdapterConfig, dim: int) -> None:
        super().__init__()
        self.norm_c, self.norm_x = nn.LayerNorm(dim, eps=1e-6), nn.LayerNorm(dim, eps=1e-6)
        self.attention = DeformableAttention(dim, config.num_heads, 1, config.num_points, config.deform_ratio)
        hidden = int(config.ffn_ratio * dim)
        self.norm = nn.LayerNorm(dim, eps=1e-6) if hidden else None
        self.ffn = ConvFFN(dim, hidden) if hidden else None
        self.drop_path = DropPath(config.drop_path)

    def forward(self, maps: Sequence[torch.Tensor], patches: torch.Tensor) -> list[torch.Tensor]:
        """Three maps, and the tokens' own (B, d, h, w) -> the maps."""
        sizes, c = sizes_of(maps), sequence(maps)
        given = self.norm_x(sequence([patches]))
        c = c + self.attention(self.norm_c(c), centres(sizes, c), given, sizes_of([patches]))
        if self.ffn is not None and self.norm is not None:
            c = c + self.drop_path(self.ffn(self.norm(c), sizes))
        return split(c, sizes)


class Extraction(nn.Module):
    """The extractors behind one group of blocks, one after another on the same tokens."""

    def __init__(self, config: ViTAdapterConfig, site: Site) -> None:
        super().__init__()
        self.site = site
        number = 1 + (config.extra_extractors if site.block == site.depth - 1 else 0)
        self.extractors = nn.ModuleList([Extractor(config, site.dim) for _ in range(number)])

    def forward(self, x: torch.Tensor, y: torch.Tensor, *state: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """What leaves the group as it is; the state with new maps, and the tokens' map at its end."""
        finest, *maps = state[:4]
        patches = self.site.split_prefix(y)[1]
        for extractor in self.extractors:
            maps = extractor(maps, patches)
        return y, finest, *maps, *state[4:], patches


class Pyramid(nn.Module):
    """f_1 = norm(up(c_2) + project(stem) + x), f_i = norm(c_i + x), x the tokens' map at the size of f_i."""

    def __init__(self, config: ViTAdapterConfig, site: Site) -> None:
        super().__init__()
        d = site.embed_dim  # not that of the features, which a neck may narrow
        self.project = nn.Conv2d(config.conv_dim, d, 1)
        self.up = nn.ConvTranspose2d(d, d, 2, 2)
        self.apply(init)
        self.norms = nn.ModuleList([batch_or_group(config, d) for _ in range(4)])
        self.last, self.own = config.reads == "last", len(site.stages)

    def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """The backbone's own maps, which are not used, and the state -> four maps (B, d, ., .)."""
        finest, c2, c3, c4, *tokens = inputs[self.own :]
        side = self.project(finest)
        c1 = self.up(c2)[:, :, : side.shape[2], : side.shape[3]] + side
        numbers = [-1 if self.last else max(0, round((i + 1) * len(tokens) / 4) - 1) for i in range(4)]
        maps = [c + resized(tokens[n], c.shape[2:]) for n, c in zip(numbers, (c1, c2, c3, c4), strict=True)]
        return tuple(norm(m) for norm, m in zip(self.norms, maps, strict=True))


PARTS: dict[str, Any] = {"pixels": SpatialPrior, "entry": Injector, "block": Extraction, "scales": Pyramid}


@register(
    "vit_adapter",
    ViTAdapterConfig,
    paper="Chen et al., ICLR 2023 (arXiv 2205.08534)",
    properties=Properties(),
    weights=(
        "252 * c ** 2 + 53 * c + 11 * c * d + 4 * d ** 2 + 16 * d + interactions * (k + 6 * d + 9 * a) + "
        "(interactions + extra_extractors) * (k + 8 * d + 3 * a + (2 * d + 11) * f) where c = conv_dim, v = "
        "deform_ratio * d, k = (2 * d + 1) * v, a = num_heads * num_points * (d + 1), f = ffn_ratio * d"
    ),
)
class ViTAdapter(SiteModule):
    """c = prior(image); per group of blocks: x + gamma attention(x, c), the blocks, c + attention(c, x), c + FFN(c).

    The state is the stem's map, three maps c, and the tokens' map behind every group so far.
    """

    stateful: ClassVar[bool] = True
    styles: ClassVar[tuple[str, ...]] = (*CHANGED, "scales")

    def __init__(self, config: ViTAdapterConfig, site: Site) -> None:
        super().__init__(config, site)
        self.part = PARTS[site.kind](config, site)

    def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """As the part at this site has it."""
        return self.part(*inputs)

    @staticmethod
    def chosen(config: Any, sites: Sequence[Site], every: Sequence[Site]) -> Sequence[Site]:
        """Injectors before the groups of blocks, extractors behind them."""
        ends = group_ends(config, sites[0].depth) if sites else []
        places = {"entry": {0, *(end + 1 for end in ends)}, "block": set(ends)}
        return [site for site in sites if site.block is None or site.block in places.get(site.kind, ())]

    @staticmethod
    def unsupported(config: Any, sites: Sequence[Site]) -> str | None:
        """One scale, whose width the values of the heads divide; the image, both ends of every group, and the maps."""
        if foreign := sorted({site.kind for site in sites} - set(PARTS)):
            return f"it cannot act at the sites {', '.join(foreign)}"
        ends = group_ends(config, sites[0].depth)
        starts = [0, *(end + 1 for end in ends[:-1])]
        needed = {("pixels", None), ("scales", None), *(("entry", b) for b in starts), *(("block", b) for b in ends)}
        if needed - {(site.kind, site.block) for site in sites}:
            return (
                "it reads the image and exchanges with every group of blocks; blocks= and exclude= cannot leave any out"
            )
        inner = [site for site in sites if site.block is not None]
        if len({(site.dim, site.grid) for site in inner}) > 1 or (0, 0) in {site.grid for site in inner}:
            return "it makes a pyramid of a plain transformer's one scale, and the model has several"
        width = config.deform_ratio * inner[0].dim
        if width != int(width) or int(width) % config.num_heads:
            ratio = f"deform_ratio={config.deform_ratio:g}"
            return f"num_heads={config.num_heads} do not divide values of width {ratio} x {inner[0].dim}"
        return None

    @staticmethod
    def head_scales(config: Any, stages: Sequence[Stage]) -> Sequence[Stage]:
        """Strides 4, 8, 16 and 32 at the width of the transformer."""
        return [Stage(stages[-1].dim, stride, stages[-1].block) for stride in (4, 8, 16, 32)]
