"""The floors: what the bare engine, or the host, takes for the same."""

from __future__ import annotations

import subprocess
import uuid

import docker

from tests.bench.figures import median, sample

LABELS = {"fumehood": "1", "fumehood.bench": "1"}


def host_bash(times: int = 100) -> float:
    """p50 in ms of a shell on the host that does nothing, started by Python and its output read to the end."""
    return median(sample(lambda: subprocess.run(["/bin/bash", "-c", "true"], check=True, capture_output=True), times))


def docker_exec_true(image: str, times: int = 30) -> float:
    """p50 in ms of `exec true` in a running container, through the SDK (the CLI is slower)."""
    client = docker.from_env()
    container = client.containers.run(image, ["sleep", "600"], detach=True, network_mode="none", labels=LABELS)
    try:
        return median(sample(lambda: container.exec_run(["true"]), times, warm=3))
    finally:
        container.remove(force=True)
        client.close()


def docker_run_and_exec(image: str, times: int = 9) -> float:
    """p50 in ms of `run -d` and a first `exec true`, through the SDK."""
    client = docker.from_env()
    made = []

    def once() -> None:
        container = client.containers.run(
            image,
            ["sleep", "600"],
            detach=True,
            network_mode="none",
            labels=LABELS,
            name=f"bench-{uuid.uuid4().hex[:8]}",
        )
        made.append(container)
        container.exec_run(["true"])

    try:
        return median(sample(once, times))
    finally:
        for container in made:
            container.remove(force=True)
        client.close()
