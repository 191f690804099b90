"""What cannot be observed is named, and the rest goes on."""

import gc
import os
import socket
import warnings

import numpy as np
import pytest
import torch
from torch import distributed, multiprocessing, nn
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel
from torch.optim import SGD

import gradwatch

from .training import BATCH, gradient_norms, norm, perceptron, step


class Net(nn.Module):
    """A perceptron in a module of its own: PyTorch compiles no bare `Sequential` in place."""

    def __init__(self):
        super().__init__()
        self.layers = perceptron()

    def forward(self, inputs):
        return self.layers(inputs)


def limits(watch):
    """What GW902 says."""
    (finding,) = (finding for finding in watch.findings if finding.code == "GW902")
    assert finding.severity == "notice"
    return finding.message


@pytest.fixture
def fresh_compiler():
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    yield
    torch._dynamo.reset()


def scripted(model):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return torch.jit.script(model)


def traced(model):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return torch.jit.trace(model, torch.randn(2, 4))


def compiled_in_place(model):
    model.compile(backend="eager")
    return model


BLINDING = {
    "compiled": (lambda model: torch.compile(model, backend="eager"), "is compiled"),
    "compiled by aot": (lambda model: torch.compile(model, backend="aot_eager"), "is compiled"),
    "compiled in place": (compiled_in_place, "is compiled"),
    "compiled in part": (
        lambda model: nn.Sequential(torch.compile(model, backend="eager")),
        "is compiled",
    ),
    "scripted": (scripted, "is scripted or traced"),
    "traced": (traced, "is scripted or traced"),
    "DataParallel": (nn.DataParallel, "nn.DataParallel runs replicas"),
}


@pytest.mark.parametrize(("wrap", "why"), BLINDING.values(), ids=BLINDING.keys())
def test_a_model_that_hooks_cannot_see_is_named_and_its_parameters_are_read(
    wrap, why, fresh_compiler
):
    model = wrap(Net())
    optimizer = SGD(model.parameters(), lr=0.1)
    watch = gradwatch.watch(model, optimizer, every=1, verbose=0)
    for _ in range(6):
        step(model, optimizer)
    watch.close()
    assert why in limits(watch)
    assert "only parameters are observed" in limits(watch)
    assert not any(snapshot.has_signals for snapshot in watch.history)
    assert watch.history[-1].grad_norm == pytest.approx(gradient_norms(model), rel=1e-5)
    assert [layer.name for layer in watch.history[-1].layers][-1].endswith("layers.4")
    assert not any("_orig_mod" in layer.name for layer in watch.history[-1].layers)


def test_without_signals_there_are_findings_all_the_same():
    model = perceptron()
    optimizer = SGD(model.parameters(), lr=0.1)
    watch = gradwatch.watch(model, optimizer, every=1, signals=False, verbose=0)
    for turn in range(10):
        if turn == 4:
            nn.init.constant_(model[2].bias, float("nan"))
        step(model, optimizer)
    watch.close()
    assert "signals are off (signals=False)" in limits(watch)
    assert "GW302" in {finding.code for finding in watch.findings}


@pytest.mark.filterwarnings("ignore:Using `torch.compile")
@pytest.mark.parametrize("place", ["around", "in place", "a function"])
def test_a_model_that_is_compiled_after_the_watch_began_is_named_too(place, fresh_compiler):
    """And stays compiled: the hooks must neither break its graph nor be traced into it."""
    model = Net()
    optimizer = SGD(model.parameters(), lr=0.1)
    watch = gradwatch.watch(model, optimizer, verbose=0)
    if place == "around":
        running = torch.compile(model, backend="eager", fullgraph=True)
    elif place == "in place":
        model.compile(backend="eager", fullgraph=True)
        running = model
    else:
        running = torch.compile(lambda inputs: model(1 * inputs), backend="eager", fullgraph=True)
    for _ in range(40):
        step(running, optimizer)
    watch.close()
    assert "no layer was seen running" in limits(watch)
    assert torch._dynamo.utils.counters["graph_break"] == {}
    assert not any(snapshot.has_signals for snapshot in watch.history)
    assert watch.history[-1].states.tolist() == [0, 0, 0]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("compile_step", [True, False])
