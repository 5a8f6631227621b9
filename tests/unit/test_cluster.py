"""Pictures made as tasks of a Ray cluster of two local workers, one of which is killed at its work."""

from __future__ import annotations

import os
import signal
import subprocess
import time

import numpy as np
import pytest
from PIL import Image

from realcustom.errors import InputError
from realcustom.evaluation.cluster import on_ray
from realcustom.evaluation.methods import Opening, Request, Shown, in_batches
from realcustom.evaluation.output import Settings

ray = pytest.importorskip("ray")


@pytest.fixture
def requests():
    rng = np.random.default_rng(0)
    dog = Shown("dog", "dog", "dog", Image.fromarray(rng.integers(0, 255, (32, 32, 3), np.uint8)))
    return [Request(f"a dog on the {place}", seed, (dog,)) for seed, place in enumerate(["beach", "grass"] * 10)]


@pytest.fixture
def cluster():
    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


def at_work():
    """Processes of this cluster that are making a picture."""
    shown = subprocess.run(["ps", "-eo", "pid,args"], capture_output=True, text=True, check=True).stdout
    return [int(line.split()[0]) for line in shown.splitlines() if "ray::_paint" in line]


def kill_one():
    for _ in range(2000):
        if found := at_work():
            os.kill(found[0], signal.SIGKILL)
            return found[0]
        time.sleep(0.005)
    raise AssertionError("no worker was ever at work")


def test_a_killed_workers_pictures_are_made_by_another(tiny, requests, cluster, tmp_path):
    tiny.pipeline().save_pretrained(tmp_path)
    opening, settings = Opening(str(tmp_path), device="cpu"), Settings(num_inference_steps=2, batch_size=4)
    here = dict(in_batches(opening.method(), settings)(requests))
    there, killed = {}, None
    for place, made in on_ray("local", opening, settings)(requests):
        assert place not in there
        there[place] = made
        killed = killed or kill_one()
    assert killed not in at_work()
    assert there.keys() == here.keys() == set(range(len(requests)))
    for place, made in here.items():
        one, other = (np.asarray(each.picture, int) for each in (made, there[place]))
        assert np.abs(one - other).max() <= 1
        assert there[place].masks.shape == made.masks.shape


def test_what_a_task_refuses_is_told(tiny, requests, cluster, tmp_path):
    tiny.pipeline().save_pretrained(tmp_path)
    with pytest.raises(InputError, match="token_ratio"):
        list(on_ray("local", Opening(str(tmp_path)), Settings(num_inference_steps=2, token_ratio=7.0))(requests))


def test_a_cluster_that_is_not_there_is_told():
    with pytest.raises(InputError, match="there is no Ray cluster at auto"):
        on_ray("auto", Opening("stickers"), Settings())
