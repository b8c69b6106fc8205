// How many pixels the service decodes of a file: a JPEG is scaled down meanwhile, unless it is progressive.

const MARKER = 0xff;
const START = [0xff, 0xd8];
/** The frame headers of JPEG, which have the size; the progressive ones among them. */
const FRAMES = new Set([0xc0, 0xc1, 0xc2, 0xc3, 0xc5, 0xc6, 0xc7, 0xc9, 0xca, 0xcb, 0xcd, 0xce, 0xcf]);
const PROGRESSIVE = new Set([0xc2, 0xc6, 0xca, 0xce]);
/** What a decoder of JPEG can divide both sides by. */
const DIVISORS = [8, 4, 2];

/** Pixels of a file of this width and height that are decoded where `least` are needed along each side. */
export function decodedPixels(bytes, width, height, least) {
  const shrinks = isSequential(bytes);
  const by = shrinks ? DIVISORS.find((each) => Math.min(width, height) >= each * least) : 1;
  return Math.ceil(width / (by ?? 1)) * Math.ceil(height / (by ?? 1));
}

/** Whether these are the bytes of a JPEG that is not progressive. */
function isSequential(bytes) {
  if (!START.every((byte, place) => bytes[place] === byte)) return false;
  let at = START.length;
  while (at + 4 <= bytes.length && bytes[at] === MARKER) {
    const kind = bytes[at + 1];
    if (FRAMES.has(kind)) return !PROGRESSIVE.has(kind);
    at += 2 + 256 * bytes[at + 2] + bytes[at + 3];
  }
  return false;
}
