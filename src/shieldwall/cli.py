# SPDX-License-Identifier: Apache-2.0
"""The command line: gathers the verbs, runs one, turns an error into a line and an exit code.

Exit codes: 0 done and clean, 1 found something, 2 could not tell, 64 usage.
"""

import argparse
import sys
from collections.abc import Sequence
from typing import NoReturn

from shieldwall import __version__
from shieldwall.core.errors import Error
from shieldwall.verbs import config, doctor, inspection, keys, lab, ledger, replay, up

__all__ = ["main"]

_EXIT = """exit codes: 0 done and clean, 1 found something, 2 could not tell, 64 usage"""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        print(f"shieldwall: error: {message}", file=sys.stderr)
        raise SystemExit(64)


def parser() -> argparse.ArgumentParser:
    """The whole command line, as `--help` shows it."""
    top = _Parser(prog="shieldwall", description="An open defence layer in front of AI models.", epilog=_EXIT)
    top.add_argument("--version", action="version", version=f"shieldwall {__version__}")
    verbs = top.add_subparsers(metavar="COMMAND", required=True, parser_class=_Parser)
    for module in (up, keys, inspection, replay, ledger, lab, doctor, config):
        module.add(verbs)
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    parsed = parser().parse_args(arguments)
    try:
        return int(parsed.run(parsed))
    except Error as error:
        print(f"shieldwall: error: {error}", file=sys.stderr)
        if error.hint:
            print(f"shieldwall: hint: {error.hint}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader of our output went away; what it did not read it does not want.
        sys.stderr.close()
        return 2


if __name__ == "__main__":
    sys.exit(main())
