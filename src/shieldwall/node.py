# SPDX-License-Identifier: Apache-2.0
"""The beam: one Config in, one running Node out. The only file that wires columns together."""

import asyncio
import atexit
import fcntl
import os
import secrets
import time
from pathlib import Path
from types import TracebackType
from typing import IO, Self

import msgspec

from shieldwall.adapters import BusShare, MemoryBus
from shieldwall.core import config as toml
from shieldwall.core.entry import EntryType, seal_entry
from shieldwall.core.errors import ConfigError, DataLocked, MissingExtra
from shieldwall.core.event import event_id
from shieldwall.core.guard import Guard, Surroundings
from shieldwall.detect import Cascade, RuleDetector, load_rules, make_cascade
from shieldwall.gateway import DemoUpstream, Doors, Keys, Upstreams, UpstreamSettings
from shieldwall.gateway import Settings as GatewaySettings
from shieldwall.govern import PROFILES, CedarPolicy, load_policy
from shieldwall.ledger import Journal
from shieldwall.ledger import Settings as LedgerSettings

__all__ = ["Config", "DataDirectory", "Node", "load_config", "make_guard"]


class DetectSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is looked for."""

    rules: str = ""
    """A directory of rule files that are loaded beside the packaged ones."""
    learned: str = "auto"
    """The learned tiers: `auto` where the extra `ml` is installed, `on`, or `off`."""
    encoder: str = ""
    """A folder with an ONNX sequence classifier that is asked instead of the packaged encoder."""

    def __post_init__(self) -> None:
        if self.learned not in ("auto", "on", "off"):
            raise ConfigError("learned is auto, on or off")


class PolicySettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is done about findings."""

    path: str = ""
    """A Cedar file or directory that replaces the profile."""


class TlsSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Certificate of the listening port."""

    certificate: str
    """PEM file, the chain included."""
    key: str
    """PEM file of its private key."""


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything a node is made from."""

    listen: str = "127.0.0.1:8787"
    """Address and port."""
    data: str = ""
    """The data directory; empty for a guard that keeps and records nothing."""
    name: str = "local"
    """This node's name in its log."""
    mode: str = "enforce"
    """`enforce`, or `observe`: judge and record, never block."""
    profile: str = "balanced"
    """`permissive`, `balanced` or `strict`."""
    insecure: bool = False
    """Allow an address that others can reach without TLS."""
    gateway: GatewaySettings = GatewaySettings()
    ledger: LedgerSettings = LedgerSettings()
    detect: DetectSettings = DetectSettings()
    policy: PolicySettings = PolicySettings()
    tls: TlsSettings | None = None
    upstreams: dict[str, UpstreamSettings] = {}

    def __post_init__(self) -> None:
        if self.mode not in ("enforce", "observe"):
            raise ConfigError("mode is enforce or observe")
        if self.profile not in PROFILES:
            raise ConfigError(f"profile is one of {', '.join(PROFILES)}")
        host_port(self.listen)

    @property
    def enforce(self) -> bool:
        """Whether what the policy blocks is blocked."""
        return self.mode == "enforce"


def host_port(listen: str) -> tuple[str, int]:
    """Split `HOST:PORT`; IPv6 addresses stand in brackets. Raises ConfigError."""
    host, _, port = listen.rpartition(":")
    if not host or not port.isdigit() or int(port) > 65_535:
        raise ConfigError("listen is HOST:PORT, such as 127.0.0.1:8787")
    return host.strip("[]"), int(port)


def load_config(path: Path | None, options: dict[str, object] | None = None) -> Config:
    """Read a configuration file and lay command line options over it.

    Raises:
        ConfigError: The file cannot be read, is not TOML, or holds a key or value that is wrong, named with its path.
    """
    data: dict[str, object] = {}
    if path is not None:
        try:
            text = path.read_text("utf-8")
        except (OSError, UnicodeDecodeError):
            raise ConfigError(f"{path} cannot be read", hint="name a readable UTF-8 file") from None
        data = toml.table(text, source=str(path))
    return toml.struct_from(data | (options or {}), Config, source=str(path or "options"))


def make_guard(config: Config, surroundings: Surroundings, journal: Journal | None, share: BusShare | None) -> Guard:
    """Detector and policy of a configuration, self-tested. Raises SelfTestFailed, RuleError, PolicyError."""
    detector = make_detector(config)
    policy = make_policy(config)
    return Guard(detector=detector, policy=policy, surroundings=surroundings, journal=journal, share=share)


def make_rules(config: Config) -> RuleDetector:
    """The rules of a configuration. Raises RuleError."""
    rules = load_rules()
    if config.detect.rules:
        rules = [*rules, *load_rules(Path(config.detect.rules))]
    return RuleDetector(rules)


def make_detector(config: Config) -> RuleDetector | Cascade:
    """The rules and learned tiers of a configuration, self-tested. Raises SelfTestFailed, RuleError, ConfigError."""
    rules = make_rules(config)
    detector: RuleDetector | Cascade = rules
    if config.detect.learned != "off":
        try:
            detector = make_cascade(rules, Path(config.detect.encoder) if config.detect.encoder else None)
        except MissingExtra:
            if config.detect.learned == "on" or config.detect.encoder:
                raise
    detector.self_test()
    return detector


