import json
from itertools import groupby
from operator import itemgetter

import numpy as np
import pytest
from detectron2.data import MetadataCatalog

from eql_seesaw.evaluation import LongTailLVISEvaluator, lvis_evaluation, lvis_evaluator
from eql_seesaw.evaluation.detections import Detections
from eql_seesaw.evaluation.official_engine import best_of_each_class, evaluate_officially
from eql_seesaw.evaluation.result import RESULTS
from tests.ranks import run_on_ranks

from .cases import detection, evaluate_lvis, evaluated, image, official, random_case, tiny_case

BY_IMAGE = itemgetter("image_id")
PER_CLASS, PER_IMAGE = 7, 4


@pytest.mark.parametrize("per_class", [3, 10_000])
@pytest.mark.parametrize("num_processes", [1, 3])
def test_fixed_ap_is_the_official_ap_of_what_counts(monkeypatch, per_class, num_processes):
    """More than 300 detections in an image, and a limit per class that bites."""
    monkeypatch.setattr(lvis_evaluation, "DETECTIONS_PER_CLASS", per_class)
    ground_truth, results = random_case(0)
    # As many of an empty mask in the image of the last detection, before all others of it.
    results += [{**results[-1], "score": 1.0}] * 300
    results.sort(key=BY_IMAGE)

    chosen = best_of_each_class(results, per_class)
    assert (len(chosen) < len(results)) == (per_class == 3)
    case = ground_truth, results, ["bbox", "segm"]
    evaluation = evaluated(*case, 300, True, num_processes=num_processes)
    plain = evaluated(*case)
    for iou_type in ("bbox", "segm"):
        expected = evaluate_lvis(ground_truth, chosen, iou_type, -1, "lvis")
        fixed = evaluation.fixed_result(iou_type)
        np.testing.assert_array_equal(fixed.precision, expected.precision)
        np.testing.assert_array_equal(fixed.recall, expected.recall)
        assert fixed.metrics == expected.metrics
        assert fixed.metrics["AR"] != evaluation.result(iou_type).metrics["AR"]
        # What is kept for it changes no other number.
        assert evaluation.result(iou_type).metrics == plain.result(iou_type).metrics
        for name, column in vars(evaluation.matches(iou_type)).items():
            np.testing.assert_array_equal(column, getattr(plain.matches(iou_type), name))


def pooled_ap(lvis_eval, category_ids):
    """Of the official package's matches, in plain Python: one ranking of all that is detected."""
    found = [cell for cell in lvis_eval.eval_imgs if cell and cell["area_rng"] == [0, 1e10]]
    found = [cell for cell in found if cell["category_id"] in category_ids]
    found.sort(key=itemgetter("image_id", "category_id"))
    num_objects = sum(int(np.sum(np.array(cell["gt_ignore"]) == 0)) for cell in found)
    means = []
    for iou in range(10):
        rows = [
            (-score, cell["dt_matches"][iou][i] > 0)
            for cell in found
            for i, score in enumerate(cell["dt_scores"])
            if not cell["dt_ignore"][iou][i]
        ]
        num_right, curve = 0, []
        for n, (_, is_right) in enumerate(sorted(rows, key=itemgetter(0)), start=1):
            num_right += is_right
            curve.append((num_right / num_objects, num_right / n))
        for recall in np.linspace(0, 1, 101):
            means.append(max([precision for r, precision in curve if r >= recall], default=0))
    return 100 * np.mean(means)


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
def test_pooled_ap(tmp_path, monkeypatch, iou_type):
    monkeypatch.setattr(lvis_evaluation, "DETECTIONS_PER_CLASS", PER_CLASS)
    ground_truth, results = random_case(4)
    results.sort(key=BY_IMAGE)
    chosen = best_of_each_class(results, PER_CLASS)
    matches = official(tmp_path, monkeypatch, ground_truth, chosen, iou_type, max_detections=-1)
    found = evaluated(ground_truth, results, [iou_type], 300, True).pooled_ap(iou_type)
    assert list(found) == ["AP", "APr", "APc", "APf"]
    for name, value in found.items():
        group = name[2:] or "rcf"
        category_ids = {c["id"] for c in ground_truth["categories"] if c["frequency"] in group}
        assert value == pytest.approx(pooled_ap(matches, category_ids), abs=1e-9)
    assert found["AP"] > 0


def test_a_pool_is_one_ranking():
    """The rare object, a false positive, the common object; the frequent one is missed."""
    ground_truth, results = tiny_case()
    pooled = evaluated(ground_truth, results, ["bbox"], 300, True).pooled_ap("bbox")
    # Recalls up to 1/3 have a precision of 1, up to 2/3 one of 2/3.
    assert pooled["AP"] == pytest.approx(100 * (34 + 33 * 2 / 3) / 101)
    assert [pooled[f"AP{group}"] for group in "rcf"] == pytest.approx([100, 50, 0])


def test_best_of_each_class():
    scores = [(5, 0.2), (3, 0.1), (5, 0.9), (5, 0.2), (3, 0.3), (5, 0.2)]
    results = [{"category_id": k, "score": score, "id": i} for i, (k, score) in enumerate(scores)]
    assert {result["id"] for result in best_of_each_class(results, 2)} == {0, 1, 2, 4}
    assert len(best_of_each_class(results, 10)) == 6


def test_no_detections():
    evaluation = evaluated(tiny_case()[0], [], ["bbox"], 300, True)
    assert evaluation.fixed_result("bbox").metrics["AP"] == 0
    assert evaluation.pooled_ap("bbox") == {"AP": 0, "APr": 0, "APc": 0, "APf": 0}
    assert evaluation.drop_beaten() == {}


