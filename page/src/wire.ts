// The binary message of condiff/serve/wire.py: "CDF1", number, capture time, flag, and an encoded picture.

export const HEADER = 20;
const MAGIC = 0x43444631;

export interface Frame {
  number: number;
  captured: number;
  again: boolean;
  picture: Blob;
}

export function pack(number: number, captured: number, picture: ArrayBuffer): ArrayBuffer {
  const message = new ArrayBuffer(HEADER + picture.byteLength);
  const view = new DataView(message);
  view.setUint32(0, MAGIC);
  view.setUint32(4, number);
  view.setFloat64(8, captured);
  new Uint8Array(message).set(new Uint8Array(picture), HEADER);
  return message;
}

export function unpack(message: ArrayBuffer): Frame {
  const view = new DataView(message);
  if (message.byteLength < HEADER || view.getUint32(0) !== MAGIC) throw new Error("the server sent what is no frame");
  return {
    number: view.getUint32(4),
    captured: view.getFloat64(8),
    again: view.getUint8(16) === 1,
    picture: new Blob([message.slice(HEADER)]),
  };
}
