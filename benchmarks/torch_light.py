"""The training step of the preset `light` in plain PyTorch, for comparing speed.

Runs in a separate Python with torch and numpy: `python torch_light.py BATCH.npz CLASSES`. For each
line of input it makes a step and prints the loss. Network, frozen stages, matching, loss and
optimiser equal those of `light`; weights are random. The file holds the batch (images, boxes,
labels) and the anchors.
"""

import sys

import numpy as np
import torch
from torch import nn
from torch.nn import functional

# (repeats, kernel, stride, expansion, output channels)
STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
FROZEN = 2  # stages after the stem
FILTERS = 96
PER_CELL = (4, 6, 6, 6, 4, 4)


class Conv(nn.Module):
    """A convolution with TensorFlow's "same" padding, batch normalisation and ReLU6."""

    def __init__(self, inputs, outputs, kernel, stride=1, depthwise=False, active=True):
        super().__init__()
        groups = inputs if depthwise else 1
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, groups=groups, bias=False)
        self.norm = nn.BatchNorm2d(outputs, eps=1e-3)
        self.kernel, self.stride, self.active = kernel, stride, active

    def forward(self, x):
        size = x.shape[-1]
        total = max((-(-size // self.stride) - 1) * self.stride + self.kernel - size, 0)
        if total:
            x = functional.pad(x, (total // 2, total - total // 2) * 2)
        x = self.norm(self.conv(x))
        return functional.relu6(x) if self.active else x


class Block(nn.Module):
    def __init__(self, inputs, outputs, kernel, stride, expansion):
        super().__init__()
        middle = inputs * expansion
        layers = [Conv(inputs, middle, 1)] if expansion > 1 else []
        layers += [Conv(middle, middle, kernel, stride, depthwise=True)]
        layers += [Conv(middle, outputs, 1, active=False)]
        self.layers = nn.Sequential(*layers)
        self.adds = stride == 1 and inputs == outputs

    def forward(self, x):
        return x + self.layers(x) if self.adds else self.layers(x)


class Head(nn.Sequential):
    def __init__(self, outputs):
        super().__init__(Conv(FILTERS, FILTERS, 3, depthwise=True), nn.Conv2d(FILTERS, outputs, 1))


class Light(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.stem = Conv(3, 32, 3, 2)
        channels, self.stages = 32, nn.ModuleList()
        for repeats, kernel, stride, expansion, outputs in STAGES:
            blocks = []
            for number in range(repeats):
                first = stride if number == 0 else 1
                blocks.append(Block(channels, outputs, kernel, first, expansion))
                channels = outputs
            self.stages.append(nn.Sequential(*blocks))
        self.laterals = nn.ModuleList(Conv(n, FILTERS, 1, active=False) for n in (40, 112, 320))
        self.extras = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(FILTERS, FILTERS, 3, 2, padding, groups=FILTERS, bias=False),
                nn.BatchNorm2d(FILTERS),
                nn.ReLU6(),
                Conv(FILTERS, FILTERS, 1),
            )
            for padding in (1, 1, 0)
        )
        self.boxes = nn.ModuleList(Head(4 * n) for n in PER_CELL)
        self.classes = nn.ModuleList(Head((1 + classes) * n) for n in PER_CELL)
        for part in (self.stem, *self.stages[:FROZEN]):
            part.requires_grad_(False)

    def train(self, mode=True):
        super().train(mode)
        for module in (*self.stem.modules(), *self.stages.modules()):
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        return self

    def forward(self, images):
        x, maps = self.stem((images - 127) / 128), []
        for number, stage in enumerate(self.stages, start=1):
            x = stage(x)
            if number in (3, 5, 7):
                maps.append(self.laterals[len(maps)](x))
        for level in (1, 0):
            up = functional.interpolate(maps[level + 1], scale_factor=2)
            side = maps[level].shape[-1]
            maps[level] = maps[level] + up[:, :, :side, :side]
        for extra in self.extras:
            maps.append(extra(maps[-1]))
        return per_anchor(self.boxes, maps, 4), per_anchor(self.classes, maps, -1)


def per_anchor(heads, maps, values):
    outputs = []
    for head, x, cells in zip(heads, maps, PER_CELL, strict=True):
        y = head(x).permute(0, 2, 3, 1)
        outputs.append(y.reshape(y.shape[0], y.shape[1] * y.shape[2] * cells, values))
    return torch.cat(outputs, dim=1)


def match(anchors, boxes, labels):
    """(labels, codes) of one picture's anchors, by SSD's rule: IoU 0.5, and each box's best."""
    boxes, labels = boxes[labels > 0], labels[labels > 0]
    low, high = anchors[:, :2] - anchors[:, 2:] / 2, anchors[:, :2] + anchors[:, 2:] / 2
    overlap = torch.minimum(high[:, None], boxes[:, 2:]) - torch.maximum(low[:, None], boxes[:, :2])
    shared = overlap.clamp(min=0).prod(-1)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(-1)
    ious = shared / (anchors[:, 2:].prod(-1)[:, None] + areas - shared)
    best, owner = ious.max(1)
    forced = ious.argmax(0)
    owner[forced] = torch.arange(len(boxes))
    best[forced] = 1.0
    matched = boxes[owner]
    centre, size = (matched[:, :2] + matched[:, 2:]) / 2, matched[:, 2:] - matched[:, :2]
    moved = (centre - anchors[:, :2]) / anchors[:, 2:] / 0.1
    codes = torch.cat([moved, torch.log(size / anchors[:, 2:]) / 0.2], dim=1)
    return torch.where(best >= 0.5, labels[owner], 0), codes


def multibox_loss(outputs, wanted, codes):
    found, logits = outputs
    positive = wanted > 0
    count = positive.sum().clamp(min=1)
    box = functional.smooth_l1_loss(found[positive], codes[positive], reduction="sum")
    losses = functional.cross_entropy(logits.transpose(1, 2), wanted, reduction="none")
    background = losses.detach().masked_fill(positive, -1)
    rank = background.argsort(1, descending=True).argsort(1)
    mined = rank < 3 * positive.sum(1, keepdim=True).clamp(min=1)
    return (losses[positive | mined].sum() + box) / count


def main(batch_file, classes):
    data = np.load(batch_file)
    images = torch.from_numpy(data["images"]).permute(0, 3, 1, 2).contiguous()
    boxes, labels = torch.from_numpy(data["boxes"]), torch.from_numpy(data["labels"]).long()
    anchors = torch.from_numpy(data["anchors"])
    network = Light(classes).train()
    trained = [weight for weight in network.parameters() if weight.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=1e-3, momentum=0.9, weight_decay=4e-5)
    for _ in sys.stdin:
        targets = [match(anchors, *pair) for pair in zip(boxes, labels, strict=True)]
        wanted, codes = (torch.stack(part) for part in zip(*targets, strict=True))
        optimizer.zero_grad()
        loss = multibox_loss(network(images), wanted, codes)
        loss.backward()
        nn.utils.clip_grad_norm_(trained, 10.0)
        optimizer.step()
        print(loss.item(), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
