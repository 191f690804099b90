/**
 * Binary answers of the server: a JSON header, then arrays.
 *
 * The header's length is a little-endian uint32; the arrays stand at the offsets that the header
 * gives, counted from its end, each a multiple of 8.
 */

const TYPES = {
  float32: Float32Array,
  float64: Float64Array,
  int32: Int32Array,
  uint8: Uint8Array,
};

/**
 * What a binary answer holds.
 *
 * @param {ArrayBuffer} buffer
 * @returns {{meta: object, arrays: Object<string, {shape: number[], values: ArrayLike<number>}>}}
 * @throws {Error} If it is no such answer; the message says what is wrong.
 */
export function decode(buffer) {
  if (buffer.byteLength < 4) throw new Error("the answer is cut off before its header");
  const length = new DataView(buffer).getUint32(0, true);
  const start = 4 + length;
  if (start > buffer.byteLength) throw new Error("the answer is cut off inside its header");
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, length)));
  const arrays = {};
  for (const { name, dtype, shape, offset } of header.arrays) {
    const Type = TYPES[dtype];
    if (!Type) throw new Error(`array ${name} has the unknown type ${dtype}`);
    const count = shape.reduce((product, size) => product * size, 1);
    const first = start + offset;
    if (first + count * Type.BYTES_PER_ELEMENT > buffer.byteLength)
      throw new Error(`the answer is cut off inside array ${name}`);
    arrays[name] = { shape, values: new Type(buffer, first, count) };
  }
  return { meta: header.meta, arrays };
}
