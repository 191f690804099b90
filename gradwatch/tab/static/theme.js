/**
 * Theme: dark where TensorBoard is, or where the reader's system asks for it.
 */

/**
 * Set the class `dark` on an element, now and whenever the theme changes.
 *
 * @param {HTMLElement} root
 * @param {function(): void} onChange Called after a change.
 */
export function followTheme(root, onChange) {
  const host = tensorBoardBody();
  const system = window.matchMedia("(prefers-color-scheme: dark)");
  const isDark = () => (host === null ? system.matches : host.classList.contains("dark-mode"));
  const apply = () => {
    const was = root.classList.contains("dark");
    root.classList.toggle("dark", isDark());
    if (was !== isDark()) onChange();
  };
  root.classList.toggle("dark", isDark());
  if (host === null) system.addEventListener("change", apply);
  else new MutationObserver(apply).observe(host, { attributeFilter: ["class"] });
}

function tensorBoardBody() {
  try {
    return window.parent !== window ? window.parent.document.body : null;
  } catch {
    return null; // a page of another origin
  }
}
