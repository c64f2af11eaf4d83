"""Networks from images to features (R, C), which a linear classifier follows."""

import torch
import torchvision
from torch import nn
from torch.nn import functional as F


def small_cnn() -> nn.Module:
    """For (R, 1, 8, 8) digits; 1,024 features."""
    return nn.Sequential(
        *(nn.Conv2d(1, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU()),
        *(nn.Conv2d(32, 64, 3, padding=1, bias=False), nn.BatchNorm2d(64), nn.ReLU()),
        *(nn.MaxPool2d(2), nn.Flatten()),
    )


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions; a shortcut to more channels pads with zeros ("option A")."""

    def __init__(self, in_channels: int, out_channels: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.stride = stride
        self.new_channels = out_channels - in_channels

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        shortcut = x[:, :, :: self.stride, :: self.stride]
        return F.relu(out + F.pad(shortcut, (0, 0, 0, 0, 0, self.new_channels)))


def resnet32() -> nn.Module:
    """
    The ResNet-32 for CIFAR of https://arxiv.org/abs/1512.03385, section 4.2: three stages of five
    blocks. For (R, 3, 32, 32) images; 64 features.
    """
    layers = [nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU()]
    channels = 16
    for out_channels, stride in ((16, 1), (32, 2), (64, 2)):
        layers.append(BasicBlock(channels, out_channels, stride))
        layers += [BasicBlock(out_channels, out_channels, 1) for _ in range(4)]
        channels = out_channels
    backbone = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    for module in backbone.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
    return backbone


def resnet10() -> nn.Module:
    """A ResNet of one block in each of four stages. For (R, 3, H, W) images; 512 features."""
    backbone = torchvision.models.ResNet(torchvision.models.resnet.BasicBlock, [1, 1, 1, 1])
    backbone.fc = nn.Identity()
    return backbone


def resnext50() -> nn.Module:
    """torchvision's ResNeXt-50 32x4d, not pre-trained. For (R, 3, H, W) images; 2,048 features."""
    backbone = torchvision.models.resnext50_32x4d()
    backbone.fc = nn.Identity()
    return backbone
