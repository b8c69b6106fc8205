// Requests about pictures: the support set is posted once and kept, and a broken picture is set aside.

import { post, ServiceError } from "../service.js";
import { fit, tooLarge } from "./fit.js";

const KEEP = { ttl_s: 600 };
/** The posterior is not kept any more, or its version is gone. */
const GONE = [404, 410];
/** How the service says that one picture alone has too many pixels. */
const PIXELS = /^\d+ × \d+ pixels/;
const PLACE = /^\/(?:support|query|pool)\/x\/images\/(\d+)$/;

/** The questions of one panel; it remembers which support set was adapted to last. */
export class Asker {
  constructor(limits) {
    Object.assign(this, { limits, kept: null, turn: Promise.resolve() });
  }

  /** Class probabilities of pictures, given labelled rows. */
  predict(card, rows, pictures) {
    return this.#ask("adapt-predict", card, rows, pictures, (images) => ({ query: { x: { images } } }));
  }

  /** The order in which pictures should be labelled, the first `size` of them. */
  rank(card, rows, pictures, acquisition, size) {
    return this.#ask("uncertainty", card, rows, pictures, (images) => ({
      pool: { x: { images } },
      acquisition,
      batch: { size: Math.min(size, images.length), strategy: "top_k" },
    }));
  }

  /** One after the other, so that a support set is posted once. */
  #ask(...question) {
    const turn = this.turn.then(() => this.#asked(...question));
    this.turn = turn.catch(() => {});
    return turn;
  }

  /** The reply, with `pictures` that its rows are of and the warnings of both requests; null where none are left. */
  async #asked(path, card, rows, pictures, body) {
    for (let again = true; ; again = false) {
      const kept = await this.#adapted(card, rows);
      if (!kept) return null;
      try {
        const reply = await this.#sent(path, card, { posterior: kept.id }, pictures, body);
        return reply && { ...reply, warnings: [...new Set([...kept.warnings, ...reply.diagnostics.warnings])] };
      } catch (error) {
        const gone = error instanceof ServiceError && GONE.includes(error.status);
        if (!gone || !again) throw error;
        this.kept = null;
      }
    }
  }

  /** The posterior of these rows; null where fewer than two classes have a picture that can be read. */
  async #adapted(card, rows) {
    const known = rows.filter(({ picture }) => !picture.problem);
    const fits =
      this.kept?.card === card &&
      this.kept.rows.length === known.length &&
      known.every(({ picture, label }, row) => {
        const its = this.kept.rows[row];
        return its.picture === picture && its.label === label;
      });
    if (fits) return this.kept;
    this.kept = null;
    const labelOf = new Map(rows.map(({ picture, label }) => [picture, label]));
    const reply = await this.#sent(
      "posteriors",
      card,
      { keep: KEEP },
      rows.map(({ picture }) => picture),
      (images, pictures) => ({ support: { x: { images }, y: pictures.map((each) => labelOf.get(each)) } }),
      (pictures) => new Set(pictures.map((each) => labelOf.get(each))).size > 1,
    );
    if (!reply) return null;
    const { posterior, diagnostics, pictures } = reply;
    const its = pictures.map((picture) => ({ picture, label: labelOf.get(picture) }));
    this.kept = { card, rows: its, id: posterior.id, warnings: diagnostics.warnings };
    return this.kept;
  }

  /** Post pictures; one that cannot be sent or read gets its sentence and is left out. */
  async #sent(path, card, start, pictures, body, enough = (left) => left.length > 0) {
    for (const picture of pictures) picture.problem ||= tooLarge(picture, this.limits);
    for (;;) {
      const good = pictures.filter(({ problem }) => !problem);
      if (!enough(good)) return null;
      const forms = await fit(good, sideOf(card), this.limits);
      const images = forms.map(({ base64 }) => base64);
      const { name: model, version } = card;
      try {
        const reply = await post(path, { model, version, ...start, ...body(images, good) });
        good.forEach((picture, place) => {
          picture.isScaled = forms[place].isScaled;
        });
        return { ...reply, pictures: good };
      } catch (error) {
        if (!(error instanceof ServiceError) || !setAside(error, good, this.limits)) throw error;
      }
    }
  }
}

/**
 * Give the pictures that a refusal points at its sentence; whether there were any.
 *
 * @throws {ServiceError} where one points at a picture that has too many pixels together with the others alone.
 */
function setAside(error, pictures, limits) {
  const found = error.errors.flatMap(({ pointer, detail }) => {
    const place = PLACE.exec(pointer)?.[1];
    return place === undefined ? [] : [{ picture: pictures[Number(place)], detail }];
  });
  for (const { picture, detail } of found) {
    const [large] = PIXELS.exec(detail) ?? [];
    if (error.status === 413 && !large) throw tooMany(pictures, limits);
    const most = limits.picture_pixels.toLocaleString("en");
    picture.problem = large
      ? `has ${large}, more than this service takes (${most}): save it as a JPEG`
      : detail.replace(/\.$/, "");
  }
  return found.length > 0;
}

/** The refusal of pictures each of which the service would take. */
function tooMany(pictures, limits) {
  const most = limits.request_pixels.toLocaleString("en");
  const detail =
    `These ${pictures.length} pictures have more pixels than this service takes a request (${most}): ` +
    "remove some, save them as JPEG, or start it with a larger BMAML_MAX_REQUEST_PIXELS.";
  return new ServiceError({ status: 413, detail });
}

/** Pixels of the shorter side that a model needs, before its crop. */
const sideOf = ({ image: { size, crop } }) => Math.round(size / (crop ?? 1));
