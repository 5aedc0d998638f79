"""Small convolutional networks that see the image beside a backbone: images (B, 3, H, W) -> maps (B, `width`, h, w)."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import nn

from mtpeft.errors import ConfigError


def conv(inside: int, outside: int, kernel: int = 3, stride: int = 1, padding: int = 1, norm: bool = True) -> nn.Module:
    """Convolution without bias, group norm of two groups, ReLU."""
    layer = nn.Conv2d(inside, outside, kernel, stride, padding, bias=False)
    return nn.Sequential(layer, *([nn.GroupNorm(2, outside)] if norm else []), nn.ReLU())


class FCN5(nn.Module):
    """Five convolutions and one over the second's map, 16 times smaller than the image: 921,376 weights."""

    width: ClassVar[int] = 8

    def __init__(self, channels: int, pretrained: bool = False) -> None:
        super().__init__()
        self.stem = nn.Sequential(conv(channels, 64, 8, 4, 2), conv(64, 256, stride=2))
        self.body = nn.Sequential(conv(256, 256, stride=2), conv(256, 64), conv(64, 8))
        self.skip = conv(256, 8, stride=2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images -> (B, 8, H / 16, W / 16)."""
        x = self.stem(x)
        return self.body(x) + self.skip(x)


class FCN4(nn.Sequential):
    """Four convolutions, for small images: 4 times smaller than the image, 25,904 weights."""

    width: ClassVar[int] = 64

    def __init__(self, channels: int, pretrained: bool = False) -> None:
        super().__init__(conv(channels, 16), conv(16, 16, stride=2), conv(16, 32, stride=2), conv(32, 64, norm=False))


class AlexNet(nn.Sequential):
    """The convolutions of AlexNet, averaged to 6 x 6 cells: one vector (B, 9216, 1, 1), 2,469,696 weights."""

    width: ClassVar[int] = 9216

    def __init__(self, channels: int, pretrained: bool = False) -> None:
        convolutions = _torchvision("alexnet", pretrained).features
        super().__init__(convolutions, nn.AdaptiveAvgPool2d(6), nn.Flatten(), nn.Unflatten(1, (self.width, 1, 1)))


class ResNet18(nn.Sequential):
    """ResNet-18 to the end of its third stage: (B, 256, H / 16, W / 16), 2,782,784 weights."""

    width: ClassVar[int] = 256

    def __init__(self, channels: int, pretrained: bool = False) -> None:
        net = _torchvision("resnet18", pretrained)
        super().__init__(net.conv1, net.bn1, net.relu, net.maxpool, net.layer1, net.layer2, net.layer3)


def _torchvision(name: str, pretrained: bool) -> Any:
    """A model of torchvision, with its ImageNet weights where asked for; `ConfigError` where these cannot be had."""
    import torchvision  # at a second, only for those who take one

    try:
        return torchvision.models.get_model(name, weights="IMAGENET1K_V1" if pretrained else None)
    except OSError as error:
        raise ConfigError(f"torchvision's ImageNet weights of {name} cannot be had ({error}); init='random'") from error
