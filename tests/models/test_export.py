"""torch.export, torch.jit.trace and ONNX: an exported network computes the same logits for every batch size."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
from torch import Tensor, nn

from roadmap.models import cpu_kernels
from roadmap.models.cpu_kernels import IS_X86
from roadmap.models.network import Network
from tests.models.specs import TINY, network_spec

STEPS = ["baseline", "inverted_bottleneck", "separate_downsampling", "grn"]
every_step = pytest.mark.parametrize("step", STEPS)


def make_network(step: str, training: bool = False) -> Network:
    """Return a network with all weights drawn at random, so that no branch of a block is 0."""
    torch.manual_seed(0)
    network = Network(network_spec(step, **TINY)).train(training)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.2)
    return network


def images(batch_size: int) -> Tensor:
    return torch.randn(batch_size, 3, 32, 32, generator=torch.Generator().manual_seed(batch_size))


def exported(network: nn.Module, *, strict: bool = False) -> torch.export.ExportedProgram:
    batch = torch.export.Dim("batch", min=1, max=4096)
    return torch.export.export(network, (images(2),), dynamic_shapes=({0: batch},), strict=strict)


def assert_same_logits(network: nn.Module, other: Callable[[Tensor], Tensor]) -> None:
    """Assert equal logits, up to the order of sums, for batches smaller and larger than the exported one."""
    for batch_size in (1, 7, 200):  # at 200, the stages' maps have more windows than a matrix product may have rows
        with torch.no_grad():
            expected = network(images(batch_size))
            assert expected.std() > 1e-3
            torch.testing.assert_close(other(images(batch_size)), expected, rtol=1e-4, atol=1e-4)


@every_step
def test_an_exported_network_has_a_free_batch_size(step: str) -> None:
    network = make_network(step)
    assert_same_logits(network, exported(network).module())


@pytest.mark.slow
def test_a_strict_export_has_a_free_batch_size() -> None:
    network = make_network("grn")
    assert_same_logits(network, exported(network, strict=True).module())


def test_a_network_is_exported_in_training_mode_with_stochastic_depth() -> None:
    network = Network(network_spec("grn", **TINY | {"drop_path": 0.5})).train()
    program = exported(network)
    assert [tuple(program.module()(images(n)).shape) for n in (3, 7)] == [(3, 5), (7, 5)]


def test_the_exported_program_holds_plain_operators_only() -> None:
    operators = {str(node.target) for node in exported(make_network("grn")).graph.nodes if node.op == "call_function"}
    assert "aten.conv2d.default" in operators
    assert not any("autocast" in name or "Depthwise" in name or "autograd" in name for name in operators), operators


@every_step
@pytest.mark.filterwarnings("ignore:.torch.jit.trace.*deprecated")
def test_a_traced_network_has_a_free_batch_size(step: str) -> None:
    network = make_network(step)
    with warnings.catch_warnings():
        warnings.simplefilter("error", torch.jit.TracerWarning)  # "... might cause the trace to be incorrect"
        traced = torch.jit.trace(network, images(2))
    assert_same_logits(network, traced)  # pyrefly: ignore[bad-argument-type]


@every_step
def test_an_onnx_file_has_a_free_batch_size(step: str, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    network, path = make_network(step), tmp_path / "network.onnx"
    batch = torch.export.Dim("batch", min=1, max=4096)
    torch.onnx.export(network, (images(2),), path, dynamic_shapes=({0: batch},), dynamo=True, input_names=["images"])
    session = runtime.InferenceSession(path)
    assert_same_logits(network, lambda x: torch.from_numpy(session.run(None, {"images": x.numpy()})[0]))


@pytest.mark.skipif(not IS_X86, reason="the fast kernels need an x86 processor")
def test_the_fast_kernels_are_used_again_after_an_export(monkeypatch: pytest.MonkeyPatch) -> None:
    network = make_network("grn")
    product = Mock(wraps=cpu_kernels._conv2d_as_product)
    monkeypatch.setattr(cpu_kernels, "_conv2d_as_product", product)
    exported(network)
    assert product.call_count == 0
    network(images(2))
    assert product.call_count > 0
