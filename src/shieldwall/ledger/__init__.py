# SPDX-License-Identifier: Apache-2.0
"""What was decided cannot be unsaid: a journal that makes every decision durable, and a log that outsiders verify.

A node appends to a `Journal` and publishes it with `opened_log`; everybody else needs a verifier key and the functions
that check a receipt, a range or the whole log, from a `Directory` or a `Url`.
"""

from shieldwall.ledger.audit import LogReport, Problem, ReceiptReport, is_certain, verify_log, verify_receipt
from shieldwall.ledger.audit_range import RangeReport, verify_range
from shieldwall.ledger.home import begin_log, opened_log, read_vkeys
from shieldwall.ledger.journal import Journal, Promise, Settings
from shieldwall.ledger.keys import KeyType, VKey, parse_vkey
from shieldwall.ledger.log import Log, Status
from shieldwall.ledger.merkle import Hasher, PlainHasher, leaf_hash
from shieldwall.ledger.merkle_hasher import make_hasher
from shieldwall.ledger.monitor import Expected, Monitor, MonitorReport
from shieldwall.ledger.monitor import Settings as MonitorSettings
from shieldwall.ledger.register import LogRefused
from shieldwall.ledger.source import Directory, Read, Url
from shieldwall.ledger.storage import PosixStorage
from shieldwall.ledger.trust import Policy, parse_policy

__all__ = [
    "Directory",
    "Expected",
    "Hasher",
    "Journal",
    "KeyType",
    "Log",
    "LogRefused",
    "LogReport",
    "Monitor",
    "MonitorReport",
    "MonitorSettings",
    "PlainHasher",
    "Policy",
    "PosixStorage",
    "Problem",
    "Promise",
    "RangeReport",
    "Read",
    "ReceiptReport",
    "Settings",
    "Status",
    "Url",
    "VKey",
    "begin_log",
    "is_certain",
    "leaf_hash",
    "make_hasher",
    "opened_log",
    "parse_policy",
    "parse_vkey",
    "read_vkeys",
    "verify_log",
    "verify_range",
    "verify_receipt",
]
