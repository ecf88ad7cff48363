# SPDX-License-Identifier: Apache-2.0
"""From events to findings: rules over every form of a text, and known texts found again by their sketches."""

from shieldwall.detect.canaries import CanarySet, load_common
from shieldwall.detect.cascade import Cascade, make_cascade
from shieldwall.detect.classes import CLASSES
from shieldwall.detect.encoder import Encoder, EncoderHeader
from shieldwall.detect.encoder_tokens import CLS, HIDDEN_SURFACE, PAD, SEP, WINDOW, surface_token
from shieldwall.detect.fast import FastTier
from shieldwall.detect.fast_file import FastHeader, FastWeights
from shieldwall.detect.fast_file import decode as decode_fast
from shieldwall.detect.fast_file import encode as encode_fast
from shieldwall.detect.fast_words import Vocabulary
from shieldwall.detect.field import FieldJudge
from shieldwall.detect.odds import logit
from shieldwall.detect.points import Points, load_points
from shieldwall.detect.rule import Rule
from shieldwall.detect.rulefile import load_rules
from shieldwall.detect.rules import SELFTEST_TEXT, RuleDetector
from shieldwall.detect.signatures import SignatureIndex

__all__ = [
    "CLASSES",
    "CLS",
    "HIDDEN_SURFACE",
    "PAD",
    "SELFTEST_TEXT",
    "SEP",
    "WINDOW",
    "CanarySet",
    "Cascade",
    "Encoder",
    "EncoderHeader",
    "FastHeader",
    "FastTier",
    "FastWeights",
    "FieldJudge",
    "Points",
    "Rule",
    "RuleDetector",
    "SignatureIndex",
    "Vocabulary",
    "decode_fast",
    "encode_fast",
    "load_common",
    "load_points",
    "load_rules",
    "logit",
    "make_cascade",
    "surface_token",
]
