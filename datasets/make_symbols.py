#!/usr/bin/env python3
"""Generate "symbols", a long-tailed dataset in LVIS v1 format (see eql_seesaw/data/symbols.py)."""

import argparse
import logging
import sys
from pathlib import Path

from eql_seesaw.data.symbols import MAX_IMAGE_COUNT, generate_symbols


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--root",
        type=Path,
        default=Path(__file__).parent / "symbols",
        help="folder to write (default: symbols, beside this script)",
    )
    parser.add_argument("--num-classes", type=int, help="default: 100")
    parser.add_argument(
        "--first-symbol",
        type=int,
        default=0,
        metavar="N",
        help="pass over N symbols, so that two datasets share none (default: 0)",
    )
    parser.add_argument("--image-size", type=int, default=128, help="pixels (default: 128)")
    parser.add_argument("--seed", type=int, default=0)
    counts = parser.add_mutually_exclusive_group()
    counts.add_argument(
        "--max-image-count",
        type=int,
        default=MAX_IMAGE_COUNT,
        metavar="N",
        help=f"a long tail from N training images down to 1 (default: {MAX_IMAGE_COUNT})",
    )
    counts.add_argument(
        "--balanced", type=int, metavar="N", help="N training images of every class"
    )
    counts.add_argument(
        "--lvis-v1-counts",
        action="store_true",
        help="1,203 classes with the training image counts of LVIS v1: 60,000 images",
    )
    parser.add_argument(
        "--plain", action="store_true", help="dark symbols on light bodies: much easier to learn"
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace a dataset made with other arguments"
    )
    args = parser.parse_args()
    if args.num_classes is not None and args.lvis_v1_counts:
        parser.error("--lvis-v1-counts fixes the number of classes; leave --num-classes out")
    return args


def main() -> None:
    args = parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    num_classes, image_counts = args.num_classes or 100, None
    if args.balanced is not None:
        image_counts = [args.balanced] * num_classes
    if args.lvis_v1_counts:
        # Here, because Detectron2 takes seconds to import.
        from detectron2.data.datasets.lvis_v1_category_image_count import LVIS_CATEGORY_IMAGE_COUNT

        image_counts = [category["image_count"] for category in LVIS_CATEGORY_IMAGE_COUNT]
        num_classes = len(image_counts)
    try:
        summary = generate_symbols(
            args.root,
            num_classes=num_classes,
            first_symbol=args.first_symbol,
            image_size=args.image_size,
            seed=args.seed,
            image_counts=image_counts,
            max_image_count=args.max_image_count,
            plain=args.plain,
            overwrite=args.overwrite,
        )
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    classes = summary["classes"]
    print(
        f"{args.root}: {sum(classes.values())} classes "
        f"({classes['r']} rare, {classes['c']} common, {classes['f']} frequent)"
    )
    for split in ("train", "val"):
        print(f"  {split}: {summary[split]['images']} images, {summary[split]['objects']} objects")


if __name__ == "__main__":
    main()
