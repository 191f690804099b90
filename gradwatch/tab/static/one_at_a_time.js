/**
 * One at a time: work that is asked for more often than it can be done.
 */

/**
 * A function that does something at once, or, while that is still being done, once more after it.
 *
 * @param {function(): Promise<void>} act Must not reject.
 * @returns {function(): Promise<void>}
 */
export function oneAtATime(act) {
  let isRunning = false;
  let isWanted = false;
  return async () => {
    isWanted = true;
    if (isRunning) return;
    isRunning = true;
    while (isWanted) {
      isWanted = false;
      await act();
    }
    isRunning = false;
  };
}
