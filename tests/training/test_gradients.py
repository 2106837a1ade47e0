from dataclasses import replace

import numpy as np
import pytest
import torch

from cloudlinkup.training.architectures import build, initial_weights, parameter_count
from cloudlinkup.training.gradients import ModuleGradient, make_gradient
from cloudlinkup.training.mlp import MlpGradient
from cloudlinkup.training.spec import TrainingSpec


def gradient_of(spec, digits, kind=None, rows=32):
    x, y = (torch.from_numpy(a[:rows]) for a in digits)
    weights = torch.from_numpy(initial_weights(spec))
    gradient = torch.zeros_like(weights)
    network = kind(spec, weights, gradient) if kind else make_gradient(spec, weights, gradient)
    network.compute(x, y)
    network.compute(x, y)  # filled anew, not added to
    return gradient.numpy()


def autograd(spec, digits, rows=32):
    x, y = (torch.from_numpy(a[:rows]) for a in digits)
    module = build(spec)
    weight = torch.tensor(spec.class_weights) if spec.class_weights else None
    loss = torch.nn.functional.cross_entropy(module(x), y, weight=weight)
    return torch.cat([g.reshape(-1) for g in torch.autograd.grad(loss, list(module.parameters()))]).numpy()


@pytest.mark.parametrize("weights", [None, tuple(float(k) for k in range(1, 11))])
def test_views_of_flat_buffers_hold_autograds_gradient(spec: TrainingSpec, digits, weights):
    spec = replace(spec, class_weights=weights)
    np.testing.assert_allclose(gradient_of(spec, digits, ModuleGradient), autograd(spec, digits), atol=1e-6)
    np.testing.assert_allclose(gradient_of(spec, digits, MlpGradient), autograd(spec, digits), atol=1e-6)


@pytest.mark.parametrize("size", [1, 5, 32])
@pytest.mark.parametrize("weights", [None, tuple(float(k) for k in range(1, 11))])
def test_pieces_of_a_batch_add_up_to_its_gradient(spec: TrainingSpec, digits, size, weights):
    spec = replace(spec, class_weights=weights)
    in_pieces = gradient_of(replace(spec, micro_batch=size), digits)
    np.testing.assert_allclose(in_pieces, autograd(spec, digits), atol=1e-6)


def test_bf16_computes_in_bf16_and_keeps_fp32(spec: TrainingSpec, digits):
    exact, coarse = autograd(spec, digits), gradient_of(replace(spec, precision="bf16"), digits)
    assert coarse.dtype == np.float32 and len(coarse) == parameter_count(spec)
    off = np.linalg.norm(coarse - exact) / np.linalg.norm(exact)
    assert 1e-5 < off < 0.05
