"""Results of other tools, and images of a subset, evaluated by the command as users type it."""

import json

import pytest

from eql_seesaw.evaluation.result import Result


@pytest.fixture
def evaluate(run):
    """Metrics, or the line that the command ends with when it fails."""

    def evaluate(results, *options):
        line = run(results, "--dataset", "val.json", "TEST.REPORT", "False", *options)
        if line:
            return line
        subset = f"_{options[1].removesuffix('.json')}" if options[:1] == ("--images-of",) else ""
        return Result.load(f"{results.removesuffix('.json')}{subset}_evaluation").metrics

    return evaluate


def position(category_id, ground_truth):
    return sorted(c["id"] for c in ground_truth["categories"]).index(category_id)


def of_ultralytics(results, ground_truth):
    """YOLO's predictions.json: stems as ids, classes from 1."""
    return [
        {
            "image_id": f"img_{result['image_id']}",
            "file_name": f"img_{result['image_id']}.jpg",
            "category_id": position(result["category_id"], ground_truth) + 1,
            "bbox": result["bbox"],
            "score": result["score"],
            "segmentation": result["segmentation"],
        }
        for result in results
    ]


def of_fiftyone(results, ground_truth):
    """An export as COCO: an annotation file with ids of its own, and scores."""
    images = [{**image, "id": 1000 + i} for i, image in enumerate(ground_truth["images"][::-1])]
    image_ids = {image["file_name"]: image["id"] for image in images}
    names = [category["name"] for category in ground_truth["categories"]][::-1]
    old_names = {image["id"]: image["file_name"] for image in ground_truth["images"]}
    return {
        "info": {"classes": names},
        "licenses": [],
        "categories": [
            {"id": i, "name": name, "supercategory": None} for i, name in enumerate(names)
        ],
        "images": images,
        "annotations": [
            {
                **result,
                "id": i,
                "image_id": image_ids[old_names[result["image_id"]]],
                "category_id": names.index(f"class {result['category_id']}"),
                "iscrowd": 0,
                "area": 1.0,
            }
            for i, result in enumerate(results)
        ],
    }


def of_transformers(results, ground_truth):
    """Written by hand from a processor's output: classes from 0, further keys."""
    return [
        {
            **result,
            "category_id": position(result["category_id"], ground_truth),
            "category_name": "of no class here",
            "label": "x",
        }
        for result in results
    ]


def of_names(results, ground_truth):
    return [
        {**result, "image_id": f"img_{result['image_id']}.jpg"}
        | {"category_id": f"class {result['category_id']}"}
        for result in results
    ]


@pytest.mark.parametrize(
    "convert, options",
    [
        (of_ultralytics, ("--by-name", "--first-category-id", "1")),
        (of_fiftyone, ("--by-name",)),
        (of_transformers, ("--first-category-id", "0")),
        (of_names, ("--by-name",)),
    ],
)
def test_equals_the_same_detections_in_lvis_format(files, load, evaluate, convert, options):
    theirs = convert(load("results.json"), load("val.json"))
    (files / "theirs.json").write_text(json.dumps(theirs))
    expected = evaluate("results.json")
    assert expected["bbox"]["AP"] > 0
    assert evaluate("theirs.json", *options) == expected


def test_numbers_of_files_are_numbers(files, load, evaluate):
    """Ids of another kind than the numbers in the names, which older versions of YOLO write."""
    ground_truth, results = load("val.json"), load("results.json")
    expected = evaluate("results.json")
    for image in ground_truth["images"]:
        image["file_name"] = f"{10 * image['id']:012}.jpg"
    for result in results:
        result["image_id"] *= 10
    (files / "val.json").write_text(json.dumps(ground_truth))
    (files / "theirs.json").write_text(json.dumps(results))
    assert evaluate("theirs.json", "--by-name") == expected


def change_first(results, **values):
    return [{**results[0], **values}, *results[1:]]


@pytest.mark.parametrize(
    "values, options, message",
    [
        ({"image_id": "img_x"}, ("--by-name",), "detection 0: no image 'img_x' in the dataset"),
        ({"image_id": "img_0"}, ("--by-name",), "detection 0: two of image 'img_0' in the dataset"),
        ({"category_id": "cat"}, ("--by-name",), "detection 0: no category 'cat' in the dataset"),
        ({"image_id": "a"}, (), "Expected `int`, got `str` - at `$[0].image_id`"),
        ({"category_id": -1}, ("--first-category-id", "0"), "detection 0: no category -1 in"),
        ({"image_id": "a"}, ("--first-category-id", "0"), "detection 0: no image 'a' in the dat"),
    ],
)
def test_mistakes(files, load, evaluate, values, options, message):
    ground_truth = load("val.json")
    images = ground_truth["images"]
    images += [{**images[0], "id": 998 + i, "file_name": f"{i}/img_0.jpg"} for i in range(2)]
    (files / "val.json").write_text(json.dumps(ground_truth))
    results = load("results.json")
    for result in results:
        result["category_id"] = position(result["category_id"], ground_truth)
        if "--by-name" in options:
            result["image_id"] = f"img_{result['image_id']}"
            result["category_name"] = f"class {result['category_id']}"
    results = change_first(results, category_name=None, **values)
    (files / "results.json").write_text(json.dumps(results))
    line = evaluate("results.json", *options)
    assert message in line and "\n" not in line


def test_images_of_another_file(files, load, evaluate):
    """The numbers of a ground truth that has these images only."""
    ground_truth, results = load("val.json"), load("results.json")
    images = ground_truth["images"][1::2]
    ids = {image["id"] for image in images}
    small = {
        "images": images,
        "categories": ground_truth["categories"],
        "annotations": [x for x in ground_truth["annotations"] if x["image_id"] in ids],
    }
    (files / "small.json").write_text(json.dumps(small))
    subset = evaluate("results.json", "--images-of", "small.json")
    assert subset != evaluate("results.json")
    for image in ground_truth["images"]:
        split = "val2017" if image["id"] in ids else "train2017"
        image["coco_url"] = f"http://images.cocodataset.org/{split}/{image['id']:012}.jpg"
    (files / "val.json").write_text(json.dumps(ground_truth))
    assert evaluate("results.json", "--images-of", "minival") == subset
    few = [result for result in results if result["image_id"] in ids]
    (files / "few.json").write_text(json.dumps(few))
    (files / "val.json").write_text(json.dumps(small))
    assert evaluate("few.json") == subset
    for image in images:
        del image["coco_url"]
    (files / "val.json").write_text(json.dumps(small))
    line = evaluate("few.json", "--images-of", "minival")
    assert line == "error: --images-of minival: none of its images is in the dataset"
    # One image of which cannot be read would be left out in silence.
    small["images"][0]["id"] = "one"
    (files / "small.json").write_text(json.dumps(small))
    line = evaluate("few.json", "--images-of", "small.json")
    assert line.startswith("error: small.json: ") and "'one'" in line.replace('"', "'")
