"""Bootstrap samples of pictures, for confidence intervals.

TFMA's own bootstrap passes each sample's pictures through all of Beam's stages, so 20 samples hold
them in memory some hundred times. Here a sample is drawn where the pictures are scored and dropped
once scored. It depends only on the pictures: every run gives the same intervals, and two models are
measured on the same samples.
"""

from collections.abc import Iterator

import numpy as np

SAMPLES = 20


def draws(image_ids: np.ndarray) -> Iterator[np.ndarray]:
    """Yields the pictures of each sample as indices, int64 [drawn], repeats side by side.

    As in TFMA, how often a picture is drawn follows a Poisson distribution with mean 1.

    image_ids: [pictures], in any order.
    """
    ids, rank = np.unique(image_ids, return_inverse=True)
    random = np.random.default_rng(0)
    for _ in range(SAMPLES):
        yield np.repeat(np.arange(len(rank)), random.poisson(1.0, len(ids))[rank])
