// Pictures that fit into one request: files as they are while there is room, and the largest scaled down where not.

import { ServiceError } from "../service.js";

const KIB = 1 << 10;
/** Bytes of a request beside its pictures. */
const REST = 1 << 16;
/** Bytes of a picture in JSON beside its base64: quotes and a comma. */
const AROUND = 3;

/**
 * Scale pictures down until a request of them is one that the service takes.
 *
 * @throws {ServiceError} in the service's stead, where no scaling brings them under its bounds.
 */
export async function fit(pictures, side, limits) {
  const bytes = (picture) => picture.sent(side).length + AROUND;
  const pixels = (picture) => picture.pixels(side);
  const room = limits.body_bytes - REST;
  for (const picture of pictures)
    if (pixels(picture) > limits.picture_pixels) await picture.scale(side);
  await shrink(pictures, side, pixels, limits.request_pixels);
  await shrink(pictures, side, bytes, room);
  const found = total(pictures, bytes);
  if (found <= room) return;
  const which = pictures.length === 1 ? "this picture is" : `these ${pictures.length} pictures are`;
  const detail =
    `Even scaled down ${which} ${words(found + REST)}, and this service takes ${words(limits.body_bytes)} ` +
    "a request: remove some, or start it with a larger BMAML_MAX_BODY_BYTES.";
  throw new ServiceError({ status: 413, detail });
}

const words = (bytes) =>
  bytes < KIB * KIB ? `${Math.ceil(bytes / KIB)} KiB` : `${(bytes / KIB / KIB).toFixed(1)} MiB`;
const total = (pictures, size) => pictures.reduce((sum, picture) => sum + size(picture), 0);

/** Scale the largest first, until all of them together are within `most`. */
async function shrink(pictures, side, size, most) {
  const rest = [...pictures].sort((one, other) => size(other) - size(one));
  while (total(pictures, size) > most && rest.length) await rest.shift().scale(side);
}
