"""The augmentation recipes by name (applied by `trainer.augmentation`)."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Recipe:
    """How often and how strongly each augmentation acts; probabilities and factors."""

    patch_scale: tuple[float, float] | None = (0.3, 1.0)
    every_kept_box: bool = False
    expand_probability: float = 0.5
    expand_ratio: tuple[float, float] = (1.0, 4.0)
    flip_probability: float = 0.5
    colour_probability: float = 0.5
    brightness: float = 32.0
    contrast: tuple[float, float] | None = (0.5, 1.5)
    saturation: tuple[float, float] = (0.5, 1.5)
    hue_degrees: float = 18.0


PAPER = Recipe()
RECIPES = {
    "none": Recipe(
        patch_scale=None, expand_probability=0.0, flip_probability=0.0, colour_probability=0.0
    ),
    # For small networks and short runs: never shrinks objects far below their real size.
    "light": Recipe(patch_scale=(0.6, 1.0), expand_probability=0.25, expand_ratio=(1.0, 1.3)),
    "paper": PAPER,
    # HiKapok/SSD.TensorFlow: every kept box must reach the IoU, colour always, no hue or contrast.
    "hikapok": Recipe(
        every_kept_box=True,
        expand_ratio=(1.1, 4.0),
        colour_probability=1.0,
        contrast=None,
        hue_degrees=0.0,
    ),
}
