"""
Check on a GPU, in minutes and without a network, what tests check on CPUs: losses, synchronisation
with the host, training in each precision, the process group, resuming after SIGKILL, quickstart.
Then measure losses, heads and a training step beside their peers, where the same results are a
condition. Each part has a process and a limit of its own, so that a failure hides nothing else.
output/gpu_check has a log of each, and gpu_check.md with the results and all tables.

    python -m benchmarks.gpu_check --device cuda
"""

import functools
import json
import math
import multiprocessing
import os
import platform
import runpy
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from tabulate import tabulate

from datasets.make_symbols import generate_symbols
from eql_seesaw.command_line import argument_parser
from eql_seesaw.engine import launch
from eql_seesaw.engine.launch import join_ranks
from eql_seesaw.engine.placement import Placement
from eql_seesaw.losses import LOSSES, build_loss
from eql_seesaw.rank_barrier import wait_for_all
from eql_seesaw.train import train_or_evaluate

from .losses import image_counts, sample_labels
from .measure import arguments

FOLDER, DATA = Path("output/gpu_check"), Path("output/gpu_check_data")
CONFIG_FILE = str(Path(__file__).parents[1] / "configs" / "quickstart" / "seesaw.yaml")
# Settings that leave nothing to draw, of losses that draw at random.
DRAW_NOTHING = {
    "softmax_eql": {"gamma": 1.0},
    "bags": {"others_ratio": 1e6},
    "federated": {"num_sampled": 10_000},
    "drop_loss": {"max_image_count": 0},
    "acsl": {"background_shares": (1.0, 1.0)},
}
QUICK_TRAINING = (
    *("INPUT.MIN_SIZE_TRAIN", "(64,)", "INPUT.MIN_SIZE_TEST", "64", "SOLVER.IMS_PER_BATCH", "1"),
    *("MODEL.RPN.POST_NMS_TOPK_TRAIN", "50", "TEST.DETECTIONS_PER_IMAGE", "5"),
    *("TEST.REPORT", "False"),
)
TABLES = ("losses", "post_processing", "box_predictor", "mask_head", "train_step")
SECONDS_PER_PART = 600


def loss_and_samples(name: str, args, device: str, num_samples: int = 512):
    """A loss with LVIS's long tail, or a short one; logits and labels, the same on all devices."""
    num_classes = 20 if args.quick else 1203
    counts = image_counts(num_classes)
    statistics = {"image_counts": counts, "instance_counts": counts, "num_images": 100_170}
    statistics["num_steps"] = 0  # what starts late, has started
    loss = build_loss(name, num_classes, **statistics, **DRAW_NOTHING.get(name, {})).to(device)
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(num_samples, loss.num_logits, generator=generator)
    return loss, logits, sample_labels(counts, num_samples, 0.25)


def two_steps(loss, logits, gt_classes, compiled=None):
    """Loss of a second step, which sees the statistics of the first, with its gradient."""
    function = loss if compiled is None else compiled
    for _ in range(2):
        leaf = logits.clone().requires_grad_()
        total = sum(function(leaf, gt_classes).values())
        total.backward()
    return total.detach(), leaf.grad, dict(loss.named_buffers()), loss.probabilities(logits)


def check_loss(name: str, args, dtype: torch.dtype, compile_=None) -> None:
    """Values, gradients, statistics and probabilities are those of a CPU in float64."""
    reference, logits, gt_classes = loss_and_samples(name, args, "cpu")
    logits = logits.to(dtype)
    expected = two_steps(reference, logits.double(), gt_classes)
    loss, _, _ = loss_and_samples(name, args, args.device)
    with torch.autocast(args.device, dtype, enabled=dtype != torch.float32):
        on_device = (logits.to(args.device), gt_classes.to(args.device))
        found = two_steps(loss, *on_device, compile_ and compile_(loss))
    # Computed in float32; the gradient is then rounded to the dtype of the logits.
    rounding = max(1e-4, 2 * torch.finfo(dtype).eps)
    for what, (own, value), rtol in zip(
        ("value", "gradient", "statistics", "probabilities"),
        zip(found, expected),
        (1e-4, rounding, 1e-4, 1e-4),
    ):
        torch.testing.assert_close(
            own,
            value,
            rtol=rtol,
            atol=1e-6,
            check_device=False,
            check_dtype=False,
            msg=lambda text, what=what: f"{name} in {dtype}, {what}: {text}",
        )


def losses(args, folder: Path, dtype: torch.dtype) -> str:
    for name in LOSSES:
        check_loss(name, args, dtype)
    return f"{len(LOSSES)} losses as on a CPU in float64"


