# SPDX-License-Identifier: Apache-2.0
"""From events to findings: rules over every form of a text, cheap enough for each byte that passes."""

from shieldwall.detect.field import FieldJudge
from shieldwall.detect.rule import Rule
from shieldwall.detect.rulefile import load_rules
from shieldwall.detect.rules import SELFTEST_TEXT, RuleDetector

__all__ = ["SELFTEST_TEXT", "FieldJudge", "Rule", "RuleDetector", "load_rules"]
