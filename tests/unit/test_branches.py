"""How few UNet calls a run takes, and what the faster ways change."""

from __future__ import annotations

import re
from operator import attrgetter

import numpy as np
import pytest
import torch

from realcustom.branches import DeepFeatures, ended_after
from realcustom.errors import InputError, OutOfMemory

PROMPT, STEPS = "a dog on the beach", 4
DIRECT = {"guidance": "direct", "mask_frozen_after": 2}


@pytest.fixture
def pipe(tiny):
    return tiny.pipeline()


@pytest.fixture(scope="module")
def subject(tiny):
    return tiny.subject()


def make(pipe, subject, **changes):
    chosen = {"num_inference_steps": STEPS, "output_type": "np", "guidance_scale": 3.0, **changes}
    given = () if subject is None else (subject, "dog")
    return pipe(PROMPT, *given, generator=torch.Generator().manual_seed(0), **chosen)


def rows_called(pipe, subject, **changes):
    """Return how many rows each UNet call had."""
    rows = []
    handle = pipe.unet.register_forward_pre_hook(lambda _, arguments: rows.append(len(arguments[0])))
    make(pipe, subject, **changes)
    handle.remove()
    return rows


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, [2, 1] * 4),  # unconditional and T2I in one call, then TI2I
        (DIRECT, [1, 2] * 2 + [2] * 2),  # T2I, then unconditional and TI2I in one call; no T2I once the mask is frozen
        ({**DIRECT, "mask_source": "previous"}, [1, 3, 2, 2, 2]),  # the second mask is the last that is looked for
        ({**DIRECT, "mask_source": "generation"}, [1, 2, 2, 2, 2]),
        ({"mask_source": "previous"}, [1, 3, 3, 3, 3]),
        ({"guidance_start": 0.25, "guidance_end": 0.75}, [1, 1, 2, 1, 2, 1, 1, 1]),
        ({**DIRECT, "mask_source": "generation", "guidance_start": 0.5, "guidance_end": 1.0}, [1, 1, 1, 2, 2]),
        ({"cache_interval": 2}, [2, 1] * 4),
        ({"guidance_scale": 1.0}, [1, 1] * 4),
    ],
)
def test_how_many_rows_each_call_has(pipe, subject, changes, expected):
    assert rows_called(pipe, subject, **changes) == expected


def test_plain_text_to_image_knows_the_interval_too(pipe):
    assert rows_called(pipe, None) == [2] * 4
    assert rows_called(pipe, None, guidance_start=0.5, guidance_end=1.0) == [1, 1, 2, 2]


def test_an_interval_outside_of_which_nothing_is_guided_is_guidance_of_one(pipe, subject):
    off, one = make(pipe, subject, guidance_start=0.0, guidance_end=0.0), make(pipe, subject, guidance_scale=1.0)
    np.testing.assert_array_equal(off.images, one.images)


def test_a_frozen_mask_in_one_batch_is_exact(pipe, subject):
    given = torch.rand(8, 8, generator=torch.Generator().manual_seed(1))
    apart, together = (
        make(pipe, subject, **DIRECT, mask=given, mask_source=source).images for source in ("text", "previous")
    )
    np.testing.assert_allclose(apart, together, atol=1e-4)
    apart, together = (make(pipe, subject, mask=given, mask_source=source).images for source in ("text", "previous"))
    np.testing.assert_allclose(apart, together, atol=1e-4)


def test_the_mask_of_the_evaluation_before(pipe, subject):
    """The first two masks are both that of the first T2I call; without a subject the later ones lag by one."""
    own = make(pipe, subject, subject_scale=0.0, mask_scope=0.5).masks.steps
    lagging = make(pipe, subject, subject_scale=0.0, mask_scope=0.5, mask_source="previous").masks.steps
    torch.testing.assert_close(lagging[0], own[0], atol=1e-5, rtol=0)
    torch.testing.assert_close(lagging[1:], own[:-1], atol=1e-4, rtol=0)


