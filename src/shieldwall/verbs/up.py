# SPDX-License-Identifier: Apache-2.0
"""`shieldwall up`: the main job. Puts the gateway in front of an endpoint and runs until it is told to stop."""

import argparse
import asyncio
import logging
import os
import signal
import socket
import sys
from pathlib import Path

import msgspec

from shieldwall.core.errors import ConfigError
from shieldwall.gateway import UpstreamSettings
from shieldwall.node import Config, DataDirectory, Node, load_config
from shieldwall.server import bind, serve
from shieldwall.verbs.control import listening

__all__ = ["add", "config_of"]

_DEMO = UpstreamSettings(url="demo:", dialect="demo", models=("demo", "demo-*"))


def add(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Describe the verb."""
    verb = verbs.add_parser("up", help="start the gateway", description=__doc__)
    verb.add_argument("--listen", metavar="HOST:PORT", help="address to listen on (default 127.0.0.1:8787)")
    verb.add_argument("--data", metavar="DIR", default=None, help="data directory (default ./DATA)")
    verb.add_argument(
        "--config", metavar="FILE", type=Path, help="configuration file (default DATA/config.toml if there is one)"
    )
    verb.add_argument(
        "--upstream",
        metavar="NAME=URL",
        action="append",
        default=[],
        help="an endpoint to guard, may be repeated; its key is read from the environment variable NAME_API_KEY",
    )
    verb.add_argument(
        "--mode",
        choices=("enforce", "observe"),
        help="observe judges and records, and blocks nothing (default enforce)",
    )
    verb.add_argument(
        "--profile", choices=("permissive", "balanced", "strict"), help="packaged policy (default balanced)"
    )
    verb.add_argument("--insecure", action="store_true", default=None, help="listen beyond this machine without TLS")
    verb.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Run a node until SIGINT or SIGTERM."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    config = config_of(arguments)
    with DataDirectory(Path(config.data)) as data:
        listener = bind(config)
        node = Node(config, data)
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            runner.run(_serve(node, listener))
    return 0


def config_of(arguments: argparse.Namespace) -> Config:
    """The configuration that options, file and defaults make together."""
    data = Path(arguments.data or "DATA")
    path = arguments.config
    if path is None and (data / "config.toml").exists():
        path = data / "config.toml"
    options = {name: getattr(arguments, name) for name in ("listen", "mode", "profile", "insecure", "data")}
    config = load_config(path, {name: value for name, value in options.items() if value is not None})
    upstreams = dict(config.upstreams)
    for each in arguments.upstream:
        name, url = _upstream(each)
        upstreams[name] = url
    # The demo answers only to its own model names, so it is in nobody's way; it makes the first request work.
    if not any(each.url.startswith("demo:") for each in upstreams.values()):
        upstreams = {"demo": _DEMO, **upstreams}
    return msgspec.structs.replace(config, upstreams=upstreams, data=config.data or "DATA")


def _upstream(option: str) -> tuple[str, UpstreamSettings]:
    name, equals, url = option.partition("=")
    if not equals or not name.replace("-", "").replace("_", "").isalnum():
        raise ConfigError("--upstream is NAME=URL, such as openai=https://api.openai.com")
    variable = f"{name.upper().replace('-', '_')}_API_KEY"
    dialect = "anthropic" if "anthropic" in url or name == "anthropic" else "openai"
    return name, UpstreamSettings(url=url, dialect=dialect, key_env=variable if os.environ.get(variable) else "")


def _loop_factory() -> "type[asyncio.AbstractEventLoop] | None":
    if sys.platform == "win32":
        return None
    import uvloop

    return uvloop.new_event_loop  # type: ignore[return-value]


async def _serve(node: Node, listener: socket.socket) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    await node.start()
    try:
        async with serve(node, listener), listening(node):
            await _greet(node, listener.getsockname()[1])
            await stop.wait()
            print("shieldwall: stopping", file=sys.stderr)
    finally:
        await node.stop()


async def _greet(node: Node, port: int) -> None:
    """Say where the node is, and how to send the first request. `port` is the real one: 0 asks for any that is free."""
    config = node.config
    scheme = "https" if config.tls else "http"
    host, _, _ = config.listen.rpartition(":")
    address = f"{scheme}://{host}:{port}"
    served = ", ".join(config.upstreams)
    key = await _demo_key(node)
    print(f"shieldwall: {config.mode}, {config.profile}, {address}, upstreams: {served}", flush=True)
    print(f"shieldwall: console {address}/console/ (log in with a key of role operator or viewer)", flush=True)
    if key is not None:
        message = '{"model": "demo", "messages": [{"role": "user", "content": "Hello"}]}'
        print("\nTry it:\n", flush=True)
        print(
            f'curl {address}/v1/chat/completions -H "Authorization: Bearer $(cat {key})" '
            f"-H 'Content-Type: application/json' -d '{message}'\n",
            flush=True,
        )


async def _demo_key(node: Node) -> Path | None:
    """The key of the curl line: made once, reused, readable by its owner only."""
    path = node.data.path / "demo.key"
    if path.exists():
        return path
    if len(node.keys):
        return None
    key = await node.create_key("demo", "operator")
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(key + "\n")
    return path
