# SPDX-License-Identifier: Apache-2.0
"""The options that all benchmarks of the area share."""

import argparse
from pathlib import Path

__all__ = ["arguments"]


def arguments(name: str, doc: str | None) -> argparse.ArgumentParser:
    """A parser with the name of the benchmark, its module's docstring, and where the report goes."""
    parser = argparse.ArgumentParser(
        prog=f"python -m bench.detect.{name}", description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, help="also write the report here")
    return parser
