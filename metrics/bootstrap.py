"""Bootstrap samples of pictures, from which confidence intervals come.

TFMA's own bootstrap hands the pictures of each sample through all of Beam's stages, so with 20
samples they are in memory some hundred times. Here a sample is drawn where the pictures are scored
and lasts as long as its scoring. It depends on the pictures alone: an interval is the same in each
run, and two models are measured on the same samples.
"""

from collections.abc import Iterator

import numpy as np

SAMPLES = 20


def draws(image_ids: np.ndarray) -> Iterator[np.ndarray]:
    """Pictures of each sample as indices, int64 [drawn], all that are drawn of one side by side.

    How often one is drawn follows a Poisson distribution of mean 1, as in TFMA.

    image_ids: [pictures], in any order.
    """
    ids, rank = np.unique(image_ids, return_inverse=True)
    random = np.random.default_rng(0)
    for _ in range(SAMPLES):
        yield np.repeat(np.arange(len(rank)), random.poisson(1.0, len(ids))[rank])
