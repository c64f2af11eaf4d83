"""
Run all benchmarks one after the other, each in a process of its own, and keep their tables in
output/benchmarks/benchmarks.md (benchmarks_cuda.md). Nothing else should run meanwhile.

    python -m benchmarks [--device cuda] [--quick]
"""

import subprocess
import sys
from pathlib import Path

from .measure import arguments

ON_ANY_DEVICE = (
    "losses",
    "train_step",
    "mask_head",
    "box_predictor",
    "post_processing",
    "lvis_results",
)
ON_CPU = ("class_statistics", "first_batch", "lvis_evaluation")
FOLDER = Path("output/benchmarks")


def main() -> None:
    args = arguments(__doc__)
    FOLDER.mkdir(parents=True, exist_ok=True)
    suffix = "" if args.device == "cpu" else f"_{args.device}"
    path = FOLDER / f"benchmarks{suffix}.md"
    failed = []
    with open(path, "w") as f:
        f.write("# Benchmarks\n\n")
        for name in ON_ANY_DEVICE + (ON_CPU if args.device == "cpu" else ()):
            command = [sys.executable, "-W", "ignore", "-m", f"benchmarks.{name}"]
            process = subprocess.Popen(
                [*command, *sys.argv[1:]], stdout=subprocess.PIPE, text=True, bufsize=1
            )
            assert process.stdout is not None, "it was asked for"
            for line in process.stdout:
                print(line, end="", flush=True)
                f.write(line)
            if process.wait() != 0:
                failed.append(name)
    print(f"The tables are in {path}")
    if failed:
        sys.exit(f"error: these ended before their end, see above: {', '.join(failed)}")


if __name__ == "__main__":
    main()
