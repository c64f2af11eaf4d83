"""
Export a trained detector to one file that runs with torch and torchvision alone.

    python -m eql_seesaw.export --config-file output/quickstart/config.yaml \\
        --weights output/quickstart/model_final.pth --output model.ts [KEY VALUE ...]

The file is a TorchScript trace, with a description of its input and classes inside:

    import json, torch, torchvision  # torchvision brings operators that the model needs

    extra_files = {"metadata.json": ""}
    model = torch.jit.load("model.ts", _extra_files=extra_files).eval()
    metadata = json.loads(extra_files["metadata.json"])
    pred_boxes, pred_classes, pred_masks, scores, image_size = model(image)

image is (3, H, W), float32 or uint8, 0 to 255, channels in the order metadata["input_format"], its
shortest edge resized to "min_size_test" pixels but its longest to at most "max_size_test". The
outputs, in pixels of that image, are those of Detectron2's own exporter: N boxes x0, y0, x1, y1,
classes (positions in "thing_classes" and "category_ids"), masks (N, 1, M, M) of probabilities
inside the boxes (absent where the model has none), falling scores, and (H, W).
torchvision.models.detection.roi_heads.paste_masks_in_image puts the masks into the image, where
pixels from 0.5 are the object's: MODEL.ROI_MASK_HEAD.MASK_THRESH_TEST has scaled them so.
"""

import argparse
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from .command_line import one_line_errors

if TYPE_CHECKING:
    import numpy as np


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    args = _parse_args(arguments)
    with one_line_errors():
        # Not at the top: it takes seconds, for which --help need not wait.
        from .engine import load_config
        from .prediction.torchscript import export_torchscript

        image = _read_image(args.image) if args.image else None
        # A key of training, which cannot be on where a model trained on a GPU is on a CPU.
        cfg = load_config(args.config_file, ["SOLVER.AMP.ENABLED", "False", *args.opts])
        num_detections = export_torchscript(cfg, args.weights, args.output, image)
    print(f"{args.output}: {num_detections} detections, equal to the model's own")
    return 0


def _parse_args(arguments: Sequence[str] | None) -> argparse.Namespace:
    description, _, rest = __doc__.strip().partition("\n")
    parser = argparse.ArgumentParser(
        prog="python -m eql_seesaw.export",
        description=description,
        epilog=rest,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config-file", required=True, metavar="FILE")
    parser.add_argument("--weights", required=True, metavar="FILE", help="checkpoint of a model")
    parser.add_argument("--output", required=True, metavar="FILE")
    parser.add_argument(
        "--image", metavar="FILE", help="on which file and model are compared (default: noise)"
    )
    parser.add_argument("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE")
    return parser.parse_args(arguments)


def _read_image(path: str) -> "np.ndarray":
    from detectron2.data.detection_utils import read_image

    try:
        return read_image(path, format="BGR")
    except Exception as error:  # Pillow's readers raise all sorts over broken files
        raise ValueError(f"--image: cannot read {path} ({type(error).__name__})") from None


if __name__ == "__main__":
    sys.exit(main())
