"""
Train or evaluate a detector on long-tailed data.

    python train_net.py --config-file configs/quickstart/seesaw.yaml
    python train_net.py --config-file configs/lvis_v1/mask_rcnn_R_50_FPN_2x_seesaw.yaml --num-gpus 8
    torchrun --nproc_per_node 8 train_net.py --config-file ... [KEY VALUE ...]

Where only the package is installed, eql-seesaw-train stands for python train_net.py, and
torchrun ... -m eql_seesaw.train for torchrun ... train_net.py.
"""

import argparse
from collections.abc import Sequence

from .command_line import argument_parser, one_line_errors


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    args = argument_parser(__doc__).parse_args(arguments)
    with one_line_errors():
        # Not at the top: it takes seconds, for which --help need not wait.
        from .engine import launch, set_up

        # Mistakes in config and data are found before processes start or files are written.
        launch(train_or_evaluate, args, check=set_up)


def train_or_evaluate(args: argparse.Namespace) -> dict | None:
    """
    One process's part of a job.

    Args:
        args: as :func:`~eql_seesaw.engine.launch` gives them.

    Returns:
        The last metrics, as :func:`~eql_seesaw.engine.evaluate`; None where nothing was evaluated.
    """
    from . import engine

    setup = engine.set_up(args)
    cfg = setup.cfg
    with engine.hold_output_dir(cfg.OUTPUT_DIR, args.eval_only):
        engine.begin(setup, args)
        if args.eval_only:
            model = engine.LongTailTrainer.build_model(cfg)
            checkpointer = engine.build_checkpointer(cfg, model)
            engine.load_trained(
                checkpointer, cfg.MODEL.WEIGHTS, args.resume, test_classes=setup.test_classes
            )
            return engine.evaluate(setup, model)
        trainer = engine.LongTailTrainer(setup)
        trainer.resume_or_load(resume=args.resume)
        return trainer.train()


if __name__ == "__main__":
    main()