def compiled_losses(args, folder: Path) -> str:
    backend = "eager" if args.quick else "inductor"
    for name in LOSSES:
        check_loss(name, args, torch.float32, functools.partial(torch.compile, backend=backend))
    return f"{len(LOSSES)} losses as on a CPU in float64"


def host_synchronisation(args, folder: Path) -> str:
    """Without a GPU on the meta device, where nothing can be looked at either."""
    device = "cuda" if args.device == "cuda" else "meta"
    for name in LOSSES:
        loss, *samples = loss_and_samples(name, args, device)
        samples = [tensor.to(device) for tensor in samples]
        if device == "cuda":
            two_steps(loss, *samples)  # what the first call sets up does not count
            torch.cuda.set_sync_debug_mode("error")
        two_steps(loss, *samples)
        if device == "cuda":
            torch.cuda.set_sync_debug_mode("default")
    return "no loss waits for the device"


def training_words(args, output: Path, *options: str) -> list[str]:
    """Arguments of a training on the generated dataset."""
    settings = {
        "DATASETS.REGISTER.symbols_train.JSON": DATA / "symbols_train.json",
        "DATASETS.REGISTER.symbols_train.IMAGES": DATA / "train",
        "DATASETS.REGISTER.symbols_val.JSON": DATA / "symbols_val.json",
        "DATASETS.REGISTER.symbols_val.IMAGES": DATA / "val",
        "MODEL.DEVICE": args.device,
        "SOLVER.STEPS": "()",
        "DATALOADER.NUM_WORKERS": 0,
        "OUTPUT_DIR": output,
    }
    words = [str(word) for item in settings.items() for word in item]
    words += QUICK_TRAINING if args.quick else ()
    return ["--resume", "--config-file", CONFIG_FILE, *words, *options]


def train(args, output: Path, *options: str) -> list[dict]:
    """Lines of metrics.json after a training, as of train_net.py."""
    launch(
        train_or_evaluate, argument_parser("").parse_args(training_words(args, output, *options))
    )
    lines = [json.loads(line) for line in open(output / "metrics.json")]
    assert all(math.isfinite(line["total_loss"]) for line in lines if "total_loss" in line)
    return lines


def training_steps(args, folder: Path, precision: str) -> str:
    names = ("eql", "seesaw") if args.quick else LOSSES
    steps = 2 if args.quick else 10
    options = ["DATASETS.TEST", "()", "TEST.BEST_METRIC", "", "SOLVER.MAX_ITER", str(steps)]
    if precision != "float32":
        options += ["SOLVER.AMP.ENABLED", "True", "SOLVER.AMP.PRECISION", precision]
    for name in names:
        lines = train(args, folder / name, *options, "MODEL.ROI_BOX_HEAD.CLS_LOSS", name)
        assert lines[-1]["iteration"] == steps - 1, lines
    return f"{steps} steps of {len(names)} losses, finite"


def process_group(args, folder: Path) -> str:
    """One rank in the group of several: tensors, objects, DDP with statistics, both barriers."""
    placement = Placement("train_net.py", 0, 1, 0, 1, f"file://{folder.resolve()}/rendezvous")
    join_ranks(placement, timedelta(minutes=1))
    ones = torch.ones(3, device=args.device)
    dist.all_reduce(ones)
    assert ones.tolist() == [1, 1, 1]
    objects = [None]
    dist.all_gather_object(objects, "an object")
    assert objects == ["an object"]
    loss, _, gt_classes = loss_and_samples("seesaw", args, args.device)
    layer = torch.nn.Linear(8, loss.num_logits, device=args.device)
    model = torch.nn.parallel.DistributedDataParallel(layer)
    features = torch.randn(len(gt_classes), 8, device=args.device)
    sum(loss(model(features), gt_classes.to(args.device)).values()).backward()
    assert layer.weight.grad is not None and layer.weight.grad.isfinite().all()
    dist.barrier()
    wait_for_all()
    backend = dist.get_backend()
    dist.destroy_process_group()
    return f"one rank, {backend}"


def killed_and_resumed(args, folder: Path) -> str:
    """SIGKILL to all processes of a run once it has a checkpoint; two ranks where there are two."""
    num_processes = 2 if args.device == "cuda" and torch.cuda.device_count() > 1 else 1
    options = ["DATASETS.TEST", "()", "TEST.BEST_METRIC", "", "SOLVER.CHECKPOINT_PERIOD", "2"]
    program = [sys.executable, "-m", "eql_seesaw.train", "--num-gpus", str(num_processes)]
    words = training_words(args, folder, *options)
    last = folder / "last_checkpoint"
    with subprocess.Popen(
        [*program, *words, "SOLVER.MAX_ITER", "2000"], start_new_session=True
    ) as process:
        while not last.exists():
            assert process.poll() is None, f"it ended before its first checkpoint, see {folder}"
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGKILL)
    saved = int(last.read_text().removeprefix("model_").removesuffix(".pth"))
    subprocess.run([*program, *words, "SOLVER.MAX_ITER", str(saved + 5)], check=True)
    log = (folder / "log.txt").read_text()
    assert f"Starting training from iteration {saved + 1}" in log
    assert (folder / "last_checkpoint").read_text() == "model_final.pth"
    return f"{num_processes} process(es), killed after and resumed from iteration {saved}"


