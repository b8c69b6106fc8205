// Pictures that fit into one request: files as they are while there is room, and the largest scaled down where not.

import { ServiceError } from "../service.js";

const KIB = 1 << 10;
/** Bytes of a request beside its pictures. */
const REST = 1 << 16;
/** Bytes of a picture in JSON beside its base64: quotes and a comma. */
const AROUND = 3;

/**
 * The form of each picture, in their order, in a request that the service takes.
 *
 * @throws {ServiceError} in the service's stead, where no scaling brings them under its bounds.
 */
export async function fit(pictures, side, limits) {
  const forms = new Map(pictures.map((picture) => [picture, picture.whole(side)]));
  const total = (size) => pictures.reduce((sum, picture) => sum + size(forms.get(picture)), 0);
  const scale = async (picture) => forms.set(picture, await picture.smaller(side));
  /** Scale the largest first, until all of them together are within `most`. */
  const shrink = async (size, most) => {
    const rest = [...pictures].sort((one, other) => size(forms.get(other)) - size(forms.get(one)));
    while (total(size) > most && rest.length) await scale(rest.shift());
  };
  for (const picture of pictures) if (pixels(forms.get(picture)) > limits.picture_pixels) await scale(picture);
  await shrink(pixels, limits.request_pixels);
  await shrink(bytes, room(limits));
  const found = total(bytes);
  if (found <= room(limits)) return [...forms.values()];
  const which = pictures.length === 1 ? "this picture is" : `these ${pictures.length} pictures are`;
  const detail =
    `Even scaled down ${which} ${words(found + REST)}, and this service takes ${words(limits.body_bytes)} ` +
    "a request: remove some, or start it with a larger BMAML_MAX_BODY_BYTES.";
  throw new ServiceError({ status: 413, detail });
}

/** What is wrong with a file that fills a request alone and that the browser cannot scale down; "" with any other. */
export function tooLarge({ size, base64, file }, limits) {
  if (size || bytes({ base64 }) <= room(limits)) return "";
  return `${words(file.size)} are too large for a request, and this page cannot scale them down: save it as a JPEG`;
}

const bytes = ({ base64 }) => base64.length + AROUND;
const pixels = (form) => form.pixels;
const room = (limits) => limits.body_bytes - REST;
const words = (number) =>
  number < KIB * KIB ? `${Math.ceil(number / KIB)} KiB` : `${(number / KIB / KIB).toFixed(1)} MiB`;