def test_a_compiled_step_of_the_optimizer_is_observed(compile_step, fresh_compiler):
    model = perceptron()
    optimizer = SGD(model.parameters(), lr=0.1)
    watch = gradwatch.watch(model, optimizer, every=1, verbose=0)
    run = torch.compile(optimizer.step, backend="eager") if compile_step else optimizer.step
    for _ in range(3):
        optimizer.zero_grad()
        model(torch.randn(BATCH, 4)).square().mean().backward()
        run()
    assert [snapshot.step for snapshot in watch.history] == [0, 1, 2]
    assert watch.history[-1].grad_norm == pytest.approx(gradient_norms(model))
    assert (watch.history[-1].update_ratio > 0).all()


def test_one_sample_without_a_forward_pass_is_no_limit():
    """The watch began between backward and the step."""
    model = perceptron()
    optimizer = SGD(model.parameters(), lr=0.1)
    model(torch.randn(BATCH, 4)).square().mean().backward()
    watch = gradwatch.watch(model, optimizer, every=1, verbose=0)
    optimizer.step()
    for _ in range(3):
        step(model, optimizer)
    assert [snapshot.has_signals for snapshot in watch.history] == [False, True, True, True]
    assert watch.findings == ()


# Several processes


def data_parallel(rank, path):
    """A run under DDP, each rank with inputs of its own."""
    torch.manual_seed(0)
    model = DistributedDataParallel(perceptron())
    optimizer = SGD(model.parameters(), lr=0.1)
    watch = gradwatch.watch(model, optimizer, every=1, log_dir=f"{path}/runs")
    torch.manual_seed(rank)
    for _ in range(3):
        step(model, optimizer)
    watch.close()
    newest = watch.history[-1]
    return {
        "grad_norm": newest.grad_norm,
        "expected": gradient_norms(model),
        "output_grad_norm": newest.output_grad_norm,
        "names": [layer.name for layer in newest.layers],
        "limits": limits(watch),
    }


def sharded(rank, path):
    """A run under FSDP2."""
    torch.manual_seed(0)
    model = perceptron()
    layers = [model[0], model[2], model[4]]
    for module in (*layers, model):
        fully_shard(module)
    optimizer = SGD(model.parameters(), lr=0.1)
    watch = gradwatch.watch(model, optimizer, every=1, verbose=0)
    torch.manual_seed(rank)
    for _ in range(3):
        step(model, optimizer)
    watch.close()
    whole = [[entry.grad.full_tensor() for entry in layer.parameters()] for layer in layers]
    return {
        "grad_norm": watch.history[-1].grad_norm,
        "update_ratio": watch.history[-1].update_ratio,
        "expected": list(map(norm, whole)),
        "limits": limits(watch),
        "steps": len(watch.history),
    }


def in_world(rank, port, path):
    """One of two processes: runs everything, and saves what came of it."""
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", rank=rank, world_size=2)
    results = {run.__name__: run(rank, path) for run in (data_parallel, sharded)}
    torch.save(results, f"{path}/{rank}.pt")
    gc.collect()  # sharded modules refer to each other, and a group that they keep aborts at exit
    distributed.destroy_process_group()


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """(directory, results of both ranks) of a world of two processes on one machine."""
    path = tmp_path_factory.mktemp("world")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    multiprocessing.spawn(in_world, args=(port, str(path)), nprocs=2)
    return path, [torch.load(path / f"{rank}.pt", weights_only=False) for rank in range(2)]


def test_under_ddp_gradients_are_averaged(world):
    _, (first, second) = world
    first, second = first["data_parallel"], second["data_parallel"]
    assert first["grad_norm"] == pytest.approx(first["expected"])
    assert np.array_equal(first["grad_norm"], second["grad_norm"])
    assert not np.array_equal(first["output_grad_norm"], second["output_grad_norm"])
    assert first["names"] == ["0", "2", "4"]


def test_under_ddp_each_rank_says_whose_signals_it_sees(world):
    _, results = world
    for rank, result in enumerate(results):
        assert "2 processes train together" in result["data_parallel"]["limits"]
        assert f"those of rank {rank}" in result["data_parallel"]["limits"]


def test_of_several_ranks_one_writes(world):
    path, _ = world
    assert len(list(path.rglob("*tfevents*"))) == 1


def test_of_a_sharded_model_each_rank_reads_its_shard(world):
    _, (first, second) = world
    first, second = first["sharded"], second["sharded"]
    assert first["steps"] == second["steps"] == 3
    together = np.hypot(first["grad_norm"], second["grad_norm"])
    assert together == pytest.approx(first["expected"], rel=1e-4)
    assert (first["update_ratio"] > 0).all()
    assert "each figure is that of this rank's shard" in first["limits"]
