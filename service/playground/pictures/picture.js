// One photograph: its file, what the browser knows of it, and the form in which it is sent.

import { html } from "../dom.js";
import { decodedPixels } from "./jpeg.js";

const PREVIEW = 320;
const JPEG = "image/jpeg";
const QUALITY = 0.95;
/** Pixels of a scaled picture for each pixel that the model needs, along each side: as the service decodes a JPEG. */
const FINER = 2;
/** A file's own pixels: turned as EXIF says, colour profiles not applied, as the service reads them. */
const AS_READ = { imageOrientation: "from-image", colorSpaceConversion: "none" };

/** A picture that was dropped. `problem` is the sentence of what is wrong with it, "" where nothing is. */
export class Picture {
  /** Read a file; one that the browser does not know has no preview and may still be one that the service reads. */
  static async of(file) {
    const picture = new Picture();
    Object.assign(picture, { file, name: file.name, problem: "", base64: "", size: null, preview: null });
    picture.scaled = new Map();
    try {
      picture.base64 = await base64(file);
      picture.head = new Uint8Array(await file.arrayBuffer());
    } catch {
      picture.problem = "cannot be read: is it a folder?";
      return picture;
    }
    const bitmap = await createImageBitmap(file, AS_READ).catch(() => null);
    if (!bitmap) return picture;
    picture.size = { width: bitmap.width, height: bitmap.height };
    const side = Math.min(1, PREVIEW / Math.max(bitmap.width, bitmap.height));
    picture.preview = URL.createObjectURL(await drawn(bitmap, side));
    bitmap.close();
    return picture;
  }

  /** Whether a smaller form is sent to a model of this side. */
  isScaled(side) {
    return this.scaled.has(side);
  }

  /** What is sent to a model of this side, as base64. */
  sent(side) {
    return this.scaled.get(side) ?? this.base64;
  }

  /** Pixels that the service decodes of what is sent. */
  pixels(side) {
    if (!this.size) return 0;
    const { width, height } = this.size;
    if (!this.isScaled(side)) return decodedPixels(this.head, width, height, FINER * side);
    const share = this.#share(side);
    return Math.ceil(share * width) * Math.ceil(share * height);
  }

  /** Send a smaller form to models of this side from now on; false where there is none. */
  async scale(side) {
    if (!this.size || this.isScaled(side)) return false;
    const bitmap = await createImageBitmap(this.file, AS_READ);
    const smaller = await base64(await drawn(bitmap, this.#share(side)));
    bitmap.close();
    if (smaller.length >= this.base64.length && this.#share(side) === 1) return false;
    this.scaled.set(side, smaller);
    return true;
  }

  /** Give the preview back. */
  forget() {
    if (this.preview) URL.revokeObjectURL(this.preview);
  }

  #share(side) {
    return Math.min(1, (FINER * side) / Math.min(this.size.width, this.size.height));
  }
}

/** Base64 of a file. */
function base64(file) {
  return new Promise((done, failed) => {
    const reader = new FileReader();
    reader.onload = () => done(reader.result.slice(reader.result.indexOf(",") + 1));
    reader.onerror = () => failed(reader.error);
    reader.readAsDataURL(file);
  });
}

/** A bitmap at a share of its size as a JPEG, over white. Halved again and again, so that every pixel counts. */
async function drawn(bitmap, share) {
  const [width, height] = [bitmap.width, bitmap.height].map((length) => Math.max(1, Math.ceil(share * length)));
  let source = bitmap;
  for (;;) {
    const next = [source.width / 2, source.height / 2].map(Math.ceil);
    const last = next[0] <= width || next[1] <= height;
    const canvas = html("canvas", last ? { width, height } : { width: next[0], height: next[1] });
    const context = canvas.getContext("2d");
    context.imageSmoothingQuality = "high";
    context.fillStyle = "white";
    context.fillRect(0, 0, canvas.width, canvas.height);
    context.drawImage(source, 0, 0, canvas.width, canvas.height);
    source = canvas;
    if (last) return new Promise((done) => canvas.toBlob(done, JPEG, QUALITY));
  }
}
