"""The forty labelled cases: twenty sick runs, then twenty healthy ones.

Unless a row says otherwise: scikit-learn's digits, cross-entropy, SGD with momentum 0.9 at a
learning rate of 0.05, batches of 64, 300 steps, hidden width 64, He initialisation, ReLU.

A fix has a smaller learning rate than its sick twin where it needs one to train on every seed.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import nn
from torch.nn import functional as F

from .case import Build, Case
from .families import (
    cnn,
    confident_mlp,
    converged_mlp,
    default_net,
    frozen_body_mlp,
    half_precision_mlp,
    lenet,
    lora_mlp,
    mlp,
    recall_rnn,
    sequence_lstm,
    small_loss_mlp,
    warmed_up_mlp,
)
from .initialisation import glorot, he, lecun, normal, orthogonal, zeros
from .nets import ResNet, identity
from .setups import cross_entropy_of_probabilities, sgd
from .structured import BagOfWords, MoeNet, Transformer
from .tasks import digits, raw_digits, zipf_documents


def hidden(*indices: int) -> tuple[str, ...]:
    """Names of an MLP's hidden layers."""
    return tuple(f"hidden.{index}" for index in indices)


def from_seed(first: int, build: Build) -> Build:
    """The same runs under other random numbers: seed 0 becomes `first`.

    When a learning rate kills units is a matter of luck. Of the seeds 0 to 43 of `cnn_dead_by_lr`
    most die before step 60 and three never; 10 and 11 are the only neighbours that both learn
    first and die between steps 80 and 120, so the case starts there.
    """
    return lambda seed: build(first + seed)


SICK = (
    Case(
        "mlp_sigmoid8",
        partial(mlp, hidden=8, activation=nn.Sigmoid, init=glorot),
        codes=("GW101",),
        cause="activation",
        fixed=partial(mlp, hidden=8),
        fast=True,
    ),
    Case(
        "lenet_sigmoid",
        partial(lenet, activation=nn.Sigmoid),
        codes=("GW101",),
        cause="activation",
        fixed=partial(lenet, activation=nn.ReLU, init=he),
    ),
    Case(
        "mlp_tanh_std01",
        partial(mlp, hidden=10, activation=torch.tanh, init=normal(0.01)),
        codes=("GW101",),
        cause="weights",
        fixed=partial(mlp, hidden=10, activation=torch.tanh, init=lecun),
    ),
    Case(
        "mlp_relu_std01",
        partial(mlp, hidden=10, init=normal(0.01)),
        codes=("GW101",),
        cause="weights",
        fixed=partial(mlp, hidden=10, optimizer=sgd(0.01)),
    ),
    Case(
        "cnn_relu30_xavier",
        partial(cnn, depth=30, width=24, init=glorot, lr=0.005, batch_size=32),
        codes=("GW101",),
        cause="weights",
        fixed=partial(cnn, depth=30, width=24, lr=0.001, batch_size=32),
    ),
    Case(
        "mlp_linear15_small",
        partial(mlp, hidden=15, activation=identity, init=partial(lecun, factor=0.4)),
        codes=("GW101",),
        cause="weights",
        fixed=partial(mlp, hidden=15, activation=identity, init=lecun, optimizer=sgd(0.01)),
    ),
    Case(
        "bottleneck_mid",
        partial(
            mlp, hidden=9, activation=F.relu, exceptions=dict.fromkeys((3, 4, 5), normal(1e-4))
        ),
        codes=("GW101",),
        cause="weights",
        layers=hidden(3, 4, 5),
        fixed=partial(mlp, hidden=9, activation=F.relu, optimizer=sgd(0.01)),
        fast=True,
    ),
    Case(
        "mlp_tanh_large",
        partial(mlp, hidden=10, activation=nn.Tanh, init=partial(lecun, factor=6.0)),
        codes=("GW202",),
        cause="weights",
        fixed=partial(mlp, hidden=10, activation=nn.Tanh, init=lecun),
    ),
    Case(
        "mlp_tanh_raw255",
        partial(mlp, hidden=4, activation=torch.tanh, init=lecun, task=raw_digits),
        codes=("GW202", "GW204"),
        cause="inputs",
        fixed=partial(mlp, hidden=4, activation=torch.tanh, init=lecun),
        fast=True,
    ),
    Case(
        "mlp_relu_tinyinput",
        partial(mlp, hidden=4, bias=False, task=partial(digits, 1e-3), optimizer=sgd(0.02)),
        codes=("GW204",),
        cause="inputs",
        fixed=partial(mlp, hidden=4, bias=False, optimizer=sgd(0.02)),
    ),
    Case(
        "dead_relu_bias",
        partial(mlp, hidden=6, activation=F.relu, hidden_bias=-5.0),
        codes=("GW201",),
        cause="weights",
        fixed=partial(mlp, hidden=6, activation=F.relu),
        fast=True,
    ),
    Case(
        "cnn_dead_by_lr",
        from_seed(10, partial(cnn, depth=8, width=16, lr=0.06, steps=200)),
        codes=("GW201",),
        cause="learning rate",
        fixed=from_seed(10, partial(cnn, depth=8, width=16, lr=0.006, steps=200)),
    ),
    Case(
        "explode_relu_std",
        partial(mlp, hidden=20, init=partial(he, factor=2.5), optimizer=sgd(0.02)),
        codes=("GW301",),
        cause="weights",
        fixed=partial(mlp, hidden=20, optimizer=sgd(0.004)),
        fast=True,
    ),
    Case(
        "detached",
        partial(mlp, hidden=4, width=12, activation=F.relu, detach_after=2),
        codes=("GW401",),
        cause="wiring",
        layers=hidden(0, 1, 2),
        fixed=partial(mlp, hidden=4, width=12, activation=F.relu),
        fast=True,
    ),
    Case(
        "fp16_underflow",
        partial(half_precision_mlp, scaled=False),
        codes=("GW103",),
        cause="precision",
        fixed=partial(half_precision_mlp, scaled=True),
        fast=True,
    ),
    Case(
        "zero_init_all",
        partial(mlp, hidden=4, init=zeros, head_init=zeros),
        codes=("GW402",),
        cause="weights",
        fixed=partial(mlp, hidden=4),
        fast=True,
    ),
    Case(
        "lr_too_small",
        partial(mlp, hidden=4, optimizer=sgd(1e-6)),
        codes=("GW501",),
        cause="learning rate",
        fixed=partial(mlp, hidden=4),
        fast=True,
    ),
    Case(
        "double_softmax",
        partial(mlp, hidden=3, optimizer=sgd(0.02), loss_fn=cross_entropy_of_probabilities),
        codes=("GW403",),
        cause="loss",
        fixed=partial(mlp, hidden=3, optimizer=sgd(0.02)),
        fast=True,
    ),
    Case(
        "rnn_vanish",
        partial(recall_rnn, gain=0.4, lr=0.05),
        codes=("GW102",),
        cause="time",
        layers=("recurrent",),
        fixed=partial(recall_rnn, gain=1.0, lr=0.0025),
        fast=True,
    ),
    Case(
        "mse_sigmoid_wrong",
        partial(confident_mlp, squared_error=True),
        codes=("GW203",),
        cause="loss",
        fixed=partial(confident_mlp, squared_error=False),
        fast=True,
    ),
)

