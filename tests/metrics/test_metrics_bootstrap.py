"""Drawing pictures for confidence intervals."""

import numpy as np

from metrics.bootstrap import SAMPLES, draws

IDS = np.array([f"p{number}" for number in range(2000)])


def counts(ids):
    """How often each id is drawn in each sample, by id."""
    return [
        dict(zip(*np.unique(ids[images], return_counts=True), strict=True)) for images in draws(ids)
    ]


def test_pictures_are_drawn_as_in_a_poisson_bootstrap():
    drawn = np.array([[sample.get(image_id, 0) for image_id in IDS] for sample in counts(IDS)])
    assert len(drawn) == SAMPLES == 20
    assert abs(drawn.mean() - 1) < 0.02
    assert abs(drawn.var() - 1) < 0.03
    # Samples and pictures are uncorrelated.
    assert abs(np.corrcoef(drawn)[np.triu_indices(SAMPLES, 1)]).max() < 0.12
    assert abs(np.corrcoef(drawn[:, :-1].ravel(), drawn[:, 1:].ravel())[0, 1]) < 0.02


def test_samples_do_not_depend_on_the_order_of_the_pictures():
    shuffled = np.random.default_rng(1).permutation(IDS)
    assert counts(shuffled) == counts(IDS)
    encoded = np.char.encode(shuffled)
    assert [len(images) for images in draws(encoded)] == [len(images) for images in draws(IDS)]


def test_no_pictures_give_empty_samples():
    assert [len(images) for images in draws(np.zeros(0, str))] == [0] * SAMPLES
