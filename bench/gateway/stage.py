# SPDX-License-Identifier: Apache-2.0
"""The stage of a benchmark: its processes, each on its core, all of them ended, and what they cost.

Unless a benchmark says otherwise, client and upstream share the first core and the proxy has the last one to itself.
CPU time and memory come from /proc, for the process and all its descendants: user and system time of every thread, in
ticks of 10 ms.
"""

import argparse
import contextlib
import http.client
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Final, NamedTuple

from bench.gateway import peer
from bench.gateway.load import bodies
from bench.gateway.upstream import read_stats
from bench.report import CORES, OUT, BenchError, Exit, Neighbours, Report, exit_code, save, show

__all__ = [
    "Proxy",
    "StageError",
    "arguments",
    "conclude",
    "cpu_seconds",
    "pin",
    "resident_bytes",
    "start_proxy",
    "upstream",
    "workspace",
]

ROOT: Final = Path(__file__).resolve().parents[2]
_TICKS: Final = os.sysconf("SC_CLK_TCK")
_START_LIMIT_S: Final = 90.0
"""The peer imports for many seconds on a slow disk."""
_STOP_LIMIT_S: Final = 10.0

CONFIG: Final = """\
[upstreams.bench]
url = "http://127.0.0.1:{port}"
dialect = "openai"
models = ["*"]
[detect]
learned = "off"
"""


class StageError(BenchError):
    """A process did not start or died; its last words are in the message."""


class Proxy(NamedTuple):
    """A running proxy."""

    name: str
    pid: int
    port: int
    key: str
    """What the client sends as Bearer token."""
    first_answer_s: float
    """From the start of the process to the first completion with status 200."""
    data: Path
    """Directory the proxy writes to."""


def cores() -> tuple[int, int]:
    """The core of client and upstream, and the core of the proxy; the same one where there is but one."""
    return CORES[0], CORES[-1]


