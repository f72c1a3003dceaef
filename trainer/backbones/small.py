"""A backbone that learns the sample data on two CPU cores in minutes; maps at 1/8 to 1/64."""

from keras import KerasTensor, layers

# For each halving of the resolution: its filters, and the number of convolutions after it.
_STAGES = ((16, 0), (32, 1), (64, 1), (96, 1), (96, 1), (96, 1))
_FIRST_MAP_STAGE = 2


def _conv(x: KerasTensor, filters: int, stride: int, name: str) -> KerasTensor:
    x = layers.Conv2D(
        filters, 3, strides=stride, padding="same", use_bias=False, name=f"{name}_conv"
    )(x)
    x = layers.BatchNormalization(momentum=0.9, name=f"{name}_norm")(x)
    return layers.ReLU(name=f"{name}_relu")(x)


def feature_maps(images: KerasTensor) -> list[KerasTensor]:
    """Maps at strides 8, 16, 32 and 64 of RGB pictures in 0-255."""
    x = layers.Rescaling(1 / 127.5, offset=-1.0, name="preprocessing", dtype="float32")(images)
    maps = []
    for stage, (filters, repeats) in enumerate(_STAGES):
        x = _conv(x, filters, 2, f"stage{stage}_down")
        for index in range(repeats):
            x = _conv(x, filters, 1, f"stage{stage}_{index}")
        if stage >= _FIRST_MAP_STAGE:
            maps.append(x)
    return maps