def test_the_mask_of_the_generation_sees_the_subject(pipe, subject):
    chosen = {"guidance": "direct", "mask_scope": 0.5, "mask_frozen_after": "never"}
    text = make(pipe, subject, **chosen, mask_source="previous").masks.steps
    own = make(pipe, subject, **chosen, mask_source="generation").masks.steps
    torch.testing.assert_close(own[0], text[0])
    assert not torch.allclose(own[-1], text[-1])
    without = make(pipe, subject, **chosen, mask_source="generation", subject_scale=0.0).masks.steps
    reference = make(pipe, subject, **chosen, mask_source="previous", subject_scale=0.0).masks.steps
    torch.testing.assert_close(without, reference, atol=1e-4, rtol=0)


def test_the_encoders_mask_is_that_of_its_layers(tiny, pipe, subject):
    short = make(pipe, subject, **DIRECT, mask_source="encoder").masks.steps
    whole = tiny.pipeline(mask_layers=["down_blocks", "mid_block"])
    torch.testing.assert_close(short, make(whole, subject, **DIRECT).masks.steps, atol=1e-5, rtol=0)


@torch.no_grad()
def test_a_call_that_ends_early_leaves_the_unet_as_it_was(tiny):
    unet = tiny.unet()
    given = torch.randn(1, 4, 8, 8), torch.tensor(10), torch.randn(1, 5, 32)
    called = []
    handle = unet.up_blocks[0].register_forward_hook(lambda *_: called.append(1))
    before = unet(*given).sample
    with ended_after(unet.mid_block):
        unet(*given)
    assert called == [1]
    assert torch.equal(unet(*given).sample, before)
    handle.remove()


@pytest.mark.parametrize(("layers", "refined"), [([], False), (["mid_block"], False), ([], True)])
def test_with_direct_guidance_the_text_branch_ends_where_nothing_more_is_recorded_and_gives_the_same_mask(
    tiny, subject, layers, refined
):
    chosen = {**DIRECT, "mask_frozen_after": 1, "mask_refined": refined}
    pipe, called = tiny.pipeline(mask_layers=layers), []
    handle = pipe.unet.conv_out.register_forward_hook(lambda _, given, __: called.append(len(given[0])))
    direct = make(pipe, subject, **chosen)
    handle.remove()
    assert called == [2] * STEPS  # unconditional and TI2I; never T2I
    cascade = make(pipe, subject, **{**chosen, "guidance": "cascade"})
    torch.testing.assert_close(direct.masks.steps[0], cascade.masks.steps[0], atol=1e-5, rtol=0)


@torch.no_grad()
def test_deep_features_are_those_of_the_last_fresh_call(tiny):
    unet = tiny.unet()
    one, other = (torch.randn(1, 4, 8, 8), torch.tensor(10), torch.randn(1, 5, 32)), (
        torch.randn(1, 4, 8, 8), torch.tensor(9), torch.randn(1, 5, 32),
    )  # fmt: skip
    deep, plain = DeepFeatures(unet), unet(*other).sample
    with deep.of("a", fresh=True):
        fresh = unet(*one).sample
    with deep.of("a", fresh=False):
        assert torch.equal(unet(*one).sample, fresh)
        known = unet(*other).sample
    with deep.of("b", fresh=False):  # nothing is known of it yet
        assert torch.equal(unet(*other).sample, plain)
    assert not torch.allclose(known, plain)
    assert torch.equal(unet(*other).sample, plain)
    assert all("forward" not in vars(block) for block in (*unet.down_blocks, unet.mid_block, *unet.up_blocks))


