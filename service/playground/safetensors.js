// Replies as tensors: a length, a JSON header, then little-endian numbers.

export const BINARY = "application/vnd.safetensors";

/** A tensor of two dimensions as an array of rows; of one as it is. */
function shaped(values, shape) {
  if (shape.length === 1) return values;
  const width = values.length / shape[0];
  return Array.from({ length: shape[0] }, (_, row) => values.subarray(row * width, (row + 1) * width));
}

/** The reply that JSON would have held, with Float32Arrays where it has lists of numbers. */
export function decoded(buffer) {
  const length = Number(new DataView(buffer).getBigUint64(0, true));
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 8, length)));
  const { __metadata__: metadata, ...tensors } = header;
  const reply = JSON.parse(metadata.response);
  const data = buffer.slice(8 + length);
  for (const [
    path,
    {
      dtype,
      shape,
      data_offsets: [start, end],
    },
  ] of Object.entries(tensors)) {
    const type = { F32: Float32Array, F64: Float64Array }[dtype];
    if (!type) throw new TypeError(`a reply of ${dtype}`);
    const numbers = new type(data.slice(start, end));
    const parts = path.split(".");
    const last = parts.pop();
    let place = reply;
    for (const part of parts) place = place[part] ??= {};
    place[last] = shaped(numbers, shape);
  }
  return reply;
}
