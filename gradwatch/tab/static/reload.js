/**
 * Reload: hear from TensorBoard that it has read its files again.
 *
 * Its protocol between a plugin's frame and the page around it is experimental: where a TensorBoard
 * does not speak it, nothing is ever heard, and the page asks by itself as it does anyway.
 */

const RELOADED = "experimental.DataReloaded";

/**
 * Call a function after every reload of TensorBoard's data.
 *
 * @param {function(): void} act
 * @param {Window} [host] The window around the frame.
 */
export function onDataReloaded(act, host = window.parent) {
  if (host === window) return;
  const { port1, port2 } = new MessageChannel();
  port1.onmessage = ({ data }) => {
    const message = parsed(data);
    if (message?.type !== RELOADED || message.isReply) return;
    port1.postMessage(JSON.stringify(replyTo(message)));
    act();
  };
  host.postMessage("experimental.bootstrap", "*", [port2]);
}

/**
 * The answer that TensorBoard waits for.
 *
 * @param {{type: string, id: number}} message
 */
export function replyTo({ type, id }) {
  return { type, id, payload: null, error: null, isReply: true };
}

/**
 * A message as an object, null for what is none.
 *
 * @param {unknown} text
 */
export function parsed(text) {
  try {
    const message = JSON.parse(String(text));
    return typeof message === "object" ? message : null;
  } catch {
    return null;
  }
}
