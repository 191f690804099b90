/**
 * Causes in words: which factor of the chain rule is at fault, per rule and cause.
 */

/** The chain rule, dE/dw = dE/dy · f'(Wx) · x: a factor's name and how it is written. */
export const CHAIN_RULE = [
  ["gradient", "dE/dw"],
  ["signal", "dE/dy"],
  ["slope", "f′(Wx)"],
  ["input", "x"],
];

const WORDS = {
  "GW101/activation": [
    "slope",
    "f′(Wx) is too small: the activations are flat where the values lie, or steep nowhere, and " +
      "the signal is multiplied by such a slope in every layer.",
  ],
  "GW101/weights": [
    "signal",
    "dE/dy collapsed: the weights on its way back are too small for their fan-in.",
  ],
  "GW101/wiring": [
    "signal",
    "dE/dy collapsed between the layers, in an operation that is neither weights nor an " +
      "activation, such as a pooling over many values or a constant factor.",
  ],
  "GW101/learning rate": [
    "signal",
    "dE/dy came through at the first step and collapsed later: steps that are too large spoilt " +
      "the layers that it passes.",
  ],
  "GW102/time": [
    "signal",
    "dE/dy collapsed through time: the same weights, applied again at each time step, shrink it.",
  ],
  "GW103/precision": [
    "gradient",
    "dE/dw is rounded to zero: float16 cannot express numbers of this size.",
  ],
  "GW201/weights": [
    "slope",
    "f′(Wx) is zero for the dead units: a bias or an initialisation keeps Wx on the flat side.",
  ],
  "GW201/learning rate": [
    "slope",
    "f′(Wx) is zero for the dead units: they were alive at first, and a step that was too large " +
      "threw them over.",
  ],
  "GW202/inputs": [
    "slope",
    "f′(Wx) is nearly zero: the network's inputs are large, and Wx with them.",
  ],
  "GW202/learning rate": [
    "slope",
    "f′(Wx) is nearly zero: steps that are too large took Wx to the flat sides.",
  ],
  "GW202/weights": [
    "slope",
    "f′(Wx) is nearly zero: the weights before the activation are too large, and Wx with them.",
  ],
  "GW203/loss": [
    "slope",
    "f′(Wx) of the output is nearly zero, and the loss multiplies its gradient by it.",
  ],
  "GW204/inputs": [
    "input",
    "x is not of about unit size, and dE/dw of the first layer carries it along.",
  ],
  "GW301/weights": ["signal", "dE/dy grows: each of the named layers multiplies it too much."],
  "GW301/depth": [
    "signal",
    "dE/dy grows: each layer multiplies it by a little too much, and there are many.",
  ],
  "GW301/time": ["signal", "dE/dy grows: a recurrent layer multiplies it at every time step."],
  "GW301/learning rate": [
    "signal",
    "dE/dy was well at the first step and grows now: steps that are too large did it.",
  ],
  "GW302/inputs": ["input", "x is not finite, or very large."],
  "GW302/learning rate": [
    null,
    "No factor alone: a step that moved a layer too far came before it.",
  ],
  "GW302/loss": ["signal", "dE/dy starts out wrong: the outputs are finite and the loss is not."],
  "GW302/precision": ["gradient", "float16 cannot express numbers of this size."],
  "GW302/weights": [null, "No factor alone: a weight or an operation in the net itself."],
  "GW303/inputs": ["input", "x is large, and dE/dw with it."],
  "GW303/learning rate": [
    null,
    "No factor: the step is the learning rate times a gradient, and the rate is too large for it.",
  ],
  "GW401/wiring": [
    "signal",
    "dE/dy never arrives: the graph is cut between the layer and the loss, or the loss does not " +
      "use the layer.",
  ],
  "GW402/weights": [
    "gradient",
    "dE/dw is the same for every unit: they start equal, and nothing tells them apart.",
  ],
  "GW403/loss": [
    "signal",
    "dE/dy starts out wrong: the loss is given probabilities where it expects logits.",
  ],
  "GW404/depth": [
    "input",
    "x is nearly the same for every example: many layers turn it a little more to one direction " +
      "each.",
  ],
  "GW404/learning rate": [
    "input",
    "x has become nearly the same for every example: steps that are too large did it.",
  ],
  "GW501/learning rate": [
    null,
    "No factor: the step is the learning rate times a gradient, and the rate is too small for it.",
  ],
  "GW901/wiring": [null, "How gradwatch is connected to the model, not the model itself."],
  "GW902/wiring": [null, "How gradwatch is connected to the model, not the model itself."],
};

/**
 * Which factor of the chain rule a finding blames, and how.
 *
 * @param {{code: string, cause: string}} card
 * @returns {{factor: string|null, words: string}|null} null for a cause that this page does not
 *   know; factor null where the chain rule is not to blame.
 */
export function causeWords({ code, cause }) {
  const key = `${code}/${cause}`;
  if (!Object.hasOwn(WORDS, key)) return null;
  const [factor, words] = WORDS[key];
  return { factor, words };
}

/**
 * What to do with the learning rate along with a fix: a sentence or two.
 *
 * @param {{kind: string, lr_factor: number}} fix
 * @returns {string|null} null where the fix itself is about the learning rate.
 */
export function rateAdvice({ kind, lr_factor: factor }) {
  if (kind === "learning_rate" || !(factor > 0) || !Number.isFinite(factor)) return null;
  if (factor === 1) return "Learning rate: unchanged.";
  const change =
    factor < 1
      ? `lr/${Number((1 / factor).toPrecision(3))}`
      : `lr × ${Number(factor.toPrecision(3))}`;
  const why =
    factor < 1
      ? "Gradients that flow again are larger, so a rate that suited the old ones is too large."
      : "Gradients are smaller with it, so the rate has to make up for that.";
  return `Learning rate: try ${change} with it. ${why}`;
}