HEALTHY = (
    Case("h_mlp_relu_he", partial(mlp, hidden=8), fast=True),
    Case("h_cnn_relu_he", partial(cnn, depth=8, width=16, activation=F.relu, lr=0.01)),
    Case("h_cnn30_he", partial(cnn, depth=30, width=24, lr=0.001, batch_size=32)),
    Case("h_cnn_bn20_convbias", partial(cnn, depth=20, width=16, batch_norm=True, lr=0.02)),
    Case(
        "h_tanh50_orth",
        partial(mlp, hidden=50, activation=torch.tanh, init=orthogonal(1.02), optimizer=sgd(0.005)),
    ),
    Case("h_sigmoid1_shallow", partial(mlp, hidden=1, activation=torch.sigmoid, init=glorot)),
    Case("h_one_tiny_layer", partial(mlp, hidden=8, exceptions={4: normal(1e-5)}), fast=True),
    Case("h_dropout", partial(mlp, hidden=3, width=128, dropout=0.5)),
    Case("h_warmup_lr0", warmed_up_mlp, fast=True),
    Case("h_loss1e-4_adam", small_loss_mlp),
    Case("h_converged", converged_mlp),
    Case("h_zerohead", partial(mlp, hidden=4, activation=F.relu, head_init=zeros), fast=True),
    Case("h_fp16_scaled", partial(half_precision_mlp, scaled=True)),
    Case("h_resnet_bn_zerogamma", partial(default_net, net=partial(ResNet, blocks=4, width=16))),
    Case("h_lora_b0", lora_mlp, fast=True),
    Case("h_frozen", frozen_body_mlp),
    Case(
        "h_embed_sparse",
        partial(default_net, net=partial(BagOfWords, vocabulary=2000), task=zipf_documents),
    ),
    Case("h_preln12", partial(default_net, net=partial(Transformer, blocks=10))),
    Case("h_lstm_long", sequence_lstm),
    Case("h_moe_unrouted", partial(default_net, net=MoeNet), fast=True),
)

CASES = SICK + HEALTHY
