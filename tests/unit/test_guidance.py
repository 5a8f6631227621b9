from __future__ import annotations

import numpy as np
import pytest
import torch

from realcustom.guidance import cascade_guidance, direct_guidance
from reference import guidance as reference


@pytest.mark.parametrize(("w_t", "w_i"), [(7.5, 12.5), (1.0, 0.0), (0.0, 3.0)])
def test_cascade_is_the_reference(w_t, w_i):
    branches = torch.randn(3, 2, 3, 4, 5)
    found = cascade_guidance(*branches, guidance_scale=w_t, subject_guidance_scale=w_i)
    np.testing.assert_allclose(found, reference.guided(*branches.double().numpy(), w_t, w_i), atol=1e-4)


def test_cascade_with_the_papers_weights_expands_to_known_coefficients():
    for branch, coefficient in enumerate([-6.5, -5.0, 12.5]):
        branches = [torch.full((2,), float(number == branch)) for number in range(3)]
        found = cascade_guidance(*branches, guidance_scale=7.5, subject_guidance_scale=12.5)
        assert found.tolist() == [coefficient] * 2


def test_cascade_whose_subject_changes_nothing_is_direct_guidance_bit_for_bit():
    negative, text = torch.randn(2, 5, 7)
    found = cascade_guidance(negative, text, text, guidance_scale=7.5, subject_guidance_scale=12.5)
    assert torch.equal(found, direct_guidance(negative, text, guidance_scale=7.5))


def test_direct_guidance_extrapolates_beyond_the_positive():
    assert direct_guidance(torch.tensor([1.0]), torch.tensor([3.0]), guidance_scale=2.5).tolist() == [6.0]
