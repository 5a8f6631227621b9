"""The pictures of a work list made by many machines: every picture is a task of a Ray cluster.

Tasks depend on nothing but what they are given, so one whose worker was killed is done again, by another. Pictures come
back to the machine that asked for them, which alone writes files: the machines share no disk.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

from realcustom.errors import InputError
from realcustom.evaluation.methods import Made, Maker, Method, Opening, Request, make
from realcustom.evaluation.output import Settings

RETRIES = 5
"""How often a picture whose worker died is begun again."""


def on_ray(address: str, opening: Opening, settings: Settings) -> Maker:
    """Connect to a cluster and return what makes pictures there, one a task.

    Args:
        address: of a running cluster, as `ray start --head` prints it; "auto" for one on this machine, "local" to start one
            of this machine's processors. Whoever can reach a cluster's ports can run code on it.
        opening: how a worker opens the model, once; its folders must be there on every machine.
        settings: how pictures are made; `batch_size` plays no part.

    Raises:
        InputError: Ray is not installed, or there is no cluster.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is told to anybody
    try:
        import ray
    except ImportError as error:
        raise InputError('Ray is not installed; it comes with: pip install "realcustom[ray]"') from error
    try:
        ray.init(
            address, ignore_reinit_error=True, include_dashboard=None, log_to_driver=False, logging_level=logging.ERROR
        )
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise InputError(f"there is no Ray cluster at {address}: {error}") from error
    there = ray.cluster_resources()
    task: Any = ray.remote(_paint).options(max_retries=RETRIES, num_gpus=int(there.get("GPU", 0) > 0))
    at_once = 2 * max(1, int(there.get("GPU", 0) or there.get("CPU", 1)))

    def made(requests: Sequence[Request]) -> Iterator[tuple[int, Made]]:
        waiting = iter(enumerate(requests))
        running: dict[Any, int] = {}
        while True:
            while len(running) < at_once and (following := next(waiting, None)) is not None:
                number, request = following
                running[task.remote(opening, settings, request)] = number
            if not running:
                return
            (done,), _ = ray.wait(list(running), num_returns=1)
            yield running.pop(done), ray.get(done)

    return made


@lru_cache(maxsize=1)
def _opened(opening: Opening) -> Method:
    """Return a model, which a worker keeps for its next tasks."""
    return opening.method()


def _paint(opening: Opening, settings: Settings, request: Request) -> Made:
    return make(_opened(opening), [request], settings)[0]