def test_caching_calls_the_deep_blocks_and_looks_for_masks_in_every_second_evaluation_only(pipe, subject):
    calls = []
    handle = pipe.unet.mid_block.resnets[0].register_forward_hook(lambda *_: calls.append(1))
    exact = make(pipe, subject).images
    assert len(calls) == 8
    cached = make(pipe, subject, cache_interval=2)
    assert len(calls) == 12
    handle.remove()
    assert np.abs(cached.images - exact).max() > 1e-3
    assert torch.equal(cached.masks.steps[0], cached.masks.steps[1])
    assert torch.equal(cached.masks.steps[2], cached.masks.steps[3])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"mask_source": "encoder"},
            "mask_source is 'encoder', which does without .* guidance is 'cascade', which needs it",
        ),
        ({"mask_source": "generation"}, "mask_source is 'generation', which does without"),
        ({"mask_source": "magic"}, "mask_source must be one of text, encoder, previous, generation"),
        (
            {"guidance_start": 0.9, "guidance_end": 0.1},
            "guidance_start is 0.9 and guidance_end is 0.1, but the end must not come",
        ),
        ({"guidance_start": 0.1, "guidance_end": 2}, "guidance_end must be a share from 0 to 1"),
        ({"guidance_start": None}, "guidance_start must be a share"),
        ({"cache_interval": 0}, "cache_interval must be at least 1"),
    ],
)
def test_a_wrong_shortcut_is_refused(pipe, subject, changes, message):
    with pytest.raises(InputError, match=message):
        make(pipe, subject, **changes)


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), MemoryError(),
              RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes")],
)  # fmt: skip
def test_running_out_of_memory_says_what_to_switch_on_and_leaves_the_pipeline_usable(pipe, subject, error):
    before, expected = dict(pipe.unet.attn_processors), make(pipe, subject).images

    def fail(*_):
        raise error

    handle = pipe.unet.mid_block.register_forward_pre_hook(fail)
    with pytest.raises(OutOfMemory, match=r"not enough memory .*enable_tiling.*enable_model_cpu_offload") as told:
        make(pipe, subject, cache_interval=2)
    for name in re.findall(r"pipe\.([\w.]+)\(\)", str(told.value)):
        assert callable(attrgetter(name)(pipe)), name
    handle.remove()
    assert pipe.unet.attn_processors == before
    np.testing.assert_array_equal(make(pipe, subject).images, expected)


def test_another_runtime_error_is_told_as_it_is(pipe, subject):
    def fail(*_):
        raise RuntimeError("a bug")

    pipe.unet.mid_block.register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="a bug"):
        make(pipe, subject)


def test_outside_of_the_guided_interval_direct_guidance_gives_ti2is_own_prediction(pipe, subject):
    """So that the guidance scale has no weight there, whatever calls the branches share."""
    for source in ("text", "previous", "generation"):
        chosen = {**DIRECT, "mask_source": source, "guidance_start": 0.0, "guidance_end": 0.0}
        strong = make(pipe, subject, **{**chosen, "guidance_scale": 9.0})
        assert np.array_equal(strong.images, make(pipe, subject, **{**chosen, "guidance_scale": 2.0}).images)


@torch.no_grad()
def test_deep_features_are_forgotten_for_all_branches_at_once(tiny):
    unet = tiny.unet()
    noises = [(torch.randn(1, 4, 8, 8), torch.tensor(10), torch.randn(1, 5, 32)) for _ in range(2)]
    deep = DeepFeatures(unet)
    with deep.of("a", fresh=False):
        unet(*noises[0])
    deep.forget()
    with deep.of("a", fresh=False):  # as if it had never been called
        assert torch.equal(unet(*noises[1]).sample, unet(*noises[1]).sample)
        known = unet(*noises[1]).sample
    assert torch.equal(known, unet(*noises[1]).sample)


def test_the_mask_of_layers_that_come_too_late_for_the_encoder_is_refused(tiny, subject):
    late = tiny.pipeline(mask_layers=["up_blocks.0"])
    with pytest.raises(InputError, match=r"mask comes from up_blocks\.0, which the UNet calls later"):
        make(late, subject, **DIRECT, mask_source="encoder")


@pytest.mark.parametrize(
    ("guidance", "mask_source", "every", "half"),
    [
        ("cascade", "text", 16, 8),  # two calls in each of eight evaluations
        ("direct", "text", 16, 8),
        ("direct", "encoder", 16, 8),
        ("cascade", "previous", 9, 5),  # one call in each, and the first look
        ("direct", "previous", 9, 5),
        ("direct", "generation", 9, 5),
    ],
)
def test_deep_blocks_run_in_every_nth_evaluation_whatever_gives_the_mask(
    pipe, subject, guidance, mask_source, every, half
):
    def deep_calls(**changes):
        calls = []
        hook = pipe.unet.mid_block.resnets[0].register_forward_hook(lambda *_: calls.append(1))
        pipe(PROMPT, subject, "dog", num_inference_steps=8, guidance=guidance, mask_source=mask_source,
             output_type="latent", **changes)  # fmt: skip
        hook.remove()
        return len(calls)

    assert (deep_calls(), deep_calls(cache_interval=2)) == (every, half)
