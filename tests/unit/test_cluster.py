"""Pictures made as tasks of a Ray cluster of two local workers, one of which is killed at its work."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
from PIL import Image

from realcustom.errors import InputError
from realcustom.evaluation.cluster import on_ray
from realcustom.evaluation.methods import Customized, Opening, Request, Shown, in_batches
from realcustom.evaluation.output import Settings


@pytest.fixture
def requests():
    rng = np.random.default_rng(0)
    dog = Shown("dog", "dog", "dog", Image.fromarray(rng.integers(0, 255, (32, 32, 3), np.uint8)))
    return [Request(f"a dog on the {place}", seed, (dog,)) for seed, place in enumerate(["beach", "grass"] * 10)]


@pytest.fixture
def cluster():
    ray = pytest.importorskip("ray")
    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


def at_work():
    """This process's descendants that are making a picture."""
    shown = subprocess.run(["ps", "-eo", "pid,ppid,args"], capture_output=True, text=True, check=True).stdout
    lines = [line.split(maxsplit=2) for line in shown.splitlines()[1:]]
    parents = {int(pid): int(parent) for pid, parent, _ in lines}

    def is_ours(pid):
        while pid in parents and pid != os.getpid():
            pid = parents[pid]
        return pid == os.getpid()

    return [int(pid) for pid, _, told in lines if "ray::_paint" in told and is_ours(int(pid))]


def kill_one(killed, ended):
    """Kill the first worker that is seen at its work."""
    while not killed and not ended.wait(0.01):
        if found := at_work():
            os.kill(found[0], signal.SIGKILL)
            killed.append(found[0])


@pytest.mark.parametrize("before", [0, 5], ids=["while it opens the model", "in the middle"])
def test_a_killed_workers_pictures_are_made_by_another(tiny, requests, cluster, tmp_path, before):
    tiny.pipeline().save_pretrained(tmp_path)
    opening, settings = Opening(str(tmp_path), device="cpu"), Settings(num_inference_steps=2, batch_size=4)
    method, killed, ended = opening.method(), [], threading.Event()
    here = dict(in_batches(method, settings)(requests))
    making = on_ray("local", opening, method, settings)(requests)
    there = list(islice(making, before))
    killer = threading.Thread(target=kill_one, args=[killed, ended])
    killer.start()
    try:
        there += making
    finally:
        ended.set()
        killer.join()
    assert len(killed) == 1
    assert sorted(place for place, _ in there) == sorted(here) == list(range(len(requests)))
    for place, made in there:
        one, other = (np.asarray(each.picture, int) for each in (made, here[place]))
        assert np.abs(one - other).max() <= 1
        assert made.masks.shape == here[place].masks.shape


def test_what_a_task_refuses_is_told(tiny, requests, cluster, tmp_path):
    tiny.pipeline().save_pretrained(tmp_path)
    opening, settings = Opening(str(tmp_path), device="cpu"), Settings(num_inference_steps=2)
    method = opening.method()
    with pytest.raises(InputError, match=r"^token_ratio"):
        list(on_ray("local", opening, method, replace(settings, token_ratio=7.0))(requests[:2]))
    method.pipeline.unet.conv_out.bias.data += 1
    with pytest.raises(InputError, match=r"^a worker has model"):
        list(on_ray("local", opening, method, settings)(requests[:2]))


def test_a_cluster_that_is_not_there_is_told(tiny):
    pytest.importorskip("ray")
    with pytest.raises(InputError, match="there is no Ray cluster at auto"):
        on_ray("auto", Opening("stickers"), Customized(tiny.pipeline()), Settings())


def test_without_ray_the_command_that_installs_it_is_told(tiny, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match=r'Ray is not installed; it comes with: pip install "realcustom\[ray\]"'):
        on_ray("auto", Opening("stickers"), Customized(tiny.pipeline()), Settings())
