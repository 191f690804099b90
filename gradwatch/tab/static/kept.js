/**
 * What the browser tab keeps for a reload. A browser that keeps nothing, as for a frame of another
 * origin, shows the page all the same.
 */

/** What was kept under a key: whatever it is, null for nothing. */
export function kept(key) {
  try {
    return JSON.parse(window.sessionStorage.getItem(key) ?? "null");
  } catch {
    return null;
  }
}

/** Keep something that JSON can hold. */
export function keep(key, content) {
  try {
    window.sessionStorage.setItem(key, JSON.stringify(content));
  } catch {
    // see above
  }
}
