"""Machines of the benchmark: a network namespace each, joined by a bridge in a namespace of its own.

    hub (10.77.0.1) ── switch ── w0 (10.77.0.11), w1, w2, w3

Each worker's link carries 100 Mbit/s each way (`tc ... tbf`, at both ends of its pair); the hub's is not limited, as a
coordinator in a data centre is not. The kernel here has no netem, so there is no delay and no loss: round trips cost
less than on a real network, which favours whoever makes many of them. Bytes are what entered the switch's ports: each
byte that left a machine, once, headers included. Needs root and Debian's iproute2; touches no interface of the host.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from types import TracebackType

RATE, BURST, LATENCY = "100mbit", "64kb", "400ms"
HUB_ADDRESS = "10.77.0.1"


def missing() -> str:
    """Why namespaces cannot be made here; empty where they can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    if not (shutil.which("ip") and shutil.which("tc")):
        return "ip and tc are missing (Debian's iproute2)"
    tried = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=False)
    return tried.stderr.strip()


def address(worker: int) -> str:
    """The worker's address."""
    return f"10.77.0.{11 + worker}"


def _do(*words: str) -> str:
    done = subprocess.run(words, capture_output=True, text=True, timeout=30, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(words)}: {done.stderr.strip()}")
    return done.stdout


@dataclass
class Network:
    """``with Network("clu", workers=4) as network``. `prefix` names its namespaces, so that several can stand."""

    prefix: str
    workers: int

    @property
    def hub(self) -> str:
        return f"{self.prefix}-hub"

    @property
    def switch(self) -> str:
        return f"{self.prefix}-switch"

    def worker(self, index: int) -> str:
        """The worker's namespace."""
        return f"{self.prefix}-w{index}"

    def __enter__(self) -> Network:
        try:
            self._make()
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._remove()

    @property
    def machines(self) -> list[str]:
        """The namespaces of hub and workers."""
        return [self.hub, *(self.worker(i) for i in range(self.workers))]

    def running(self, namespace: str) -> list[int]:
        """The processes there."""
        return [int(pid) for pid in _do("ip", "netns", "pids", namespace).split()]

    def within(self, namespace: str, argv: list[str]) -> list[str]:
        """The command line that runs `argv` there. `ip netns exec` replaces itself by the command."""
        return ["ip", "netns", "exec", namespace, *argv]

    def sent(self) -> dict[str, int]:
        """Bytes that left each machine since the network was made, by the name of its port (hub, w0, ...)."""
        links = json.loads(_do("ip", "-n", self.switch, "-s", "-j", "link", "show"))
        return {one["ifname"]: one["stats64"]["rx"]["bytes"] for one in links if one["ifname"] in self._ports}

    # ---------------------------------------------------------------- making

    @property
    def _ports(self) -> list[str]:
        return ["hub", *(f"w{i}" for i in range(self.workers))]

    def _make(self) -> None:
        self._remove()
        _do("ip", "netns", "add", self.switch)
        _do("ip", "-n", self.switch, "link", "add", "bridge", "type", "bridge")
        _do("ip", "-n", self.switch, "link", "set", "bridge", "up")
        self._machine(self.hub, "hub", HUB_ADDRESS, limited=False)
        for i in range(self.workers):
            self._machine(self.worker(i), f"w{i}", address(i), limited=True)

    def _machine(self, namespace: str, port: str, ip: str, *, limited: bool) -> None:
        _do("ip", "netns", "add", namespace)
        # fmt: off
        _do("ip", "-n", self.switch, "link", "add", port, "type", "veth",
            "peer", "name", "eth0", "netns", namespace)
        # fmt: on
        _do("ip", "-n", self.switch, "link", "set", port, "master", "bridge", "up")
        _do("ip", "-n", namespace, "addr", "add", f"{ip}/24", "dev", "eth0")
        for device in ("lo", "eth0"):
            _do("ip", "-n", namespace, "link", "set", device, "up")
        if limited:
            for where, device in ((namespace, "eth0"), (self.switch, port)):
                limit = ["tbf", "rate", RATE, "burst", BURST, "latency", LATENCY]
                _do("tc", "-n", where, "qdisc", "add", "dev", device, "root", *limit)

    def _remove(self) -> None:
        for name in (*self.machines, self.switch):
            subprocess.run(["ip", "netns", "del", name], capture_output=True, timeout=30, check=False)