def test_thresholds_of_classes(monkeypatch):
    """Of two a class, the second is the threshold, which a tied one of another image may pass."""
    monkeypatch.setattr(lvis_evaluation, "DETECTIONS_PER_CLASS", 2)
    ground_truth, _ = tiny_case()
    ground_truth["images"].append(image(2))
    evaluation = lvis_evaluation.LVISEvaluation(ground_truth, 1, True)

    def contenders(image_id, scores):
        found = [detection(image_id, 1, [0, 0, 9, 9], score) for score in scores]
        return evaluation.contenders(Detections.from_results(image_id, found, ["bbox"]))

    evaluation.add(contenders(1, [0.3, 0.9, 0.5]))
    assert {i: kept.tolist() for i, kept in evaluation.drop_beaten().items()} == {1: [1, 1, 0]}
    assert contenders(2, [0.4, 0.7, 0.5, 0.8]).scores.tolist() == [0.8, 0.7, 0.5]
    assert contenders(2, [0.2, 0.4]).scores.tolist() == [0.4]  # the best of its image


def case_that_loses_detections():
    """Images in an order of their own, with more detections than count; many scores are tied."""
    ground_truth, results = random_case(2)
    _, more = random_case(3)
    sizes = {image["id"]: [image["height"], image["width"]] for image in ground_truth["images"]}
    results += [r for r in more if r["segmentation"]["size"] == sizes[r["image_id"]]]
    return ground_truth, sorted(results, key=BY_IMAGE)


def evaluate(folder, image_ids, engine="hotcoco"):
    ground_truth, results = case_that_loses_detections()
    of_images = {image_id: list(of_image) for image_id, of_image in groupby(results, BY_IMAGE)}
    MetadataCatalog.pop("fixed_ap_val", None)
    MetadataCatalog.get("fixed_ap_val").json_file = "val.json"
    evaluator = LongTailLVISEvaluator(
        *("fixed_ap_val", str(folder)),
        ground_truth=ground_truth,
        max_detections=PER_IMAGE,
        engine=engine,
        fixed_ap=True,
        boundary_ap=True,
    )
    num_kept = []
    for image_id in image_ids:
        found = Detections.from_results(image_id, of_images.get(image_id, []), ["bbox", "segm"])
        evaluator.add(found)
        num_kept.append(len(evaluator._evaluation.ranking()))
    return evaluator.evaluate(), num_kept


def written(folder):
    return sorted(json.loads((folder / RESULTS).read_text()), key=BY_IMAGE)


def limits(monkeypatch, new_detections):
    monkeypatch.setattr(lvis_evaluation, "DETECTIONS_PER_CLASS", PER_CLASS)
    monkeypatch.setattr(lvis_evaluator, "DETECTIONS_PER_CLASS", PER_CLASS)
    monkeypatch.setattr(lvis_evaluator, "NEW_DETECTIONS", new_detections)


@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize("new_detections", [1, 30])
def test_what_cannot_count_is_dropped(monkeypatch, tmp_path, new_detections, order):
    ground_truth, results = case_that_loses_detections()
    image_ids = [image["id"] for image in ground_truth["images"]][::order]
    limits(monkeypatch, new_detections)
    found, num_kept = evaluate(tmp_path / "dropped", image_ids)
    best = best_of_each_class(results, PER_CLASS)
    for iou_type in ("bbox", "segm"):
        ordinary = evaluate_officially(ground_truth, results, iou_type, PER_IMAGE).metrics
        assert ordinary.items() <= found[iou_type].items()
        assert (
            found[f"{iou_type}_fixed"]
            == evaluate_officially(ground_truth, best, iou_type, -1).metrics
        )
        assert found[f"{iou_type}_fixed"]["AP"] != ordinary["AP"]
    # Bounded by classes and by what AP needs, not by what the model gave.
    num_classes, num_images = len(ground_truth["categories"]), len(image_ids)
    largest = max(len(list(of_image)) for _, of_image in groupby(results, BY_IMAGE))
    bound = num_classes * PER_CLASS + num_images * PER_IMAGE
    assert max(num_kept) < bound + new_detections + largest
    assert len(written(tmp_path / "dropped")) <= bound < len(results)
    highest = [
        result
        for _, of_image in groupby(results, BY_IMAGE)
        for result in sorted(of_image, key=lambda result: -result["score"])[:PER_IMAGE]
    ]
    assert {id(r) for r in best} != {id(r) for r in highest}

    def as_lines(chosen):
        return sorted({json.dumps(result, sort_keys=True) for result in chosen})

    assert as_lines(written(tmp_path / "dropped")) == as_lines(best + highest)
    limits(monkeypatch, 10**9)
    for engine in ("hotcoco", "lvis"):
        assert evaluate(tmp_path / "kept", image_ids, engine)[0] == found


def evaluate_on_rank(rank, folder, images_of_ranks):
    with pytest.MonkeyPatch.context() as monkeypatch:
        limits(monkeypatch, 30)
        found, _ = evaluate(folder, images_of_ranks[rank])
    (folder / f"rank{rank}.json").write_text(json.dumps(found))


@pytest.mark.slow
def test_ranks_drop_what_cannot_count_on_any(monkeypatch, tmp_path):
    ground_truth, _ = case_that_loses_detections()
    image_ids = sorted(image["id"] for image in ground_truth["images"])
    run_on_ranks(3, evaluate_on_rank, tmp_path, [image_ids[::2], (), image_ids[1::2]])
    limits(monkeypatch, 10**9)
    found, _ = evaluate(tmp_path / "one", image_ids)
    assert json.loads((tmp_path / "rank0.json").read_text()) == found
    assert written(tmp_path) == written(tmp_path / "one")