def make_policy(config: Config) -> CedarPolicy:
    """The policy of a configuration. Raises PolicyError."""
    path = Path(config.policy.path) if config.policy.path else None
    return load_policy(config.profile, path, mode="enforce" if config.enforce else "observe")


def surroundings(config: Config, subject_key: bytes) -> Surroundings:
    """The real clock and the real chance."""
    return Surroundings(time.time_ns, time.perf_counter_ns, os.urandom, config.name, subject_key, asyncio.to_thread)


class DataDirectory:
    """`DATA`: one owner at a time. Use as a context."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock: IO[bytes] | None = None

    def __enter__(self) -> Self:
        """Take the lock. Raises DataLocked."""
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = (self.path / "lock").open("ab")
        except OSError as error:
            raise ConfigError(
                f"the data directory {self.path} cannot be used: {error.strerror}", hint="choose another with --data"
            ) from None
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._lock.close()
            raise DataLocked(f"another node owns {self.path}") from None
        (self.path / "keys").mkdir(mode=0o700, exist_ok=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give the lock back."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    @property
    def socket(self) -> Path:
        """Where a running node takes commands."""
        return self.path / "control.sock"

    def keys(self) -> Keys:
        """The API keys, as hashes."""
        return Keys(self.path / "keys" / "api-keys.json")

    def secret(self, name: str) -> bytes:
        """32 secret bytes under a name, made at first use, readable by the owner only."""
        path = self.path / "keys" / f"{name}.key"
        if not path.exists():
            draft = path.with_suffix(".new")
            descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(secrets.token_bytes(32))
                file.flush()
                os.fsync(file.fileno())
            draft.replace(path)
        return path.read_bytes()

    def journal(self, settings: LedgerSettings) -> Journal:
        """The journal, recovered."""
        return Journal(self.path / "journal", settings=settings)


class Node:
    """A running node: journal, guard, gateway. `server.py` shows it to the network."""

    def __init__(self, config: Config, data: DataDirectory) -> None:
        self.config = config
        self.data = data
        self.bus = MemoryBus()
        self.seen = BusShare(self.bus)
        self.keys = data.keys()
        self.at = surroundings(config, data.secret("subject"))
        self.journal = data.journal(config.ledger)
        try:
            self.guard = make_guard(config, self.at, self.journal, self.seen)
        except BaseException:
            self.journal.close()
            raise
        self._upstreams: Upstreams | None = None
        self.doors: Doors | None = None

    async def start(self) -> None:
        """Open what needs the loop, and record the start."""
        config = self.config
        await self._note(EntryType.NODE_START)
        await self._note(EntryType.NODE_SELFTEST)
        self._upstreams = Upstreams.open(config.upstreams, config.gateway, DemoUpstream())
        self.doors = Doors(
            guard=self.guard,
            keys=self.keys,
            upstreams=self._upstreams,
            settings=config.gateway,
            surroundings=self.at,
            enforce=config.enforce,
        )

    async def stop(self) -> None:
        """Record the stop and close everything, journal last."""
        try:
            if self._upstreams is not None:
                await self._upstreams.close()
            await self._note(EntryType.NODE_STOP)
        finally:
            await asyncio.to_thread(self.journal.close)

    async def create_key(self, name: str, role: str) -> str:
        """Make an API key; it works at once, and its making is on record before it is shown."""
        key = self.keys.create(name, role=role)
        await self._note(EntryType.KEY_CREATE, {"name": name, "role": role})
        return key

    async def _note(self, kind: EntryType, fields: dict[str, str] | None = None) -> None:
        await self.journal.append(*note(kind, self.at, fields))


def note(kind: EntryType, at: Surroundings, fields: dict[str, str] | None = None) -> tuple[bytes, bytes]:
    """Entry and opening for something the node did itself."""
    now = at.clock()
    return seal_entry(
        type=kind,
        time=now // 1_000,
        node=at.node,
        event=event_id(now, at.entropy(10)),
        subject="",
        policy="",
        model="",
        action="",
        score=0,
        findings=[],
        fields=fields or {},
        secret=at.entropy(32),
    )


def open_guard(path: str | Path | None) -> Guard:
    """The guard of a configuration, for callers that have no node. See `shieldwall.open`."""
    config = load_config(None if path is None else Path(path))
    if not config.data:
        return make_guard(config, surroundings(config, secrets.token_bytes(32)), None, None)
    data = DataDirectory(Path(config.data)).__enter__()
    journal = data.journal(config.ledger)
    guard = make_guard(config, surroundings(config, data.secret("subject")), journal, None)
    # The directory is this process's until it ends. Last registered, first called: the journal closes, the lock falls.
    atexit.register(data.__exit__, None, None, None)
    atexit.register(journal.close)
    return guard
