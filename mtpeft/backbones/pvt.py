"""PVT, the Pyramid Vision Transformer (Wang et al., ICCV 2021): `pvt_tiny`, `pvt_small`, `pvt_medium` and `pvt_large`.

Importing this module makes them timm models. Four stages of strides 4, 8, 16 and 32, each a patch embedding, learned positions
and blocks whose keys and values are those of a map made R times smaller (spatial-reduction attention, section 3.3); a class
token joins the last stage. timm has PVTv2 alone, whose patches overlap and whose MLPs hold convolutions.

Weights have the names of the published checkpoints (repository whai362/PVT), so that their state dicts load with
`strict=True`: `patch_embed{s}.proj`, `patch_embed{s}.norm`, `pos_embed{s}`, `block{s}.{i}.` with `norm1`, `attn.q`, `attn.kv`,
`attn.proj`, `attn.sr` and `attn.norm` (stages 1 to 3), `norm2`, `mlp.fc1` and `mlp.fc2`, for the stages s = 1 to 4; then
`cls_token`, `norm` and `head`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from timm.layers import DropPath, Mlp, trunc_normal_, use_fused_attn
from timm.models import generate_default_cfgs
from timm.models._features import feature_take_indices
from torch import nn
from torch.nn import functional as F

from mtpeft.backbones.published import ClassTokenModel, card, enter, unwrapped

#: blocks in each stage (table 1 of the paper)
DEPTHS = {
    "pvt_tiny": (2, 2, 2, 2),
    "pvt_small": (3, 4, 6, 3),
    "pvt_medium": (3, 4, 18, 3),
    "pvt_large": (3, 8, 27, 3),
}
#: what makes a norm of the stream; those of embeddings and reduced maps keep torch's epsilon
NORM = partial(nn.LayerNorm, eps=1e-6)


class Attention(nn.Module):
    """Spatial-reduction attention: tokens (B, N, C) ask a map `sr_ratio` times smaller on each side (equations 1 to 3)."""

    def __init__(self, dim: int, num_heads: int, sr_ratio: int, bias: bool, attn_drop: float, drop: float) -> None:
        """`bias`: whether queries, keys and values have one. Without reduction there is no `sr` and no `norm`."""
        super().__init__()
        self.num_heads, self.scale, self.fused_attn = num_heads, (dim // num_heads) ** -0.5, use_fused_attn()
        self.q, self.kv = nn.Linear(dim, dim, bias=bias), nn.Linear(dim, 2 * dim, bias=bias)
        self.sr = nn.Conv2d(dim, dim, sr_ratio, stride=sr_ratio) if sr_ratio > 1 else None
        self.norm = nn.LayerNorm(dim) if sr_ratio > 1 else None
        self.attn_drop, self.proj, self.proj_drop = nn.Dropout(attn_drop), nn.Linear(dim, dim), nn.Dropout(drop)

    def forward(self, x: torch.Tensor, feat_size: tuple[int, int]) -> torch.Tensor:
        """(B, N, C), tokens of a map of height and width `feat_size` -> the same shape."""
        reduced = x
        if self.sr is not None and self.norm is not None:
            reduced = self.sr(x.transpose(1, 2).unflatten(2, feat_size))
            reduced = self.norm(reduced.flatten(2).transpose(1, 2))
        q, k, v = (self._heads(part) for part in (self.q(x), *self.kv(reduced).chunk(2, dim=-1)))
        if self.fused_attn:
            attended = F.scaled_dot_product_attention(q, k, v, dropout_p=self.attn_drop.p if self.training else 0.0)
        else:
            attended = self.attn_drop((self.scale * q @ k.transpose(-2, -1)).softmax(dim=-1)) @ v
        projected: torch.Tensor = self.proj_drop(self.proj(attended.transpose(1, 2).flatten(2)))
        return projected

    def _heads(self, x: torch.Tensor) -> torch.Tensor:
        """(B, N, C) -> (B, heads, N, C / heads)."""
        return x.unflatten(2, (self.num_heads, -1)).transpose(1, 2)


class Block(nn.Module):
    """Attention and MLP, each behind a norm and beside the stream; a map's tokens (B, N, C) -> the same shape."""

    def __init__(self, dim: int, num_heads: int, mlp_ratio: float, drop: float, drop_path: float, **more: Any) -> None:
        """`more`: the other arguments of `Attention`."""
        super().__init__()
        self.norm1, self.attn = NORM(dim), Attention(dim, num_heads, drop=drop, **more)
        self.drop_path1 = DropPath(drop_path) if drop_path > 0 else nn.Identity()
        self.norm2, self.mlp = NORM(dim), Mlp(dim, int(dim * mlp_ratio), drop=drop)
        self.drop_path2 = DropPath(drop_path) if drop_path > 0 else nn.Identity()

    def forward(self, x: torch.Tensor, feat_size: tuple[int, int]) -> torch.Tensor:
        """`feat_size`: height and width of the map."""
        x = x + self.drop_path1(self.attn(self.norm1(x), feat_size))
        return x + self.drop_path2(self.mlp(self.norm2(x)))


