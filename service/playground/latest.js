// One request in flight, and the latest wish wins: what was wished in between, or taken back, is never asked.

import { ServiceError } from "./service.js";

/**
 * A function to be called with every wish, a new object each time, or with null for none any more. `work(wish)` asks;
 * `show(answer, wish)` gets what came, in order, unless it was taken back; `fail(error)` what went wrong with the
 * latest wish.
 */
export function latest(work, show, fail) {
  let newest = null;
  let busy = false;
  return async (wanted) => {
    newest = wanted;
    if (busy) return;
    busy = true;
    for (let asked = null; newest && newest !== asked; ) {
      asked = newest;
      try {
        const answer = await work(asked);
        if (newest) show(answer, asked);
      } catch (error) {
        if (newest === asked) fail(error);
        if (!(error instanceof ServiceError)) reportError(error);
      }
    }
    busy = false;
  };
}
