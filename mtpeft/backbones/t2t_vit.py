"""T2T-ViT (Yuan et al., ICCV 2021): a deep narrow ViT whose tokens are made of overlapping tokens, step by step.

Importing this module makes `t2t_vit_7`, `_10`, `_12`, `_14`, `_19` and `_24` timm models, whose token-to-token steps are
performers, and `t2t_vit_t_14`, `_t_19` and `_t_24`, where they are transformers (tables 1 and 2). Each step is a narrow
self-attention over the tokens, then a soft split: windows of the token map that overlap, each one new token (section 3.1).

Weights have the names of the published checkpoints (repository yitu-opensource/T2T-ViT), so that their state dicts load with
`strict=True`: `tokens_to_token.attention1.` and `.attention2.` with `w`, `norm1`, `kqv`, `proj`, `norm2`, `mlp.0` and
`mlp.2` (performers) or `norm1`, `attn.qkv`, `attn.proj`, `norm2`, `mlp.fc1` and `mlp.fc2` (transformers);
`tokens_to_token.project`; `cls_token`, `pos_embed`; `blocks.{i}.` with `norm1`, `attn.qkv` (no bias), `attn.proj`, `norm2`,
`mlp.fc1` and `mlp.fc2`; `norm` and `head`. Random features `w` and positions are fixed, so they are buffers here; published
numbers of weights count them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from timm.layers import Mlp, resample_abs_pos_embed
from timm.models import generate_default_cfgs
from timm.models._features import feature_take_indices
from timm.models.vision_transformer import Block
from torch import nn
from torch.nn import functional as F

from mtpeft.backbones.published import ClassTokenModel, card, enter, unwrapped

#: name -> kind of step, width, blocks, heads and MLP ratio (table 1 of the paper), and the file of the published weights
MODELS = {
    "t2t_vit_7": ("performer", 256, 7, 4, 2, "71.7_T2T_ViT_7"),
    "t2t_vit_10": ("performer", 256, 10, 4, 2, "75.2_T2T_ViT_10"),
    "t2t_vit_12": ("performer", 256, 12, 4, 2, "76.5_T2T_ViT_12"),
    "t2t_vit_14": ("performer", 384, 14, 6, 3, "81.5_T2T_ViT_14"),
    "t2t_vit_19": ("performer", 448, 19, 7, 3, "81.9_T2T_ViT_19"),
    "t2t_vit_24": ("performer", 512, 24, 8, 3, "82.3_T2T_ViT_24"),
    "t2t_vit_t_14": ("transformer", 384, 14, 6, 3, "81.7_T2T_ViTt_14"),
    "t2t_vit_t_19": ("transformer", 448, 19, 7, 3, "82.4_T2T_ViTt_19"),
    "t2t_vit_t_24": ("transformer", 512, 24, 8, 3, "82.6_T2T_ViTt_24"),
}
#: windows of the soft splits: side, stride and padding
SPLITS = ((7, 4, 2), (3, 2, 1), (3, 2, 1))
PATCH = math.prod(stride for _, stride, _ in SPLITS)


class TokenPerformer(nn.Module):
    """A step by a performer of one head: attention by positive random features of the softmax kernel, linear in the tokens.

    Tokens (B, N, dim) -> (B, N, width). The values take the place of the shortcut, since the widths differ.
    """

    def __init__(self, dim: int, width: int, drop: float = 0.1) -> None:
        """width / 2 random features, orthogonal; `drop` as in the authors' code."""
        super().__init__()
        features = width // 2
        self.norm1, self.kqv = nn.LayerNorm(dim), nn.Linear(dim, 3 * width)
        self.register_buffer("w", nn.init.orthogonal_(torch.empty(features, width)) * math.sqrt(features))
        self.proj, self.dp, self.norm2 = nn.Linear(width, width), nn.Dropout(drop), nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, width), nn.Dropout(drop))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, N, dim) -> (B, N, width)."""
        k, q, v = self.kqv(self.norm1(x)).chunk(3, dim=-1)
        x = v + self.dp(self.proj(self._attend(k, q, v)))
        x = x + self.mlp(self.norm2(x))
        return x

    def _attend(self, k: torch.Tensor, q: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        """phi(q) (phi(k)^T v) over phi(q) (phi(k)^T 1), in float32 at least: its exponentials exceed half precision."""
        kind = v.device.type
        if kind != "meta" and torch.is_autocast_enabled(kind):  # shapes alone know no autocast
            with torch.autocast(kind, enabled=False):
                return self._attend(k, q, v)
        w = self.get_buffer("w")
        wide = torch.promote_types(v.dtype, torch.float32)
        k, q, values, w = k.to(wide), q.to(wide), v.to(wide), w.to(wide)
        k, q = (torch.exp(t @ w.T - t.square().sum(-1, keepdim=True) / 2) / math.sqrt(len(w)) for t in (k, q))
        total = (q * k.sum(dim=1, keepdim=True)).sum(dim=-1, keepdim=True)
        return (q @ (k.transpose(1, 2) @ values) / (total + 1e-8)).to(v.dtype)


class TokenAttention(nn.Module):
    """Softmax attention of one head from `dim` to `width` channels, its values added to what it gives."""

    def __init__(self, dim: int, width: int) -> None:
        """The logits are scaled by the width of the input, as in the authors' code."""
        super().__init__()
        self.scale = dim**-0.5
        self.qkv, self.proj = nn.Linear(dim, 3 * width, bias=False), nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, N, dim) -> (B, N, width)."""
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        attended: torch.Tensor = v + self.proj(F.scaled_dot_product_attention(q, k, v, scale=self.scale))
        return attended


class TokenTransformer(nn.Module):
    """A step by a transformer of one head: tokens (B, N, dim) -> (B, N, width)."""

    def __init__(self, dim: int, width: int) -> None:
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(dim), TokenAttention(dim, width)
        self.norm2, self.mlp = nn.LayerNorm(width), Mlp(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The MLP alone has a shortcut."""
        x = self.attn(self.norm1(x))
        x = x + self.mlp(self.norm2(x))
        return x