class PatchEmbed(nn.Module):
    """Patches side by side, embedded and normed: maps (B, C, H, W) -> (B, H / p, W / p, D)."""

    def __init__(self, patch_size: int, in_chans: int, dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_chans, dim, patch_size, stride=patch_size)
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """What is no whole patch is left out."""
        normed: torch.Tensor = self.norm(self.proj(x).permute(0, 2, 3, 1))
        return normed


class PyramidVisionTransformer(ClassTokenModel):
    """PVT of any size. Images (B, 3, H, W) -> tokens (B, 1 + H W / 32^2, C), the class token first -> classes.

    Images of another size than `img_size` are taken: positions are resampled bilinearly, as the authors' code does.
    `num_prefix_tokens` counts the class token, which is there in the last stage alone.
    """

    def __init__(
        self,
        img_size: int | tuple[int, int] = 224,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = "token",
        depths: Sequence[int] = DEPTHS["pvt_tiny"],
        embed_dims: Sequence[int] = (64, 128, 320, 512),
        num_heads: Sequence[int] = (1, 2, 5, 8),
        sr_ratios: Sequence[int] = (8, 4, 2, 1),
        mlp_ratios: Sequence[float] = (8, 8, 4, 4),
        qkv_bias: bool = True,
        drop_rate: float = 0.0,
        proj_drop_rate: float = 0.0,
        attn_drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
    ) -> None:
        """Names as in timm: `drop_rate` is that of the head, `proj_drop_rate` that of the layers."""
        super().__init__(in_chans, embed_dims[-1], num_classes, global_pool, drop_rate)
        self.img_size = (img_size, img_size) if isinstance(img_size, int) else tuple(img_size)
        self.depths = list(depths)
        self.grids: list[tuple[int, int]] = []  # the maps that the positions are of
        rates = iter(torch.linspace(0, drop_path_rate, sum(depths), device="cpu").tolist())
        shared: dict[str, Any] = {"bias": qkv_bias, "attn_drop": attn_drop_rate, "drop": proj_drop_rate}
        (height, width), channels = self.img_size, in_chans
        for stage, (depth, dim) in enumerate(zip(depths, embed_dims, strict=True)):
            patch, more = (2 if stage else 4), {"sr_ratio": sr_ratios[stage], "mlp_ratio": mlp_ratios[stage], **shared}
            height, width = height // patch, width // patch
            self.grids.append((height, width))
            tokens = height * width + (1 if stage == len(depths) - 1 else 0)
            blocks = [Block(dim, num_heads[stage], drop_path=next(rates), **more) for _ in range(depth)]
            setattr(self, f"patch_embed{stage + 1}", PatchEmbed(patch, channels, dim))
            setattr(self, f"pos_embed{stage + 1}", nn.Parameter(torch.zeros(1, tokens, dim)))
            setattr(self, f"pos_drop{stage + 1}", nn.Dropout(proj_drop_rate))
            setattr(self, f"block{stage + 1}", nn.ModuleList(blocks))
            channels = dim
        self.norm = NORM(channels)
        self.feature_info = [
            {"num_chs": dim, "reduction": 4 * 2**stage, "module": f"block{stage + 1}"}
            for stage, dim in enumerate(embed_dims)
        ]
        self.init_weights()
        for stage in range(len(depths)):
            trunc_normal_(self._stage(stage)[1], std=0.02)

    @property
    def patch_embed(self) -> PatchEmbed:
        """What takes the images."""
        embed: PatchEmbed = self.get_submodule("patch_embed1")  # type: ignore[assignment]
        return embed

    def _stage(self, stage: int) -> tuple[Any, Any, Any, Any]:
        """Patch embedding, positions, their dropout and blocks of one stage, counted from 0."""
        embed, positions, drop, blocks = (
            getattr(self, f"{n}{stage + 1}") for n in ("patch_embed", "pos_embed", "pos_drop", "block")
        )
        return embed, positions, drop, blocks

    def _run(self, x: torch.Tensor, stage: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Images or a map (B, C, H, W) through one stage -> tokens (B, N, D) and their map (B, D, H', W')."""
        embed, positions, drop, blocks = self._stage(stage)
        x = embed(x)
        grid = (x.shape[1], x.shape[2])
        tokens = x.flatten(1, 2)
        last = stage == len(self.feature_info) - 1
        if last:
            tokens = self.with_class_token(tokens)
        tokens = drop(tokens + resampled(positions, self.grids[stage], grid))
        for block in blocks:
            tokens = self.run(block, tokens, grid)
        patches = tokens[:, 1:] if last else tokens
        return tokens, patches.transpose(1, 2).unflatten(2, grid)

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        """Images (B, 3, H, W) -> normed tokens of the last stage, (B, 1 + N, C)."""
        tokens = x
        for stage in range(len(self.depths)):
            tokens, x = self._run(x, stage)
        normed: torch.Tensor = self.norm(tokens)
        return normed

    def forward_intermediates(
        self,
        x: torch.Tensor,
        indices: int | list[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[torch.Tensor] | tuple[torch.Tensor, list[torch.Tensor]]:
        """The maps that leave the stages `indices`, (B, C, H, W), after the final tokens; `norm`: the last one normed."""
        if output_fmt != "NCHW":
            raise ValueError(f"output_fmt={output_fmt!r}: PVT's intermediates are maps, NCHW")
        take, furthest = feature_take_indices(len(self.depths), indices)
        maps, tokens, last = [], x, len(self.depths) - 1
        end = furthest if stop_early else last
        for stage in range(end + 1):
            tokens, x = self._run(x, stage)
            if stage in take:
                normed = norm and stage == last
                maps.append(self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2) if normed else x)
        if intermediates_only:
            return maps
        return self.norm(tokens) if end == last else tokens, maps

    def prune_intermediate_layers(
        self, indices: int | list[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Drop the stages behind the last of `indices`, and what reads them."""
        take, furthest = feature_take_indices(len(self.depths), indices)
        pruned = furthest < len(self.depths) - 1
        for stage in range(furthest + 1, len(self.depths)):
            for name in ("patch_embed", "pos_embed", "pos_drop", "block"):
                delattr(self, f"{name}{stage + 1}")
        self.depths = self.depths[: furthest + 1]
        if pruned:  # the class token comes with the last stage
            self.num_features = self.head_hidden_size = self.embed_dim = self.feature_info[furthest]["num_chs"]
            self.num_prefix_tokens = 0
        if prune_norm or pruned:
            self.norm = nn.Identity()
        if prune_head or pruned:
            self.reset_classifier(0, "")
        return take


def resampled(positions: torch.Tensor, own: tuple[int, int], grid: tuple[int, int]) -> torch.Tensor:
    """Positions (1, P + h w, C) of a map of size `own` (h, w), those of P tokens before it first -> (1, P + H W, C)."""
    if own == grid:
        return positions
    before, of_map = positions.tensor_split([positions.shape[1] - own[0] * own[1]], dim=1)
    maps = F.interpolate(of_map.transpose(1, 2).unflatten(2, own), size=grid, mode="bilinear", align_corners=False)
    return torch.cat([before, maps.flatten(2).transpose(1, 2)], dim=1)


def checkpoint_filter_fn(state: dict[str, Any], model: PyramidVisionTransformer) -> dict[str, torch.Tensor]:
    """A published checkpoint as a state dict of `model`, positions of another image size resampled."""
    weights = unwrapped(state)
    for stage, grid in enumerate(model.grids):
        name = f"pos_embed{stage + 1}"
        if name in weights:
            side = int(
                weights[name].shape[1] ** 0.5
            )  # published maps are square; one class token does not reach a square
            weights[name] = resampled(weights[name], (side, side), grid)
    return weights


default_cfgs = generate_default_cfgs(
    {
        f"{name}.in1k": card(
            f"https://github.com/whai362/PVT/releases/download/v2/{name}.pth",
            pool_size=(7, 7),
            first_conv="patch_embed1.proj",
            license="apache-2.0",
        )
        for name in DEPTHS
    }
)
for _name, _depths in DEPTHS.items():
    enter(_name, PyramidVisionTransformer, checkpoint_filter_fn, (0, 1, 2, 3), __name__, depths=_depths)
