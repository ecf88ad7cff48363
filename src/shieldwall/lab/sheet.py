# SPDX-License-Identifier: Apache-2.0
"""The datasheet of a training run: what was learnt from, how, and how well, in the run's own numbers."""

from collections.abc import Mapping
from typing import Any, Final

__all__ = ["sheet"]

_PAGE: Final = """\
# The learned tiers: datasheet

Written by `shieldwall lab train`. `report.json` beside it holds the whole plan, digests and versions.

**What.** `encoder.onnx`: all-MiniLM-L6-v2 (Apache-2.0; its `model.safetensors` has SHA-256 `{base:.16}…`), fine-tuned
to tell benign, injection, jailbreak, extraction and harmful apart, in 8 bits. `tokenizer.json` is that model's own.
`fast.npz`: a convolution over words that learnt from the encoder. `encoder.json`, `points.json`: calibration and
operating points. Apache-2.0, like the rest of the package.

**Learnt from.** {texts}. *public*: rows of the corpora (train, SHA-256 `{train:.16}…`); rows whose licence is not
stated are {unlicensed}. *made* and *joined*: texts of our own (`docs/data.md`). Six in a hundred are disguised.

**How.** Encoder: {encoder[steps]:,} steps of {encoder[tokens]:,} word pieces, seed {encoder[seed]}. Fast tier:
{fast[windows]:,} windows with the encoder's opinion of each, {fast[epochs]} passes, seed {fast[seed]}.

**Judged on** sources that were not learnt from (dev/ood, SHA-256 `{dev:.16}…`): each tier reads every window of every
text. The same rows fitted the curves and points, not the weights.

| tier | AUC | recall at 1 % false positives |
| --- | ---: | ---: |
{figures}

Probabilities are those of traffic of which {prior:.0%} are attacks. The encoder is asked about {asked:.2%} of ordinary
texts (chosen on {traffic}; documents among them also served as hosts of joined texts).

**Known weaknesses.** The vocabulary is English: other languages are read in small pieces, and above 20 % unknown ones
the encoder says nothing. Attacks from sources unlike those learnt from are often missed; prose about violence, sex and
hatred is sometimes taken for an attack. A tier sees one text at a time, not a conversation.
"""


def sheet(report: Mapping[str, Any]) -> str:
    """The datasheet as Markdown.

    Args:
        report: What `lab.train.train` gives.
    """
    plan = report["plan"]
    rows = (
        f"| {name} | {figures['auc']:.3f} | {figures['recall_at_1_percent']:.3f} |"
        for name, figures in report["dev_ood"].items()
    )
    return _PAGE.format(
        **{name: report[name] for name in ("base", "train", "dev")},
        **{name: plan[name] for name in ("encoder", "fast", "prior", "asked")},
        texts=", ".join(f"{count:,} texts *{name}*" for name, count in report["texts"].items()),
        unlicensed="taken" if plan["pool"]["unlicensed"] else "left out",
        figures="\n".join(rows),
        traffic=", ".join(f"{count:,} {surface}" for surface, count in report["traffic"].items()),
    )
