# SPDX-License-Identifier: Apache-2.0
"""The peer the gateway is measured against: LiteLLM's proxy in an environment of its own, in exactly one version.

`bench/peers/litellm` holds the pin, the hashes and the configuration; the environment is made there on first use. A
figure against another version would be another figure, so a different one installed is an error.
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path
from typing import Final

from bench.report import BenchError

__all__ = ["VERSION", "PeerError", "command", "ensure"]

VERSION: Final = "1.106.2"
HOME: Final = Path(__file__).resolve().parents[1] / "peers" / "litellm"
_PYTHON: Final = HOME / ".venv" / "bin" / "python"
_INSTALL_LIMIT_S: Final = 900
_KEY: Final = "sk-bench-master"
"""Guards nothing: it lives for one run on the loopback address."""


class PeerError(BenchError):
    """The peer is not there in the version that is pinned."""


def installed() -> str:
    """Version in the peer's environment; empty when there is none."""
    if not _PYTHON.exists():
        return ""
    ask = "import importlib.metadata as m; print(m.version('litellm'))"
    found = subprocess.run([_PYTHON, "-c", ask], capture_output=True, timeout=60, check=False)
    return found.stdout.decode().strip()


def ensure() -> str:
    """Make the environment where there is none, and check its version; gives the version.

    Raises:
        PeerError: It could not be made, or holds another version.
    """
    version = installed()
    if not version:
        sys.stderr.write("making the peer's environment, about a minute\n")
        try:
            _run([sys.executable, "-m", "venv", str(HOME / ".venv")])
            # The lock lists everything with hashes, so nothing is resolved here.
            lock = ["--require-hashes", "--no-deps", "-r", str(HOME / "requirements.txt")]
            _run([str(_PYTHON), "-m", "pip", "install", "--quiet", *lock])
        except (OSError, subprocess.SubprocessError) as error:
            words = getattr(error, "stderr", b"") or b""
            raise PeerError(f"the peer could not be installed: {error}\n{words[-800:].decode()}") from None
        version = installed()
    if version != VERSION:
        raise PeerError(f"litellm {version or 'nothing'} is installed where {VERSION} is pinned; remove {HOME}/.venv")
    return version


def _run(arguments: list[str]) -> None:
    subprocess.run(arguments, capture_output=True, timeout=_INSTALL_LIMIT_S, check=True)


def command(port: int, upstream_port: int) -> tuple[str, list[str], dict[str, str]]:
    """Key, command and environment of the peer: one worker, no guard, no database, nothing fetched from outside.

    Raises:
        PeerError: The installed version is not the pinned one.
    """
    ensure()
    environment = {
        **os.environ,
        "BENCH_MASTER_KEY": _KEY,
        "BENCH_UPSTREAM": f"http://127.0.0.1:{upstream_port}/v1",
        # What its guide for production asks for.
        "LITELLM_LOG": "ERROR",
        "LITELLM_MODE": "PRODUCTION",
        # Tables that it would otherwise fetch at start; the copies in the package are the same.
        "LITELLM_LOCAL_ANTHROPIC_BETA_HEADERS": "True",
        "LITELLM_LOCAL_AUTOROUTER_PRESETS": "True",
        "LITELLM_LOCAL_BLOG_POSTS": "True",
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "LITELLM_LOCAL_POLICY_TEMPLATES": "True",
    }
    program = str(_PYTHON.with_name("litellm"))
    arguments = ["--config", str(HOME / "config.yaml"), "--host", "127.0.0.1", "--port", str(port)]
    return _KEY, [program, *arguments, "--num_workers", "1"], environment


def main(argv: list[str] | None = None) -> int:
    """Make the environment and print the version."""
    argparse.ArgumentParser(prog="python -m bench.gateway.peer", description=__doc__).parse_args(argv)
    try:
        print(ensure())
    except PeerError as error:
        sys.stderr.write(f"peer: error: {error}\n")
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