def quickstart(args, folder: Path) -> str:
    steps = 3 if args.quick else 300
    found = train(args, folder, "SOLVER.MAX_ITER", str(steps))[-1]["segm/AP"]
    assert math.isfinite(found)
    return f"mask AP {found:.1f} after {steps} steps"


def table(args, folder: Path, script: str) -> str:
    sys.argv = [script, "--device", args.device, *(["--quick"] if args.quick else [])]
    runpy.run_module(f"benchmarks.{script}", run_name="__main__")
    return "same results, times below"


def run_part(args, name: str, run: Callable[..., str]) -> None:
    """In a process of its own: standard output, errors and the returned note go to files."""
    folder = FOLDER / name
    for stream, file in ((1, "output.md"), (2, "errors.txt")):
        os.dup2(os.open(folder / file, os.O_WRONLY | os.O_CREAT, 0o644), stream)
    try:
        (folder / "note").write_text(run(args, folder))
    except BaseException as error:
        traceback.print_exc()
        first_line = (str(error).strip().splitlines() or [""])[0]
        (folder / "note").write_text(f"{type(error).__name__}: {first_line}")
        sys.exit(1)


def run_part_apart(args, name: str, run: Callable[..., str]) -> list[str]:
    """A row of the results: name, pass or FAIL, seconds, note."""
    folder = FOLDER / name
    folder.mkdir(parents=True)
    start = time.perf_counter()
    # A server that has imported all, and has not touched the GPU, saves seconds for each process.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["benchmarks.gpu_check", "benchmarks.mask_head"])
    process = context.Process(target=run_part, args=(args, name, run))
    process.start()
    process.join(SECONDS_PER_PART)
    note = folder / "note"
    if process.exitcode is None:
        process.kill()
        note.write_text(f"no end after {SECONDS_PER_PART} s")
    elif not note.exists():
        note.write_text(f"the process ended with status {process.exitcode}")
    result = "pass" if process.exitcode == 0 else "FAIL"
    row = [name, result, f"{time.perf_counter() - start:.0f} s", note.read_text()]
    print(f"{result}  {name}, {row[2]}: {row[3]}", flush=True)
    return row


def main() -> None:
    args = arguments(__doc__)
    for old in (FOLDER, DATA):
        shutil.rmtree(old, ignore_errors=True)
    quick = {"image_size": 64, "image_counts": range(1, 31), "val_images_per_class": 1}
    generate_symbols(str(DATA), num_classes=30, **(quick if args.quick else {}))
    on_gpu = args.device == "cuda"
    parts: dict[str, Callable[..., str]] = {}
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        parts[f"losses_{str(dtype)[6:]}"] = functools.partial(losses, dtype=dtype)
    parts |= {
        "losses_compiled": compiled_losses,
        "host_synchronisation": host_synchronisation,
        "process_group": process_group,
    }
    # On CPUs there is no training in float16.
    for precision in ("float32", "float16", "bfloat16") if on_gpu else ("float32", "bfloat16"):
        parts[f"training_{precision}"] = functools.partial(training_steps, precision=precision)
    parts |= {"killed_and_resumed": killed_and_resumed, "quickstart": quickstart}
    parts |= {script: functools.partial(table, script=script) for script in TABLES}
    results = [run_part_apart(args, name, run) for name, run in parts.items()]
    path = FOLDER / "gpu_check.md"
    device = torch.cuda.get_device_name() if on_gpu else platform.processor() or "CPU"
    number = torch.cuda.device_count() if on_gpu else os.cpu_count()
    with open(path, "w") as f:
        f.write(
            f"## {device}\n\n{time.strftime('%-d %B %Y')}, {number} of them, torch "
            f"{torch.__version__}, CUDA {torch.version.cuda if on_gpu else 'not used'}, Python "
            f"{platform.python_version()}.\n\n"
            f"{tabulate(results, ('part', 'result', 'seconds', 'note'), 'pipe')}\n\n"
        )
        for script in TABLES:
            f.write((FOLDER / script / "output.md").read_text().replace("## ", "### "))
    failed = [name for name, result, *_ in results if result != "pass"]
    print(f"The results and all tables are in {path}, logs beside it")
    if failed:
        sys.exit(f"error: {len(failed)} of {len(results)} parts failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
