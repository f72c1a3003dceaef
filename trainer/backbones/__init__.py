"""Backbones: each module has `feature_maps(images)` for pictures [batch, size, size, 3], RGB 0-255.

A backbone scales the pictures as its weights want them and returns the maps that the detector's
anchors stand on, finest first.
"""

# What the input pipeline puts outside the picture: the mean colour of ImageNet, RGB.
MEAN_RGB = (123.68, 116.779, 103.939)
