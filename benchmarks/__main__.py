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
    path = FOLDER / f"benchmarks{'' if args.device == 'cpu' else '_cuda'}.md"
    path.write_text("# Benchmarks\n\n")
    failed = []
    for name in ON_ANY_DEVICE + (ON_CPU if args.device == "cpu" else ()):
        command = [sys.executable, "-W", "ignore", "-m", f"benchmarks.{name}", *sys.argv[1:]]
        process = subprocess.run(command, stdout=subprocess.PIPE, text=True)
        print(process.stdout, flush=True)
        with open(path, "a") as f:
            f.write(process.stdout)
        if process.returncode:
            failed.append(name)
    print(f"The tables are in {path}")
    if failed:
        sys.exit(f"error: these ended before their end, see above: {', '.join(failed)}")


if __name__ == "__main__":
    main()
