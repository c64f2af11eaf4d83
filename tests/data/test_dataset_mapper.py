"""Images and annotations that cannot be read, as Detectron2's mapper finds them."""

import os
import zlib

import numpy as np
import pycocotools.mask as mask_util
import pytest
from PIL import Image

from eql_seesaw.data.dataset_mapper import NamedImageDatasetMapper, unreadable_message
from tests.data.small_images import annotation, make_cfg, write_images


@pytest.fixture
def image(tmp_path):
    """A readable image, 24 x 16 (width x height)."""
    return write_images(tmp_path, 1)[0]


def failure(dataset_dict, mask_format="polygon", mask_on=True):
    cfg = make_cfg()
    cfg.INPUT.MASK_FORMAT, cfg.MODEL.MASK_ON = mask_format, mask_on
    with pytest.raises(ValueError) as info:
        NamedImageDatasetMapper(cfg, True)(dataset_dict)
    message = str(info.value)
    name = f"image {dataset_dict['image_id']}, {dataset_dict['file_name']}: "
    assert message.startswith(name) and "\n" not in message
    return message.removeprefix(name)


def truncated_jpeg(path):
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def png_with_a_flipped_bit(path):
    Image.effect_noise((24, 16), 50).save(path, "PNG")
    content = bytearray(path.read_bytes())
    content[content.index(b"IDAT") + 20] ^= 1
    path.write_bytes(bytes(content))


def huge_png(path):
    """The header promises more pixels than anything sensible."""
    Image.effect_noise((24, 16), 50).save(path, "PNG")
    content = path.read_bytes()
    start = content.index(b"IHDR")
    chunk = b"IHDR" + (50_000).to_bytes(4, "big") * 2 + content[start + 12 : start + 17]
    checksum = zlib.crc32(chunk).to_bytes(4, "big")
    path.write_bytes(content[:start] + chunk + checksum + content[start + 21 :])


def directory(path):
    path.unlink()
    path.mkdir()


def other_size(path):
    Image.new("RGB", (16, 24)).save(path)


@pytest.mark.parametrize(
    ("corrupt", "expected"),
    [
        (truncated_jpeg, "runcated"),
        (png_with_a_flipped_bit, "broken PNG file"),
        (huge_png, "2500000000 pixels, more than INPUT.MAX_IMAGE_PIXELS, 178956970"),
        (directory, "Is a directory"),
        (other_size, "got (16, 24), expect (24, 16)"),
        (os.remove, "No such file or directory"),
        (lambda path: path.write_text("<html>not found</html>"), "cannot identify image file"),
    ],
)
def test_broken_files(image, tmp_path, corrupt, expected):
    corrupt(tmp_path / "0.jpg")
    assert expected in failure(image)


def rle(size=(16, 24), counts=None):
    if counts is not None:
        return {"size": list(size), "counts": counts}
    return mask_util.encode(np.asfortranarray(np.ones(size, np.uint8)))


NAN = float("nan")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"segmentation": [[1, 2, 3, 4, 5]]}, "cannot reshape array of size 5"),
        ({"segmentation": [[1, 2, 3, 4]]}, "Failed to use mask_format=='polygon'"),
        ({"segmentation": rle()}, "mask_format=='polygon'"),
        ({"segmentation": []}, "segmentation is missing, but MODEL.MASK_ON is True"),
    ],
)
def test_broken_annotations(image, change, expected):
    image["annotations"].append({**annotation(0), **change})
    assert expected in failure(image)
    image["annotations"].reverse()
    assert expected in failure(image)


@pytest.mark.parametrize(
    ("segmentation", "expected"),
    [
        (rle((16, 25)), "AssertionError"),
        (rle(counts=mask_util.encode(np.ones((16, 20), np.uint8, "F"))["counts"]), "RLE"),
        ({"size": [16, 24]}, "KeyError: 'counts'"),
    ],
)
def test_broken_rle(image, segmentation, expected):
    image["annotations"].append(annotation(0, segmentation=segmentation))
    assert expected in failure(image, mask_format="bitmask")


def test_what_is_not_used_may_be_broken(image):
    image["annotations"].append(annotation(0, iscrowd=1, segmentation=rle((9, 9)), bbox=[NAN] * 4))
    mapped = NamedImageDatasetMapper(make_cfg(), True)(image)
    assert len(mapped["instances"]) == 1
    image["annotations"] = [annotation(0, segmentation=None)]
    cfg = make_cfg()
    cfg.MODEL.MASK_ON = False
    assert len(NamedImageDatasetMapper(cfg, True)(image)["instances"]) == 1
    assert "instances" not in NamedImageDatasetMapper(make_cfg(), False)(image)


def test_good_masks_in_both_forms(image):
    cfg = make_cfg()
    cfg.INPUT.MASK_FORMAT = "bitmask"
    counts = {**rle(), "counts": rle()["counts"].decode()}
    image["annotations"] = [annotation(0), annotation(1, segmentation=rle()), annotation(2)]
    image["annotations"].append(annotation(0, segmentation=counts))
    assert len(NamedImageDatasetMapper(cfg, True)(image)["instances"].gt_masks) == 4


def test_an_image_is_named_once(image):
    message = unreadable_message(image, EOFError())
    assert message == f"image 100, {image['file_name']}: EOFError"
    assert unreadable_message(image, ValueError(message)) == message
    assert unreadable_message({}, zlib.error("a\n b")) == "image None, None: error: a b"
