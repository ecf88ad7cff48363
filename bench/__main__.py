# SPDX-License-Identifier: Apache-2.0
"""Runs all benchmarks of an area and puts their figures in one table: `make bench AREA=gateway`.

Each benchmark is a process of its own, so that none measures what another left behind. The report goes to
`bench/out/AREA.json`. Exit code: 0 all targets reached, 1 one was missed, 2 something could not be measured.
"""

import argparse
import importlib
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

import msgspec

from bench.report import OUT, Exit, Report, exit_code, save, show

_ROOT: Final = Path(__file__).resolve().parents[1]
_LIMIT_S: Final = 420
"""For one benchmark, seconds; installing the peer for the first time is in it."""


def areas() -> list[str]:
    """Packages beside this file that list benchmarks."""
    return sorted(path.parent.name for path in Path(__file__).parent.glob("*/__init__.py"))


def run_one(area: str, name: str, more: list[str], report: Path) -> int:
    """Run one benchmark; its words go to standard error, its report to a file. Gives its exit code."""
    command = [sys.executable, "-m", f"bench.{area}.{name}", "--json", str(report), *more]
    child = subprocess.Popen(command, cwd=_ROOT, stdout=sys.stderr)
    try:
        return child.wait(_LIMIT_S)
    except subprocess.TimeoutExpired:
        sys.stderr.write(f"bench: error: {name} took more than {_LIMIT_S} s\n")
        return int(Exit.UNKNOWN)
    finally:
        # An interrupted run ends its benchmark, which ends what it started.
        child.terminate()
        child.wait()


def main(argv: list[str] | None = None) -> int:
    """Run an area."""
    parser = argparse.ArgumentParser(
        prog="python -m bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("area", choices=areas(), help="which benchmarks")
    parser.add_argument("--only", help="names of benchmarks, comma between (default: all)")
    parser.add_argument("--json", type=Path, help="where the report goes (default: bench/out/AREA.json)")
    options, more = parser.parse_known_args(argv)
    known: tuple[str, ...] = importlib.import_module(f"bench.{options.area}").BENCHMARKS
    names = options.only.split(",") if options.only else known
    if unknown := [name for name in names if name not in known]:
        parser.error(f"no such benchmark: {', '.join(unknown)}; there are {', '.join(known)}")
    reports, failed = list[Report](), list[str]()
    with tempfile.TemporaryDirectory() as directory:
        for name in names:
            sys.stderr.write(f"\n== {options.area} {name}\n")
            file = Path(directory) / f"{name}.json"
            run_one(options.area, name, more, file)
            if file.exists():
                reports.append(msgspec.json.decode(file.read_bytes(), type=Report))
            else:
                failed.append(name)
    if reports:
        save(reports, options.json or OUT / f"{options.area}.json")
        print(show(reports))
    if failed:
        print(f"could not be measured: {', '.join(failed)}")
        return int(Exit.UNKNOWN)
    return int(exit_code(reports))


if __name__ == "__main__":
    raise SystemExit(main())
