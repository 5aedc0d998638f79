"""A site: one place of a backbone where a method may act."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import nn

from mtpeft.backbones.attention_families import attention_bias
from mtpeft.errors import ConfigError

#: How a site is reached. `output` and `input` change the output or the input of one module; `parallel` adds to a
#: residual branch and sees the branch's input; the others are described in `mtpeft/hooks/sites.py`,
#: `mtpeft/hooks/tokens.py` and `mtpeft/hooks/frames.py`.
STYLES = ("output", "input", "parallel", "tokens", "prefix", "queries", "logits", "side", "features", "scales")
#: styles of sites that see the frames of a clip together
FRAME_STYLES = ("frames", "frames_branch", "frames_output", "temporal", "temporal_in")
#: styles of sites where something has an output that a method changes
CHANGED = ("output", "input", "parallel")

#: kind of site -> what a model needs to have one, in plain words
NEEDS = {
    "tokens": "one flat token sequence, or Swin's windows",
    "queries": "one flat token sequence with one attention in every block",
    "prefix": "attention whose keys and values can be extended",
    "side": "one flat token sequence through plain blocks up to the model's `norm`",
    "features": "final features that one of its modules gives",
    "scales": "maps at the ends of its stages",
    "temporal": "blocks that norm before one attention that knows no places",
    "temporal_in": "blocks that norm before one attention that knows no places",
    "frames_mlp": "blocks of one attention and one MLP, one after the other",
    "frames_k": "attention that gets all tokens of an image in one row",
    "frames_v": "attention that gets all tokens of an image in one row",
    "position_table": "tables of relative positions",
    "reduction": "patch merging between stages",
    "final_norm": "a norm after the last block",
    "q": "a projection of queries",
    "k": "a projection of keys",
    "v": "a projection of values",
    "qkv": "projections of queries, keys and values that can be told apart",
    "proj": "an output projection of attention",
    "attention_in": "an attention of its own in every block",
    "mlp_in": "an MLP of its own in every block",
    "fc1": "an MLP of linear layers fc1 and fc2",
    "fc2": "an MLP of linear layers fc1 and fc2",
    "norm1": "a norm in the attention branch of its blocks",
    "norm2": "a norm in the MLP branch of its blocks",
    "after_attention": "an attention branch of its own in every block",
    "parallel_attn": "an attention branch of its own in every block, whose output has the place of its input",
    "parallel_attn_ln": "an attention branch of its own in every block, whose output has the place of its input",
    "after_mlp": "an MLP branch of its own in every block",
    "parallel_mlp": "an MLP branch of its own in every block",
    "parallel_mlp_ln": "an MLP branch of its own in every block",
}

#: kind of site -> where it is, in plain words
PLACES = {
    "tokens": "tokens added to the sequence before a block",
    "queries": "tokens that read the sequence by attention and leave it as it is",
    "prefix": "keys and values added to attention",
    "side": "a network beside the backbone, fed by its blocks",
    "pixels": "the input image",
    "patch_embed": "what the convolution that makes patches gives",
    "entry": "what enters a block",
    "block": "what leaves a block",
    "features": "what leaves the backbone, before it is pooled",
    "scales": "the maps at the ends of all stages, as heads read them",
    "frames_embed": "what leaves the patch embedding, of all frames of a clip",
    "frames_block": "what enters a block, of all frames of a clip",
    "frames_mlp": "what enters a block's MLP branch, of all frames of a clip",
    "frames_k": "the keys of all frames of a clip",
    "frames_v": "the values of all frames of a clip",
    "temporal": "attention over the frames of a clip, before a block's attention",
    "temporal_in": "what enters the attention over frames",
    "position_table": "the tables of relative positions",
    "reduction": "patch merging between stages",
    "final_norm": "the norm after the last block",
    "q": "the projection of queries",
    "k": "the projection of keys",
    "v": "the projection of values",
    "qkv": "the projection of queries, keys and values",
    "proj": "the output projection of attention",
    "attention_in": "what enters attention, behind its norm where the block norms first",
    "mlp_in": "what enters the MLP, behind its norm where the block norms first",
    "fc1": "the MLP's first layer",
    "fc2": "the MLP's second layer",
    "norm1": "the norm before attention",
    "norm2": "the norm before the MLP",
    "after_attention": "what leaves attention, before it is added to the stream",
    "after_mlp": "what leaves the MLP, before it is added to the stream",
    "parallel_attn": "beside the attention branch, fed before its norm",
    "parallel_attn_ln": "beside the attention branch, fed after its norm",
    "parallel_mlp": "beside the MLP branch, fed before its norm",
    "parallel_mlp_ln": "beside the MLP branch, fed after its norm",
}


@dataclass(frozen=True)
class Stage:
    """The end of one stage: `dim` channels of a map `stride` times smaller than the image, after block `block`."""

    dim: int
    stride: int
    block: int


@dataclass(eq=False)
class Running:
    """Where the forward that is running stands; one object for all sites of a backbone.

    `grid`: height and width of the map its patch tokens form there, None while no method is being called.
    """

    grid: tuple[int, int] | None = None


@dataclass(eq=False)
class Site:
    """One place where a method acts, with everything a site module needs to size itself.

    `dim` is the width of the site's input x, `dim_out` that of its output y; both have channels on `channel_axis`
    (-1 for tokens (B, N, C) and maps (B, H, W, C), 1 for convolution outputs (B, C, H, W)). Between layers a method sees
    channels last: where the model's maps are (B, C, H, W) there, `channels_first` (and `source_channels_first`, for x) have
    the hook turn them.
    """

    kind: str
    key: str
    style: str
    module: nn.Module
    path: str
    dim: int
    dim_out: int
    block: int | None = None
    #: position of the block among those of its stage
    place: int = 0
    #: the stage of the block, or the one that patch merging follows, counted from the finest; None outside
    stage: int | None = None
    #: whether the block is the last of its stage, where features of several scales are read
    stage_end: bool = False
    depth: int = 0
    num_heads: int = 0
    #: rows of the module's output that are this site (a projection inside a fused qkv), or None for all of them
    rows: tuple[int, int] | None = None
    channel_axis: int = -1
    #: names of the backbone's own parameters at this site, None where there are none
    weight: str | None = None
    bias: str | None = None
    #: where x comes from when it is not the hooked module's own input
    source: nn.Module | None = None
    source_is_output: bool = False
    channels_first: bool = False
    source_channels_first: bool = False
    #: the attention module that has to run its instrumented forward for this site, and whether it calls the hook itself
    attention: nn.Module | None = None
    bypassed: bool = False
    #: the module that holds the bias, when that is not the hooked one
    owner: nn.Module | None = None
    #: whether the block attends within windows
    windows: bool = False
    #: height and width of the token map at the image size the model was made for, (0, 0) where there is none; that of a
    #: forward: `grid_of`
    grid: tuple[int, int] = (0, 0)
    running: Running = field(default_factory=Running)
    prefix_tokens: int = 0
    patch_size: int = 16
    #: width of what leaves the patch embedding
    embed_dim: int = 0
    image_size: tuple[int, int] = (0, 0)
    in_channels: int = 3
    #: mean and standard deviation, by channel, that the model's own images are normalised by; 0 and 1 where it tells none
    normalisation: tuple[tuple[float, ...], tuple[float, ...]] = ((), ())
    tags: frozenset[str] = field(default_factory=frozenset)
    #: side sites: the blocks whose outputs are tapped
    blocks: tuple[nn.Module, ...] = ()
    #: the backbone's stages: what heads of several scales read
    stages: tuple[Stage, ...] = ()
    #: the patch merging between this block and the one before, (B, H, W, C) -> (B, H / 2, W / 2, C'), where there is one
    merging: nn.Module | None = None
    #: the sites of the same block by kind, this one among them: by them a method reads the block's own layers. A kind that
    #: the block has several of (branches side by side) is not there.
    beside: Mapping[str, Site] = field(default_factory=dict, repr=False)
    #: input sites: the sites of the linear layers that read what enters, where nothing else does; what is linear at the
    #: input folds into them
    readers: tuple[Site, ...] = ()

    @property
    def fresh(self) -> bool:
        """Whether y is a tensor made for this site alone: what a layer with weights or a residual branch gives."""
        return self.style == "parallel" or (self.style == "output" and self.weight is not None)

    @property
    def matrix(self) -> bool:
        """Whether the site is the output of a linear layer: a weight (dim_out, dim), all of a layer's or some rows of it."""
        weight = getattr(self.module, "weight", None) if self.style == "output" and self.weight is not None else None
        return weight is not None and weight.ndim == 2 and weight.shape[1] == self.dim and self.channel_axis == -1

    def own_bias(self) -> torch.Tensor | None:
        """The backbone's own bias at this site, (dim_out,), or its table of logit biases (entries, heads), or None."""
        if self.bias is None:
            return None
        name = self.bias.rsplit(".", 1)[-1]
        if self.bypassed or self.owner is not None:
            return getattr(self.attention if self.owner is None else self.owner, name)
        bias: torch.Tensor = getattr(self.module, name)
        return bias if self.rows is None else bias[slice(*self.rows)]

    def own_weight(self) -> torch.Tensor:
        """The backbone's own weight at this site, (dim_out, dim, ...), frozen: no gradient flows into it from here."""
        weight: torch.Tensor = self.module.weight.detach()  # type: ignore[operator]
        return weight if self.rows is None else weight[slice(*self.rows)]

    def output_bias(self) -> torch.Tensor | None:
        """What y has more than the product of x and `own_weight`, (dim_out,), wherever the model keeps it; or None."""
        bias: torch.Tensor | None
        bias = attention_bias(self.attention) if self.bypassed else getattr(self.module, "bias", None)
        if bias is None:
            return None
        return bias.detach() if self.rows is None else bias.detach()[slice(*self.rows)]

    def shown(self, tensor: torch.Tensor) -> torch.Tensor:
        """What is at the site, as its method sees it: channels last."""
        return tensor.permute(0, 2, 3, 1) if self.channels_first else tensor

    def given_back(self, tensor: torch.Tensor) -> torch.Tensor:
        """The reverse of `shown`."""
        return tensor.permute(0, 3, 1, 2) if self.channels_first else tensor

    @property
    def pyramid(self) -> bool:
        """Whether the backbone has stages of several scales."""
        return len({stage.stride for stage in self.stages}) > 1

    def broadcast(self, vector: torch.Tensor) -> torch.Tensor:
        """A vector over channels, shaped to multiply or add along this site's channel axis."""
        return vector if self.channel_axis == -1 else vector.view(-1, 1, 1)

    def grid_of(self, tokens: int) -> tuple[int, int]:
        """Height and width of the map that the running forward's `tokens` patch tokens form.

        It comes from the images and the patches of that forward; without one it is the model's own. Raises `ConfigError`
        for another number of tokens: 32 x 64 and 64 x 32 pixels give as many, so the number alone says nothing.
        """
        height, width = (self.running.grid or self.grid) if self.grid != (0, 0) else self.grid
        if height * width != tokens:
            raise ConfigError(f"site {self.key}: {tokens} patch tokens do not form the grid {height} x {width}")
        return height, width

    def split_prefix(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Tokens (B, P + HW, C) or a map (B, H, W, C) -> prefix tokens (B, P, C) and a map (B, C, H, W).

        Prompts that another method has put between the two count as prefix tokens.
        """
        if self.grid == (0, 0):
            raise ConfigError(f"site {self.key}: what passes here is no map of the image")
        if x.ndim == 4:
            return x.flatten(1, 2)[:, :0], x.permute(0, 3, 1, 2)
        height, width = self.running.grid or self.grid
        start = max(self.prefix_tokens, x.shape[1] - height * width)
        return x[:, :start], x[:, start:].transpose(1, 2).unflatten(2, self.grid_of(x.shape[1] - start))


def acquaint(sites: Sequence[Site]) -> None:
    """Tell every site of a block which others are `beside` it."""
    blocks: dict[int, dict[str, list[Site]]] = {}
    for site in sites:
        if site.block is not None:
            blocks.setdefault(site.block, {}).setdefault(site.kind, []).append(site)
    for kinds in blocks.values():
        beside = {kind: found[0] for kind, found in kinds.items() if len(found) == 1}
        for site in (site for found in kinds.values() for site in found):
            site.beside = beside
