"""A Ray cluster of two nodes on 127.0.0.1, one CPU each, in a process of its own; one node can be killed.

python tests/ray_cluster.py      # prints the address; a line on stdin kills a node, its end ends all
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

# No usage reports; and all that Ray starts, or connects, is on 127.0.0.1.
LOOPBACK = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "OMP_NUM_THREADS": "1"}


@dataclass(frozen=True)
class Cluster:
    """What connects to it needs `environment`."""

    address: str
    process: subprocess.Popen[str]
    environment: dict[str, str]

    def tasks(self) -> list[str]:
        """A line for each process of this machine that runs a task of `pool build`; Ray names them so."""
        listed = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
        return [line for line in listed.splitlines() if line.startswith("ray::_build")]

    def kill_node(self) -> None:
        """End all processes of a node by SIGKILL."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write("kill\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline() == "killed\n"


@contextmanager
def two_nodes() -> Iterator[Cluster]:
    """For as long as the context lasts."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    environment = os.environ | LOOPBACK
    with subprocess.Popen([sys.executable, __file__], env=environment, **pipes) as process:
        try:
            yield Cluster(process.stdout.readline().strip(), process, environment)
            process.stdin.close()
            process.wait(timeout=60)
        finally:
            process.kill()


def main() -> None:
    from ray.cluster_utils import Cluster as Nodes

    node = {"node_ip_address": "127.0.0.1", "num_cpus": 1, "include_dashboard": False}
    nodes = Nodes(initialize_head=True, head_node_args=node)
    second = nodes.add_node(**node)
    print(nodes.address, flush=True)
    for _ in sys.stdin:
        nodes.remove_node(second, allow_graceful=False)
        print("killed", flush=True)
    nodes.shutdown()


if __name__ == "__main__":
    main()
