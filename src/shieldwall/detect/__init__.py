# SPDX-License-Identifier: Apache-2.0
"""From events to findings: rules over every form of a text, and known texts found again by their sketches."""

from shieldwall.detect.canaries import CanarySet, load_common
from shieldwall.detect.field import FieldJudge
from shieldwall.detect.rule import Rule
from shieldwall.detect.rulefile import load_rules
from shieldwall.detect.rules import SELFTEST_TEXT, RuleDetector
from shieldwall.detect.signatures import SignatureIndex

__all__ = [
    "SELFTEST_TEXT",
    "CanarySet",
    "FieldJudge",
    "Rule",
    "RuleDetector",
    "SignatureIndex",
    "load_common",
    "load_rules",
]
