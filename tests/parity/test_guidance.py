from __future__ import annotations

import pytest

from parity.official import about, deviation, tensors
from realcustom.guidance import cascade_guidance, direct_guidance

TOLERANCE = 1e-4
CASES = about("cfg")["cases"]


def rescaled_by_place(guided, text, both, mask, share):
    """The authors' mode "naive", which their pipeline does not take: outside of the mask the spread is brought to T2I's."""
    outside, inside = (
        guided * (1 - share + share * (like.std(dim=(1, 2, 3)) / guided.std(dim=(1, 2, 3))).view(-1, 1, 1, 1))
        for like in (text, both)
    )
    return outside + mask * (inside - outside)


def guided(case):
    golden, mode = tensors("cfg"), case["mode"]
    uncond, text, both = (golden[name] for name in ("pred_uncond", "pred_t_cond", "pred_ti_cond"))
    rescale = 0.0 if mode in ("none", "none_direct") else case.get("guidance_stdev_rescale_factor", 0.0)
    if mode == "classifier_free_guidance":
        return direct_guidance(uncond, text, guidance_scale=case["guidance_weight_t"])
    if mode.endswith("direct"):
        return direct_guidance(uncond, both, guidance_scale=case["guidance_weight_i"], guidance_rescale=rescale)
    weights = {"guidance_scale": case["guidance_weight_t"], "subject_guidance_scale": case["guidance_weight_i"]}
    if mode == "naive":
        cascade = cascade_guidance(uncond, text, both, **weights)
        return rescaled_by_place(cascade, text, both, golden["super_cross_mask"], rescale)
    return cascade_guidance(uncond, text, both, **weights, guidance_rescale=rescale)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"].removeprefix("out."))
def test_guidance(case):
    assert deviation(guided(case), tensors("cfg")[case["name"]]) < TOLERANCE


def test_every_case_of_the_file_is_compared():
    assert {case["name"] for case in CASES} == {key for key in tensors("cfg") if key.startswith("out.")}
    assert CASES
