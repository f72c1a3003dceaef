"""A plain PyTorch SSD on VGG-16, from the paper's list of layers.

Runs in a Python with torch and numpy, outside the project's environment: `python torch_reference.py
FOLDER` writes random weights with ssd.pytorch's names, the network's outputs with them, and a few
tensors for testing the file reader.
"""

import sys
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional

MEAN_RGB = (123.68, 116.779, 103.939)
CLASSES = 21
POOL, POOL_CEIL = "pool", "pool, size rounded up"
VGG = [64, 64, POOL, 128, 128, POOL, 256, 256, 256, POOL_CEIL, 512, 512, 512, POOL, 512, 512, 512]
# (channels, kernel, stride, padding)
EXTRAS = {
    300: [
        *[(256, 1, 1, 0), (512, 3, 2, 1), (128, 1, 1, 0), (256, 3, 2, 1)],
        *[(128, 1, 1, 0), (256, 3, 1, 0), (128, 1, 1, 0), (256, 3, 1, 0)],
    ],
    512: [
        *[(256, 1, 1, 0), (512, 3, 2, 1), (128, 1, 1, 0), (256, 3, 2, 1), (128, 1, 1, 0)],
        *[(256, 3, 2, 1), (128, 1, 1, 0), (256, 3, 2, 1), (128, 1, 1, 0), (256, 4, 1, 1)],
    ],
}
ANCHORS = {300: [4, 6, 6, 6, 4, 4], 512: [4, 6, 6, 6, 6, 4, 4]}
# Layers of `vgg` up to the activation of conv4_3.
CONV4_3 = 23


class Norm(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(512))

    def forward(self, x):
        length = x.pow(2).sum(dim=1, keepdim=True).sqrt() + 1e-10
        return self.weight.view(1, -1, 1, 1) * x / length


def per_anchor(heads, maps, values):
    """[batch, anchors, values], ordered by map, row, column and anchor within the cell."""
    outputs = [head(x).permute(0, 2, 3, 1) for head, x in zip(heads, maps, strict=True)]
    return torch.cat([x.reshape(x.shape[0], -1, values) for x in outputs], dim=1)


class Ssd(nn.Module):
    def __init__(self, size):
        super().__init__()
        layers, channels = [], 3
        for item in VGG:
            if item in (POOL, POOL_CEIL):
                layers.append(nn.MaxPool2d(2, 2, ceil_mode=item == POOL_CEIL))
            else:
                layers += [nn.Conv2d(channels, item, 3, padding=1), nn.ReLU()]
                channels = item
        layers.append(nn.MaxPool2d(3, 1, padding=1))
        layers += [nn.Conv2d(512, 1024, 3, padding=6, dilation=6), nn.ReLU()]
        layers += [nn.Conv2d(1024, 1024, 1), nn.ReLU()]
        self.vgg = nn.ModuleList(layers)
        self.L2Norm = Norm()
        extras, channels, sources = [], 1024, [512, 1024]
        for index, (filters, kernel, stride, padding) in enumerate(EXTRAS[size]):
            extras.append(nn.Conv2d(channels, filters, kernel, stride, padding))
            channels = filters
            if index % 2:
                sources.append(channels)
        self.extras = nn.ModuleList(extras)
        per_map = list(zip(sources, ANCHORS[size], strict=True))
        self.loc = nn.ModuleList(nn.Conv2d(c, n * 4, 3, padding=1) for c, n in per_map)
        self.conf = nn.ModuleList(nn.Conv2d(c, n * CLASSES, 3, padding=1) for c, n in per_map)

    def forward(self, x):
        maps = []
        for index, layer in enumerate(self.vgg, start=1):
            x = layer(x)
            if index == CONV4_3:
                maps.append(self.L2Norm(x))
        maps.append(x)
        for index, layer in enumerate(self.extras):
            x = functional.relu(layer(x))
            if index % 2:
                maps.append(x)
        return per_anchor(self.loc, maps, 4), per_anchor(self.conf, maps, CLASSES)


def random_weights(network):
    """Sets weights that preserve the activations' size, and non-zero biases."""
    for name, parameter in network.named_parameters():
        if parameter.dim() == 4:
            nn.init.kaiming_normal_(parameter)
        elif name.startswith("L2Norm"):
            nn.init.uniform_(parameter, 10, 30)
        else:
            nn.init.normal_(parameter)


def write_networks(folder):
    for size in EXTRAS:
        network = Ssd(size)
        random_weights(network)
        images = torch.rand(1, size, size, 3) * 255
        with torch.no_grad():
            boxes, scores = network((images - torch.tensor(MEAN_RGB)).permute(0, 3, 1, 2))
        # One in each format; the published files use the older one.
        torch.save(
            network.state_dict(),
            folder / f"ssd{size}.pth",
            _use_new_zipfile_serialization=size == 300,
        )
        np.savez(folder / f"ssd{size}.npz", images=images, boxes=boxes, scores=scores)
        if size == 300:
            torch.save(network.vgg.state_dict(), folder / "reducedfc.pth")


def write_tensors(folder):
    base = torch.arange(24, dtype=torch.float64)
    tensors = {
        "plain": torch.randn(2, 3),
        "part of another": base[4:16].view(3, 4),
        "transposed": base.view(4, 6).t(),
        "half": torch.randn(5).half(),
        "whole numbers": torch.arange(-3, 4),
        "truth": torch.tensor([True, False]),
        "scalar": torch.tensor(2.5),
        "empty": torch.zeros(0, 3),
        "parameter": nn.Parameter(torch.randn(2)),
    }
    np.savez(folder / "tensors.npz", **{k: v.detach().numpy() for k, v in tensors.items()})
    torch.save(tensors, folder / "tensors-new.pth")
    torch.save(tensors, folder / "tensors-old.pth", _use_new_zipfile_serialization=False)
    torch.save(nn.Linear(2, 2), folder / "module.pth")


if __name__ == "__main__":
    torch.manual_seed(0)
    write_networks(Path(sys.argv[1]))
    write_tensors(Path(sys.argv[1]))