def pin(core: int | None = None) -> None:
    """Put this process, the load client, on a core; the first where none is given."""
    os.sched_setaffinity(0, {cores()[0] if core is None else core})


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def _process(command: list[str], *, core: int, env: Mapping[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command in a session of its own on one core; at the end the whole session is ended, by its id."""
    taskset = shutil.which("taskset")
    pinned = [taskset, "-c", str(core), *command] if taskset else command
    with log.open("wb") as words:
        child = subprocess.Popen(
            pinned, stdin=subprocess.DEVNULL, stdout=words, stderr=words, env=dict(env), start_new_session=True
        )
    try:
        yield child
    finally:
        _stop(child)


def _stop(child: subprocess.Popen[bytes]) -> None:
    child.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        child.wait(_STOP_LIMIT_S)
    # Whatever the process left in its session goes too; a session without members is no error.
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


@contextlib.contextmanager
def workspace() -> Iterator[Path]:
    """A directory on the disk of the project, removed at the end."""
    OUT.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="work-", dir=OUT) as name:
        yield Path(name)


@contextlib.contextmanager
def upstream(work: Path, *, loop: str = "uvloop", core: int | None = None) -> Iterator[int]:
    """Run the upstream double, on the first core where none is given; gives its port."""
    port, log = free_port(), work / f"upstream-{loop}.log"
    command = [sys.executable, "-m", "bench.gateway.upstream", "--port", str(port), "--loop", loop]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    with _process(command, core=cores()[0] if core is None else core, env=env, log=log) as child:
        wait_until_ok("GET", port, "/v1/models", child=child, log=log)
        yield port


def wait_until_ok(  # noqa: PLR0913  each is one fact of a request
    method: str,
    port: int,
    path: str,
    *,
    child: subprocess.Popen[bytes],
    log: Path,
    body: bytes | None = None,
    key: str = "",
    limit_s: float = _START_LIMIT_S,
) -> None:
    """Ask every 5 ms until the answer is 200.

    Raises:
        StageError: The process ended, or the limit is over.
    """
    end = time.monotonic() + limit_s
    headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
    last = "no answer"
    while time.monotonic() < end:
        if child.poll() is not None:
            break
        link = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        try:
            link.request(method, path, body, headers)
            answer = link.getresponse()
            text = answer.read()
            if answer.status == http.client.OK:
                return
            last = f"status {answer.status}: {text[:200].decode(errors='replace')}"
        except (OSError, http.client.HTTPException) as error:
            last = str(error)
        finally:
            link.close()
        time.sleep(0.005)
    words = log.read_text(errors="replace")[-1500:]
    raise StageError(f"{path} on port {port} did not answer 200 ({last}); the process said:\n{words}")


@contextlib.contextmanager
def start_proxy(name: str, *, upstream_port: int, work: Path, program: str = "") -> Iterator[Proxy]:
    """Run `shieldwall` or `litellm` on the proxy's core, until its first completion was answered.

    Args:
        name: Which.
        upstream_port: Where it sends requests.
        work: Directory for its files.
        program: Path of the `shieldwall` command; default: the one beside this Python.

    Raises:
        StageError: It did not start.
    """
    port = free_port()
    data = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=work))
    if name == "litellm":
        key, command, env = peer.command(port, upstream_port)
    else:
        key, command, env = _shieldwall(program or str(Path(sys.executable).with_name(name)), port, upstream_port, data)
    log = data.with_suffix(".log")
    asked_before = read_stats(upstream_port).requests
    start = time.perf_counter()
    with _process(command, core=cores()[1], env=env, log=log) as child:
        body = bodies(1, seed=0)[0]
        wait_until_ok("POST", port, "/v1/chat/completions", child=child, log=log, body=body, key=key)
        first_answer_s = time.perf_counter() - start
        if not read_stats(upstream_port).requests > asked_before:
            raise StageError(
                f"{name} answered without asking the upstream: whatever is measured is not the way through"
            )
        yield Proxy(name, child.pid, port, key, first_answer_s, data)


def _shieldwall(program: str, port: int, upstream_port: int, data: Path) -> tuple[str, list[str], dict[str, str]]:
    """Make a key and give the command of a node with keys, policy, rules and journal.

    Learned tiers are off: `bench.detect` measures what they cost.
    """
    config = data.with_suffix(".toml")
    config.write_text(CONFIG.format(port=upstream_port))
    try:
        made = subprocess.run(
            [program, "keys", "create", "bench", "--data", str(data)], capture_output=True, timeout=30, check=True
        )
    except FileNotFoundError:
        raise StageError(f"{program} is not there; run `make setup`") from None
    except subprocess.SubprocessError as error:
        words = getattr(error, "stderr", b"") or b""
        raise StageError(f"no key could be made: {error}\n{words[-500:].decode(errors='replace')}") from None
    command = [program, "up", "--listen", f"127.0.0.1:{port}", "--data", str(data), "--config", str(config)]
    return made.stdout.decode().strip(), command, dict(os.environ)


def _descendants(pid: int) -> list[int]:
    """The process and all processes below it."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                children.setdefault(int(_stat(int(entry.name))[1]), []).append(int(entry.name))
    found, queue = [], [pid]
    while queue:
        found.append(queue.pop())
        queue.extend(children.get(found[-1], ()))
    return found


def _stat(pid: int) -> list[str]:
    """Fields of /proc/PID/stat from the third on: the name before them may hold blanks and brackets."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()


def cpu_seconds(pid: int) -> float:
    """User and system time of a process, of its threads and of all its descendants, also of those already gone."""
    ticks = 0
    for member in _descendants(pid):
        with contextlib.suppress(OSError):
            # Fields 14 to 17 of proc(5): utime, stime, cutime, cstime.
            ticks += sum(int(value) for value in _stat(member)[11:15])
    return ticks / _TICKS


def resident_bytes(pid: int) -> int:
    """Resident memory of a process and its descendants; pages they share count for each."""
    total = 0
    for member in _descendants(pid):
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{member}/status").read_text().splitlines():
                if line.startswith("VmRSS:"):
                    total += int(line.split()[1]) * 1024
    return total


def arguments(name: str, doc: str | None) -> argparse.ArgumentParser:
    """The options that all benchmarks of the area share."""
    parser = argparse.ArgumentParser(
        prog=f"python -m bench.gateway.{name}", description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3, help="rounds, so that the spread can be seen (default: 3)")
    parser.add_argument("--json", type=Path, help="also write the report here")
    parser.add_argument("--shieldwall", default="", help="the command to measure (default: the one beside this Python)")
    parser.add_argument(
        "--proxies",
        type=lambda text: text.split(","),
        default=["shieldwall", "litellm"],
        help="what to measure, comma between (default: shieldwall,litellm)",
    )
    return parser


def conclude(run: Callable[[argparse.Namespace], Report], options: argparse.Namespace) -> int:
    """Run a benchmark, print its table, write its report; the exit code says whether all targets were reached."""
    neighbours = Neighbours()
    try:
        result = run(options)
    except BenchError as error:
        sys.stderr.write(f"bench: error: {error}\n")
        return int(Exit.UNKNOWN)
    except Exception:  # noqa: BLE001  a crash, of whatever kind, must not read as "a target was missed"
        traceback.print_exc()
        return int(Exit.UNKNOWN)
    result.machine.update(neighbours.describe())
    print(show([result]))
    if options.json:
        save(result, options.json)
    return int(exit_code([result]))
