"""The pictures of a work list made by many machines: every picture is a task of a Ray cluster.

Tasks depend on nothing but what they are given, so one whose worker was killed is done again, by another. Pictures come
back to the machine that asked for them, which alone writes files: the machines share no disk.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

from PIL import Image

from realcustom import __version__
from realcustom.errors import InputError, RealCustomError
from realcustom.evaluation.methods import Made, Maker, Method, Opening, Request, make
from realcustom.evaluation.output import Settings
from realcustom.loading import model_hash

RETRIES = 5
"""How often a picture whose worker died is begun again."""


def on_ray(address: str, opening: Opening, method: Method, settings: Settings) -> Maker:
    """Connect to a cluster and return what makes pictures there, one a task.

    Args:
        address: of a running cluster, as `ray start --head` prints it; "auto" for one on this machine, "local" to start one
            of this machine's processors. Whoever can reach a cluster's ports can run code on it.
        opening: how a worker opens the model, once; its folders must be there on every machine.
        method: what `opening` gives here; a worker that opens another model, or has another version of this package, refuses.
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
        ray.init(address, ignore_reinit_error=True, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise InputError(f"there is no Ray cluster at {address}: {error}") from error
    on_gpu = ray.cluster_resources().get("GPU", 0) > 0 and not str(opening.device).startswith("cpu")
    task: Any = ray.remote(_paint).options(max_retries=RETRIES, num_gpus=int(on_gpu))
    model = model_hash(method.pipeline), __version__

    def made(requests: Sequence[Request]) -> Iterator[tuple[int, Made]]:
        waiting = iter(enumerate(requests))
        running: dict[Any, int] = {}
        sent: dict[int, Any] = {}
        while True:
            at_once = 2 * max(1, int(ray.cluster_resources().get("GPU" if on_gpu else "CPU", 1)))
            while len(running) < at_once and (following := next(waiting, None)) is not None:
                number, request = following
                for one in request.subjects:
                    if id(one.picture) not in sent:  # a reference travels once to each machine
                        sent[id(one.picture)] = ray.put(one.picture)
                pictures = [sent[id(one.picture)] for one in request.subjects]
                running[task.remote(opening, model, settings, _without_pictures(request), *pictures)] = number
            if not running:
                return
            (done,), _ = ray.wait(list(running), num_returns=1)
            yield running.pop(done), _fetched(ray, done)

    return made


def _fetched(ray: Any, reference: Any) -> Made:
    """Return what a task has made, or raise what it has raised."""
    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        raise error.cause if isinstance(error.cause, RealCustomError) else error from None
    except ray.exceptions.RayError as error:
        raise RealCustomError(f"the Ray cluster gave a picture up: {str(error).splitlines()[0]}") from error


@lru_cache(maxsize=1)
def _opened(opening: Opening, model: tuple[str, str]) -> Method:
    """Return a model, which a worker keeps for its next tasks."""
    method = opening.method()
    own = model_hash(method.pipeline), __version__
    if own != model:
        raise InputError(f"a worker has model {own[0]} of realcustom {own[1]}, and not {model[0]} of {model[1]}")
    return method


def _without_pictures(request: Request) -> Request:
    nothing = Image.new("L", (1, 1))
    return replace(request, subjects=tuple(replace(one, picture=nothing) for one in request.subjects))


def _paint(
    opening: Opening, model: tuple[str, str], settings: Settings, request: Request, *pictures: Image.Image
) -> Made:
    subjects = tuple(replace(one, picture=picture) for one, picture in zip(request.subjects, pictures, strict=True))
    return make(_opened(opening, model), [replace(request, subjects=subjects)], settings)[0]
