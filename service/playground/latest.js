// One request in flight, and the latest wish wins: what was wished in between, or taken back, is never asked.

import { ServiceError } from "./service.js";

/**
 * A function to be called with every wish, or with null for none any more. `work(wish)` asks; `show(answer, wish)` gets what came, in order;
 * `fail(error)` what went wrong.
 */
export function latest(work, show, fail) {
  let wish = null;
  let busy = false;
  return async (wanted) => {
    wish = wanted && { wanted };
    if (busy) return;
    busy = true;
    while (wish) {
      const { wanted: current } = wish;
      wish = null;
      try {
        show(await work(current), current);
      } catch (error) {
        fail(error);
        if (!(error instanceof ServiceError)) reportError(error);
      }
    }
    busy = false;
  };
}
