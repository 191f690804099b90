"""The further runs that are sick, each with its finding and the fix that proves it."""

from __future__ import annotations

from functools import partial

from torch import nn

from .attention import PostNormTransformer
from .case import Case
from .convolutional import UNet
from .families import mlp, recall_rnn, sequence_lstm
from .further_families import (
    classifier,
    contrastive_mlp,
    graph_net,
    half_precision_gpt,
    language_model,
    q_learner,
    softmax_mlp,
)
from .generative_families import image_model, noise_prediction
from .initialisation import constant, he, lecun, normal
from .nets import Mlp, TwoBranch, with_sigmoid
from .setups import adam, adamw, binary_cross_entropy, sgd

sigmoid_mlp = partial(with_sigmoid, partial(Mlp, hidden=2))

lower = ("lower.hidden.0", "lower.hidden.1", "lower.hidden.2", "lower.head")
postnorm = partial(PostNormTransformer, blocks=12)

FURTHER_SICK = (
    Case(
        "softmax_head",
        partial(classifier, net=softmax_mlp),
        codes=("GW403",),
        cause="loss",
        fixed=partial(classifier, net=partial(Mlp, hidden=2)),
    ),
    # As above, on outputs of shape (batch, time, vocabulary) and of weights that are also, or not,
    # the embedding's.
    Case(
        "gpt_softmax_head",
        partial(language_model, blocks=2, ends_in_softmax=True),
        codes=("GW403",),
        cause="loss",
        layers=("net.embedding",),
        fixed=partial(language_model, blocks=2),
    ),
    Case(
        "gpt_untied_softmax_head",
        partial(language_model, blocks=2, tied=False, ends_in_softmax=True),
        codes=("GW403",),
        cause="loss",
        layers=("net.head",),
        fixed=partial(language_model, blocks=2, tied=False),
    ),
    Case(
        "sigmoid_head",
        partial(classifier, net=sigmoid_mlp, loss_fn=binary_cross_entropy, chance_loss=0.325),
        codes=("GW403",),
        cause="loss",
        fixed=partial(
            classifier,
            net=partial(Mlp, hidden=2),
            loss_fn=binary_cross_entropy,
            chance_loss=0.325,
        ),
    ),
    # Well at first; without warm-up the first five steps turn all examples one way. The same net
    # learns at a tenth of the rate, and, with its norms inside the branches, at this one.
    Case(
        "postnorm12_no_warmup",
        partial(classifier, net=postnorm, optimizer=adamw(1e-2), steps=120),
        codes=("GW404", "GW101"),
        cause="learning rate",
        fixed=partial(classifier, net=postnorm, optimizer=adamw(1e-3), steps=120),
    ),
    Case(
        "unet_sigmoid",
        partial(
            image_model,
            net=partial(UNet, activation=nn.Sigmoid),
            optimizer=sgd(),
            steps=200,
        ),
        codes=("GW101",),
        cause="activation",
        fixed=partial(image_model, net=UNet, optimizer=sgd(), steps=200),
    ),
    # Forty rounds of averaging over neighbours leave all nodes alike, and shrink the signal.
    Case(
        "graph_oversmoothing",
        partial(graph_net, layers=40, init=he, optimizer=adam()),
        codes=("GW404",),
        cause="depth",
        also=(("GW101", "wiring"),),
        fixed=partial(graph_net, layers=40, residual=True, optimizer=adam()),
    ),
    # Either a layer is dead from the start, likelier the deeper and narrower the net (Lu et al.,
    # 2019), or all examples leave in one direction: a matter of the seed.
    Case(
        "narrow_relu40",
        partial(mlp, hidden=40, width=8, optimizer=adam()),
        codes=("GW404",),
        cause="depth",
        also=(("GW201", "weights"), ("GW201", "depth")),
        fixed=partial(
            mlp,
            hidden=40,
            width=8,
            residual=True,
            init=partial(he, factor=0.05),
            exceptions={0: he},
            optimizer=adam(3e-3),
        ),
    ),
    Case(
        "adam_lr_large",
        partial(mlp, hidden=4, optimizer=adam(0.3)),
        codes=("GW303", "GW301", "GW201"),
        cause="learning rate",
        fixed=partial(mlp, hidden=4, optimizer=adam()),
    ),
    # Each step stays just below the layers' size, yet five of them saturate every unit.
    Case(
        "tanh_adam_lr_large",
        partial(mlp, hidden=4, activation=nn.Tanh, init=lecun, optimizer=adam(0.1)),
        codes=("GW303", "GW202"),
        cause="learning rate",
        fixed=partial(mlp, hidden=4, activation=nn.Tanh, init=lecun, optimizer=adam()),
    ),
    Case(
        "adam_lr_small",
        partial(mlp, hidden=4, optimizer=adam(1e-6)),
        codes=("GW501",),
        cause="learning rate",
        fixed=partial(mlp, hidden=4, optimizer=adam()),
    ),
    # The net sees pixels from 0 to 255 where its noise is of unit size.
    Case(
        "diffusion_raw_inputs",
        partial(noise_prediction, factor=75.0),
        codes=("GW204",),
        cause="inputs",
        layers=("stem",),
        fixed=partial(noise_prediction, factor=1.0),
        fast=True,
    ),
    Case(
        "contrastive_std01",
        partial(contrastive_mlp, hidden=6, init=normal(0.01)),
        codes=("GW101",),
        cause="weights",
        fixed=partial(contrastive_mlp, hidden=6, init=he),
    ),
    Case(
        "q_learning_explodes",
        partial(q_learner, hidden=12, init=partial(he, factor=3.0)),
        codes=("GW301",),
        cause="weights",
        fixed=partial(q_learner, hidden=12, init=he),
    ),
    Case(
        "branch_without_grad",
        partial(classifier, net=partial(TwoBranch, width=8, cut=True), optimizer=adam(5e-3)),
        codes=("GW401",),
        cause="wiring",
        layers=lower,
        fixed=partial(classifier, net=partial(TwoBranch, width=8, cut=False), optimizer=adam(5e-3)),
    ),
    Case(
        "lstm_forgets",
        partial(sequence_lstm, forget_bias=-4.0),
        codes=("GW102",),
        cause="time",
        layers=("recurrent",),
        fixed=sequence_lstm,
    ),
    Case(
        "relu_rnn_explodes",
        partial(recall_rnn, nonlinearity="relu", gain=1.8, lr=0.0025),
        codes=("GW301",),
        cause="time",
        layers=("recurrent",),
        fixed=partial(recall_rnn, gain=1.0, lr=0.0025),
    ),
    Case(
        "gpt_fp16_underflow",
        partial(half_precision_gpt, scaled=False),
        codes=("GW103",),
        cause="precision",
        fixed=partial(half_precision_gpt, scaled=True),
    ),
    # Equal units that the head's random weights do tell apart, and that learn as one.
    Case(
        "constant_init",
        partial(mlp, hidden=3, init=constant(0.02), optimizer=adam()),
        codes=("GW402",),
        cause="weights",
        layers=("hidden.0", "hidden.1"),
        fixed=partial(mlp, hidden=3, optimizer=adam()),
    ),
)
