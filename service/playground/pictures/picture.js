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

/**
 * A picture that was dropped. `problem` is the sentence of what is wrong with it, "" where nothing is; `isScaled`
 * whether its latest request had a smaller form of it.
 */
export class Picture {
  /** Read a file; one that the browser does not know has no preview and may still be one that the service reads. */
  static async of(file) {
    const picture = new Picture();
    Object.assign(picture, { file, name: file.name, problem: "", base64: "", size: null, preview: null });
    Object.assign(picture, { isScaled: false, forms: new Map() });
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

  /** The file itself for a model of this side: its base64, and the pixels that the service decodes of it. */
  whole(side) {
    const { width, height } = this.size ?? {};
    const pixels = this.size ? decodedPixels(this.head, width, height, FINER * side) : 0;
    return { base64: this.base64, pixels, isScaled: false };
  }

  /** The smaller form for a model of this side; the file itself where there is none. */
  async smaller(side) {
    if (!this.forms.has(side)) this.forms.set(side, await this.#scaled(side));
    return this.forms.get(side);
  }

  async #scaled(side) {
    if (!this.size) return this.whole(side);
    const { width, height } = this.size;
    const share = Math.min(1, (FINER * side) / Math.min(width, height));
    const bitmap = await createImageBitmap(this.file, AS_READ);
    const smaller = await base64(await drawn(bitmap, share));
    bitmap.close();
    if (share === 1 && smaller.length >= this.base64.length) return this.whole(side);
    return { base64: smaller, pixels: Math.ceil(share * width) * Math.ceil(share * height), isScaled: true };
  }

  /** Give the preview back. */
  forget() {
    if (this.preview) URL.revokeObjectURL(this.preview);
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