STEPS: dict[str, Callable[[int, int], nn.Module]] = {"performer": TokenPerformer, "transformer": TokenTransformer}


class TokensToToken(nn.Module):
    """Soft split, step, soft split, step, soft split, projection: images (B, C, H, W) -> a map (B, H / 16, W / 16, D)."""

    def __init__(
        self, img_size: tuple[int, int], tokens: str, in_chans: int, dim: int, token_dim: int, strict_img_size: bool
    ) -> None:
        """`tokens`: the kind of step. `strict_img_size`: whether images of another size than `img_size` are refused."""
        super().__init__()
        self.img_size, self.patch_size, self.strict_img_size = img_size, (PATCH, PATCH), strict_img_size
        self.in_chans, self.grid_size = in_chans, (img_size[0] // PATCH, img_size[1] // PATCH)
        widths = [in_chans, token_dim, token_dim]
        windows = [width * side**2 for width, (side, _, _) in zip(widths, SPLITS, strict=True)]
        self.attention1, self.attention2 = (STEPS[tokens](window, token_dim) for window in windows[:2])
        self.project = nn.Linear(windows[2], dim)

    @property
    def proj(self) -> nn.Linear:
        """The layer whose output is the map of tokens."""
        return self.project

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Raises `ValueError` for images of a size that is not taken."""
        if self.strict_img_size and tuple(x.shape[-2:]) != self.img_size:
            raise ValueError(f"images are {x.shape[-2]} x {x.shape[-1]}, the model is for {self.img_size}")
        for split, step in zip(SPLITS, (self.attention1, self.attention2), strict=False):
            x = step(soft_split(x, *split).flatten(1, 2)).transpose(1, 2).unflatten(2, split_size(x, *split))
        tokens: torch.Tensor = self.project(soft_split(x, *SPLITS[2]))
        return tokens


def split_size(x: torch.Tensor, side: int, stride: int, padding: int) -> tuple[int, int]:
    """Height and width of the map that the windows of x (B, C, H, W) form."""
    rows, columns = ((size + 2 * padding - side) // stride + 1 for size in x.shape[-2:])
    return rows, columns


def soft_split(x: torch.Tensor, side: int, stride: int, padding: int) -> torch.Tensor:
    """A map (B, C, H, W) -> its windows, which overlap, as tokens (B, H', W', C side^2)."""
    windows = F.unfold(x, side, stride=stride, padding=padding).transpose(1, 2)
    return windows.unflatten(1, split_size(x, side, stride, padding))


def sinusoid(tokens: int, dim: int) -> torch.Tensor:
    """Fixed positions (1, tokens, dim): sines on even channels, cosines on odd ones (Vaswani et al., 2017, section 3.5)."""
    rates = 10_000 ** (-2 * torch.div(torch.arange(dim, dtype=torch.float64), 2, rounding_mode="floor") / dim)
    angles = torch.arange(tokens, dtype=torch.float64).unsqueeze(1) * rates
    angles[:, 0::2], angles[:, 1::2] = angles[:, 0::2].sin(), angles[:, 1::2].cos()
    return angles.unsqueeze(0).to(torch.get_default_dtype())


class T2TViT(ClassTokenModel):
    """T2T-ViT of any size. Images (B, 3, H, W) -> tokens (B, 1 + H W / 16^2, C), the class token first -> classes.

    Images have the size `img_size`; with `dynamic_img_size` any size of multiples of 16 is taken, and positions are resampled.
    Logits are scaled by the width of a head, as where the authors evaluate the published weights.
    """

    def __init__(
        self,
        img_size: int | tuple[int, int] = 224,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = "token",
        tokens: str = "performer",
        embed_dim: int = 384,
        depth: int = 14,
        num_heads: int = 6,
        mlp_ratio: float = 3.0,
        token_dim: int = 64,
        dynamic_img_size: bool = False,
        drop_rate: float = 0.0,
        proj_drop_rate: float = 0.0,
        attn_drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
    ) -> None:
        """`tokens`: "performer" or "transformer"; `token_dim`: width of the token-to-token steps. Other names as in timm."""
        super().__init__(in_chans, embed_dim, num_classes, global_pool, drop_rate)
        size = (img_size, img_size) if isinstance(img_size, int) else (img_size[0], img_size[1])
        self.dynamic_img_size = dynamic_img_size
        self.tokens_to_token = TokensToToken(size, tokens, in_chans, embed_dim, token_dim, not dynamic_img_size)
        positions = 1 + math.prod(self.tokens_to_token.grid_size)
        self.register_buffer("pos_embed", sinusoid(positions, embed_dim))
        self.pos_drop = nn.Dropout(proj_drop_rate)
        drops: dict[str, Any] = {"proj_drop": proj_drop_rate, "attn_drop": attn_drop_rate}
        rates = torch.linspace(0, drop_path_rate, depth, device="cpu").tolist()
        blocks = (
            Block(embed_dim, num_heads, mlp_ratio, drop_path=rate, norm_layer=nn.LayerNorm, **drops) for rate in rates
        )
        self.blocks = nn.Sequential(*blocks)
        self.norm = nn.LayerNorm(embed_dim)
        self.feature_info = [{"num_chs": embed_dim, "reduction": PATCH, "module": f"blocks.{i}"} for i in range(depth)]
        self.init_weights()

    @property
    def patch_embed(self) -> TokensToToken:
        """What takes the images."""
        return self.tokens_to_token

    def _embed(self, x: torch.Tensor) -> tuple[torch.Tensor, tuple[int, int]]:
        """Images -> class token and tokens with positions, (B, 1 + N, C), and the map they form."""
        x = self.tokens_to_token(x)
        grid = (x.shape[1], x.shape[2])
        positions = self.get_buffer("pos_embed")
        if self.dynamic_img_size:
            own = list(self.tokens_to_token.grid_size)
            positions = resample_abs_pos_embed(positions, list(grid), old_size=own, num_prefix_tokens=1)
        return self.pos_drop(self.with_class_token(x.flatten(1, 2)) + positions), grid

    def _blocks(self, x: torch.Tensor, end: int | None = None) -> list[torch.Tensor]:
        """What leaves each block before `end`."""
        outputs = []
        for block in self.blocks[:end]:
            x = self.run(block, x)
            outputs.append(x)
        return outputs

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        """Images (B, 3, H, W) -> normed tokens (B, 1 + N, C)."""
        tokens = self._embed(x)[0]
        for block in self.blocks:
            tokens = self.run(block, tokens)
        normed: torch.Tensor = self.norm(tokens)
        return normed

    def forward_intermediates(
        self,
        x: torch.Tensor,
        indices: int | list[int] | None = None,
        return_prefix_tokens: bool = False,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> Any:
        """What leaves the blocks `indices`, after the final tokens: maps (B, C, H, W), or tokens ("NLC").

        `norm`: normed as the final tokens are. With `return_prefix_tokens` each comes with its class token.
        """
        if output_fmt not in ("NCHW", "NLC"):
            raise ValueError(f"output_fmt={output_fmt!r}: T2T-ViT's intermediates are NCHW or NLC")
        take, furthest = feature_take_indices(len(self.blocks), indices)
        x, grid = self._embed(x)
        outputs = self._blocks(x, furthest + 1 if stop_early else None)
        found: list[Any] = []
        for taken in (self.norm(outputs[i]) if norm else outputs[i] for i in take):
            prefix, patches = taken.tensor_split([self.num_prefix_tokens], dim=1)
            patches = patches.transpose(1, 2).unflatten(2, grid) if output_fmt == "NCHW" else patches
            found.append((patches, prefix) if return_prefix_tokens else patches)
        return found if intermediates_only else (self.norm(outputs[-1]), found)

    def prune_intermediate_layers(
        self, indices: int | list[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Drop the blocks behind the last of `indices`, and what reads them."""
        take, furthest = feature_take_indices(len(self.blocks), indices)
        self.blocks = self.blocks[: furthest + 1]
        if prune_norm:
            self.norm = nn.Identity()
        if prune_head:
            self.reset_classifier(0, "")
        return take


def checkpoint_filter_fn(state: dict[str, Any], model: T2TViT) -> dict[str, torch.Tensor]:
    """A published checkpoint as a state dict of `model`, positions of another image size resampled."""
    weights, grid = unwrapped(state), list(model.tokens_to_token.grid_size)
    if "pos_embed" in weights:
        weights["pos_embed"] = resample_abs_pos_embed(weights["pos_embed"], grid, num_prefix_tokens=1)
    return weights


default_cfgs = generate_default_cfgs(
    {
        f"{name}.in1k": card(
            f"https://github.com/yitu-opensource/T2T-ViT/releases/download/main/{values[-1]}.pth.tar",
            fixed_input_size=True,
            license="bsd-3-clause-clear",
        )
        for name, values in MODELS.items()
    }
)
for _name, _values in MODELS.items():
    _own = dict(zip(("tokens", "embed_dim", "depth", "num_heads", "mlp_ratio"), _values, strict=False))
    enter(_name, T2TViT, checkpoint_filter_fn, 3, __name__, **_own)
