"""Bootstrap samples of pictures, from which confidence intervals come.

TFMA's own bootstrap passes the pictures of each sample through all of Beam's stages, so 20 samples
hold them in memory some hundred times. Here a sample is drawn where the pictures are scored, and
lasts no longer than its scoring. It depends on the pictures alone: every run gives the same
intervals, and two models are measured on the same samples.
"""

from collections.abc import Iterator

import numpy as np

SAMPLES = 20


def draws(image_ids: np.ndarray) -> Iterator[np.ndarray]:
    """Yields the pictures of each sample as indices, int64 [drawn], repeats side by side.

    How often a picture is drawn follows a Poisson distribution of mean 1, as in TFMA.

    image_ids: [pictures], in any order.
    """
    ids, rank = np.unique(image_ids, return_inverse=True)
    random = np.random.default_rng(0)
    for _ in range(SAMPLES):
        yield np.repeat(np.arange(len(rank)), random.poisson(1.0, len(ids))[rank])
