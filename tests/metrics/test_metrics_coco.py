"""COCO scores against pycocotools and published numbers."""

import contextlib
import io
import json
import math

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from metrics.accumulator import DetectionAccumulator
from metrics.coco import evaluate

NAMES = [
    "ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large",
    "ar_1", "ar_10", "ar_100", "ar_small", "ar_medium", "ar_large",
]  # fmt: skip


def edges(bbox):
    x, y, width, height = np.reshape(np.array(bbox, float), (-1, 4)).T
    return np.stack([y, x, y + height, x + width], axis=1)


def mine(images, annotations, detections, categories):
    accumulator = DetectionAccumulator([str(category) for category in categories])
    for image in images:
        truth = [item for item in annotations if item["image_id"] == image]
        found = [item for item in detections if item["image_id"] == image]
        accumulator.add(
            f"{image:012d}",  # COCO breaks ties by image number
            edges([item["bbox"] for item in truth]),
            [str(item["category_id"]) for item in truth],
            [False] * len(truth),
            edges([item["bbox"] for item in found]),
            [item["score"] for item in found],
            [str(item["category_id"]) for item in found],
            gt_crowd=[item["iscrowd"] for item in truth],
            gt_area=[item["area"] for item in truth],
        )
    result = evaluate(accumulator)
    return result, [getattr(result, name) for name in NAMES]


def theirs(images, annotations, detections, categories):
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = {
            "info": {},
            "images": [{"id": image} for image in images],
            "categories": [{"id": category} for category in categories],
            "annotations": annotations,
        }
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(detections), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


def scene(seed, images=12, categories=(1, 2, 3), coarse=False):
    """Objects, crowds, near hits, duplicates and strays; with a coarse grid, many ties."""
    random = np.random.default_rng(seed)
    step = 8 if coarse else 1

    def box(scale):
        side = random.uniform(4, scale, 2)
        return (np.round([*random.uniform(0, 200, 2), *side] / np.array(step)) * step + 0.0).clip(1)

    annotations, detections = [], []
    for image in range(images):
        for _ in range(random.integers(0, 8)):
            bbox = box(random.choice([30, 90, 200]))
            category = int(random.choice(categories))
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image,
                    "category_id": category,
                    "bbox": bbox.tolist(),
                    "area": float(bbox[2] * bbox[3] * random.choice([1.0, 0.7])),
                    "iscrowd": int(random.random() < 0.15),
                }
            )
            for _ in range(random.integers(0, 4)):
                near = bbox + np.round(random.normal(0, bbox[2:].mean() / 12, 4) / step) * step
                detections.append((image, category, near))
        for _ in range(random.integers(0, 6)):
            detections.append((image, int(random.choice(categories)), box(90)))
    scores = random.choice([0.2, 0.4, 0.6], len(detections)) if coarse else None
    scores = random.random(len(detections)) if scores is None else scores
    found = [
        {
            "image_id": image,
            "category_id": category,
            "bbox": [*bbox[:2].tolist(), *np.maximum(bbox[2:], 1).tolist()],
            "score": float(score),
        }
        for (image, category, bbox), score in zip(detections, scores, strict=True)
    ]
    return list(range(images)), annotations, found, list(categories)


@pytest.mark.parametrize("coarse", [False, True])
@pytest.mark.parametrize("seed", range(8))
def test_equals_pycocotools_on_random_scenes(seed, coarse):
    data = scene(seed, coarse=coarse)
    result, numbers = mine(*data)
    evaluation = theirs(*data)
    expected = np.where(evaluation.stats == -1, math.nan, evaluation.stats)
    np.testing.assert_allclose(numbers, expected, atol=1e-12)
    for index, category in enumerate(data[3]):
        per_class = evaluation.eval["precision"][:, :, index, 0, 2]
        assert result.class_ap[str(category)] == pytest.approx(per_class.mean(), abs=1e-12)
    assert 0.1 < result.ap < 0.95


def test_equals_pycocotools_beyond_a_hundred_detections_per_class():
    images, annotations, detections, categories = scene(1, images=2, categories=(1,))
    random = np.random.default_rng(2)
    near = [
        {
            "image_id": item["image_id"],
            "category_id": 1,
            "bbox": (np.array(item["bbox"]) + random.uniform(0, 3, 4)).tolist(),
            "score": score,
        }
        for item in annotations
        for score in random.random(40)
    ]
    assert sum(item["image_id"] == 0 for item in near) > 100
    data = images, annotations, detections + near, categories
    evaluation = theirs(*data)
    expected = np.where(evaluation.stats == -1, math.nan, evaluation.stats)
    np.testing.assert_allclose(mine(*data)[1], expected, atol=1e-12)


def test_published_numbers_of_the_review_sample(voc_fixtures):
    folder = voc_fixtures / "oracles" / "review_coco100"
    truth = json.loads((folder / "gts" / "sampled_gts_bbox_area.json").read_text())
    detections = json.loads((folder / "cocoapi_results.json").read_text())
    images = [image["id"] for image in truth["images"]]
    categories = [category["id"] for category in truth["categories"]]
    assert (len(images), len(detections)) == (100, 734)
    result, numbers = mine(images, truth["annotations"], detections, categories)
    expected = [0.503647, 0.696973, 0.571667, 0.593252, 0.557991, 0.489363]
    expected += [0.386813, 0.593680, 0.595353, 0.654764, 0.603130, 0.553744]
    assert numbers == pytest.approx(expected, abs=1e-6)


def one_picture(found, difficult=(False, False)):
    accumulator = DetectionAccumulator(["cat", "dog"])
    truth = [(0, 0, 50, 50), (0, 100, 50, 150)]
    accumulator.add(
        "a", truth, ["cat", "cat"], difficult, found, [0.9] * len(found), ["cat"] * len(found)
    )
    return evaluate(accumulator)


def test_no_detections_score_zero_and_no_objects_are_undefined():
    assert (one_picture([]).ap, one_picture([]).ar_100) == (0.0, 0.0)
    assert math.isnan(one_picture([]).class_ap["dog"])
    assert math.isnan(one_picture([]).ap_large)  # both objects are medium
    empty = DetectionAccumulator(["cat"])
    assert all(math.isnan(getattr(evaluate(empty), name)) for name in NAMES)
    empty.add("a", [], [], [], [(0, 0, 9, 9)], [0.5], ["cat"])
    assert all(math.isnan(getattr(evaluate(empty), name)) for name in NAMES)


def test_difficult_objects_are_ignored():
    both = [(0, 0, 50, 50), (0, 100, 50, 150)]
    assert one_picture(both[1:], difficult=(True, False)).ap == 1.0
    assert one_picture(both, difficult=(True, False)).ap == 1.0
    assert one_picture(both[:1], difficult=(True, False)).ap == 0.0
    assert math.isnan(one_picture(both, difficult=(True, True)).ap)


def test_overlap_of_exactly_the_threshold_is_a_hit():
    half = [(0, 0, 50, 25), (0, 100, 50, 125)]
    assert one_picture(half).ap50 == 1.0
    assert one_picture(half).ap == pytest.approx(0.1)
