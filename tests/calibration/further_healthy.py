"""The further runs that are healthy; above each stands what it is a trap for."""

from __future__ import annotations

from functools import partial

import torch
from torch import nn

from .attention import PostNormTransformer, VisionTransformer
from .case import Case
from .convolutional import DenseNet, SqueezeNet, UNet
from .families import mlp
from .further_families import (
    bfloat16_mlp,
    classifier,
    contrastive_mlp,
    cosine_to_zero,
    far_target,
    fine_tuning,
    graph_net,
    language_model,
    least_squares,
    one_logit,
    policy_learner,
    q_learner,
    rare_experts,
    recurrent,
    softmax_mlp,
)
from .generative import autoencoder, reconstruction_entropy, reconstruction_error
from .generative_families import flow_matching, gan, image_model, vae
from .initialisation import lecun
from .nets import Mlp, ResNet
from .objectives import likelihood_of_probabilities, meta_cross_entropy
from .setups import adam, adamw, mean_squared_error, sgd
from .tasks import unit_digits

FURTHER_HEALTHY = (
    # AdamW decays convolutions that a norm makes blind to their scale.
    Case(
        "h_resnet_adamw",
        partial(
            classifier,
            net=partial(ResNet, blocks=4, width=16, gamma=1.0),
            optimizer=adamw(),
            steps=200,
        ),
    ),
    # Only the class token is read, through dropout; 16 of 17 last outputs go nowhere.
    Case(
        "h_vit_class_token",
        partial(classifier, net=partial(VisionTransformer, blocks=3), optimizer=adamw(), steps=200),
    ),
    # Post-norm shrinks the signal at every block, too little over three to matter.
    Case(
        "h_postnorm3",
        partial(classifier, net=partial(PostNormTransformer, blocks=3), optimizer=adamw()),
    ),
    # Embedding and head are one tensor, of std 0.02.
    Case("h_gpt_tied", language_model),
    # The skips carry most of the signal past the coarse scales.
    Case("h_unet", partial(image_model, net=UNet, steps=200)),
    # The time's net is a weak side input.
    Case("h_flow_matching", flow_matching),
    # A sum over pixels, a random code, and code units that fall silent rightly.
    Case("h_vae", vae),
    # Embeddings of unit length: no gradient along them.
    Case("h_contrastive", contrastive_mlp),
    # The loss grows as the values do.
    Case("h_q_learning", q_learner),
    # The loss is about zero and of any sign.
    Case("h_policy_gradient", policy_learner),
    # The same batch in every step, outputs that neighbours share.
    Case("h_graph_net", partial(graph_net, layers=3)),
    # Most units are on their flat sides from the start, and the net learns nevertheless.
    Case(
        "h_graph_tanh_saturated",
        partial(graph_net, layers=8, activation=torch.tanh, init=partial(lecun, factor=5.0)),
    ),
    Case(
        "h_densenet",
        partial(
            classifier, net=partial(DenseNet, layers=8, growth=8), optimizer=adam(2e-3), steps=200
        ),
    ),
    # Sigmoids that are gates, whose slopes are small by design.
    Case(
        "h_squeeze_gates",
        partial(
            classifier, net=partial(SqueezeNet, blocks=3, width=16), optimizer=sgd(0.02), steps=200
        ),
    ),
    Case("h_gru_rows", partial(recurrent, cell=nn.GRU, length=8, lr=3e-3)),
    # A hundred decades of nothing are possible over 64 steps; the gates hold.
    Case("h_lstm_pixels", partial(recurrent, cell=nn.LSTM, length=64, lr=5e-3, steps=250)),
    # SELU keeps mean and variance, with LeCun's weights, not He's.
    Case(
        "h_selu12",
        partial(mlp, hidden=12, activation=nn.SELU, init=lecun, optimizer=sgd(0.01)),
    ),
    # Outputs saturate rightly: most pixels are black.
    Case(
        "h_autoencoder_bce",
        partial(
            image_model,
            net=partial(autoencoder, code=8),
            loss_fn=reconstruction_entropy,
            task=unit_digits,
        ),
    ),
    Case(
        "h_autoencoder_mse",
        partial(
            image_model,
            net=partial(autoencoder, code=8, activation=nn.Tanh),
            loss_fn=reconstruction_error,
            task=unit_digits,
        ),
    ),
    # Two numbers tell all of an image: every output lies in a plane.
    Case(
        "h_autoencoder_code2",
        partial(
            image_model,
            net=partial(autoencoder, code=2, activation=nn.Tanh),
            loss_fn=reconstruction_error,
            task=unit_digits,
            optimizer=adam(1e-2),
        ),
    ),
    # Probabilities, and losses that are meant for them: no mistake.
    Case(
        "h_softmax_likelihood",
        partial(classifier, net=softmax_mlp, loss_fn=likelihood_of_probabilities),
        fast=True,
    ),
    Case(
        "h_softmax_brier",
        partial(classifier, net=softmax_mlp, loss_fn=mean_squared_error, chance_loss=0.09),
    ),
    Case("h_one_logit", one_logit),
    # RMSprop's first step is ten times its later ones: three quarters of a layer.
    Case(
        "h_rmsprop_first_step",
        partial(mlp, hidden=2, optimizer=partial(torch.optim.RMSprop, lr=0.01)),
    ),
    # The output has to grow a thousandfold, and all outputs are alike but for a tenth.
    Case("h_far_target", far_target),
    # At the minimum the gradient is zero and the loss is not.
    Case("h_least_squares", least_squares),
    Case("h_bfloat16", bfloat16_mlp),
    # Steps of exactly zero at the end of a schedule.
    Case("h_cosine_to_zero", cosine_to_zero),
    # Gradients of gradients; the second forward runs on weights that are not the module's own.
    Case(
        "h_second_order",
        partial(
            classifier, net=partial(Mlp, hidden=2, activation=nn.Tanh), loss_fn=meta_cross_entropy
        ),
    ),
    # Backward passes of the other net's loss run through the watched one.
    Case("h_gan_discriminator", partial(gan, watched="discriminator")),
    Case("h_gan_generator", partial(gan, watched="generator")),
    # Norms in evaluation mode, without gradient, between layers that train.
    Case("h_frozen_norms", fine_tuning),
    # Experts that see a sample in one batch of many.
    Case("h_moe_rare", rare_experts),
)
