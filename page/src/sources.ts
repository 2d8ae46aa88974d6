// Where frames come from. Every source draws onto one canvas; what is on it is what is sent.

export interface Source {
  // Draws the next frame; false if there is none yet.
  draw(context: CanvasRenderingContext2D, width: number, height: number): boolean;
  stop(): void;
}

function cover(context: CanvasRenderingContext2D, image: CanvasImageSource, w: number, h: number, width: number, height: number): void {
  const cut = Math.min(w / width, h / height);
  context.drawImage(image, (w - cut * width) / 2, (h - cut * height) / 2, cut * width, cut * height, 0, 0, width, height);
}

// A strip of frames, one under the other, played in a loop at 15 frames a second.
export async function clip(token: string): Promise<Source> {
  const answer = await fetch(`v1/clip${token}`);
  if (!answer.ok) throw new Error(`the clip cannot be had (${answer.status})`);
  const strip = await createImageBitmap(await answer.blob());
  const count = Number(answer.headers.get("x-frames") ?? "1");
  const side = strip.height / count;
  const began = performance.now();
  return {
    draw(context, width, height) {
      const k = Math.floor(((performance.now() - began) / 1000) * 15) % count;
      context.drawImage(strip, 0, k * side, strip.width, side, 0, 0, width, height);
      return true;
    },
    stop: () => strip.close(),
  };
}

// White strokes on black, by pointer, or by arrow keys with the space bar held as the pen.
export function pad(canvas: HTMLCanvasElement, clear: HTMLButtonElement): Source {
  const paper = document.createElement("canvas");
  paper.width = paper.height = 280;
  const ink = paper.getContext("2d")!;
  let last: [number, number] | null = null;
  let at: [number, number] = [140, 60];
  const wipe = () => {
    ink.fillStyle = "#000";
    ink.fillRect(0, 0, 280, 280);
  };
  const line = (to: [number, number], from: [number, number]) => {
    ink.strokeStyle = "#fff";
    ink.lineWidth = Math.max(22, (1.5 * 280) / canvas.width); // at least a pixel and a half of what the model sees
    ink.lineCap = "round";
    ink.beginPath();
    ink.moveTo(...from);
    ink.lineTo(...to);
    ink.stroke();
  };
  const place = (event: PointerEvent): [number, number] => {
    const box = canvas.getBoundingClientRect();
    return [((event.clientX - box.left) / box.width) * 280, ((event.clientY - box.top) / box.height) * 280];
  };
  const down = (event: PointerEvent) => {
    canvas.setPointerCapture(event.pointerId);
    last = place(event);
    line(last, last);
  };
  const move = (event: PointerEvent) => {
    if (!last) return;
    const to = place(event);
    line(to, last);
    last = to;
  };
  const up = () => (last = null);
  const steps: Record<string, [number, number]> = { ArrowUp: [0, -10], ArrowDown: [0, 10], ArrowLeft: [-10, 0], ArrowRight: [10, 0] };
  let pen = false;
  const key = (event: KeyboardEvent) => {
    if (event.key === " ") pen = event.type === "keydown";
    const step = event.type === "keydown" ? steps[event.key] : undefined;
    if (step) {
      const to: [number, number] = [Math.min(270, Math.max(10, at[0] + step[0])), Math.min(270, Math.max(10, at[1] + step[1]))];
      if (pen) line(to, at);
      at = to;
    }
    if (step || event.key === " ") event.preventDefault();
  };
  wipe();
  clear.hidden = false;
  clear.addEventListener("click", wipe);
  canvas.addEventListener("pointerdown", down);
  canvas.addEventListener("pointermove", move);
  canvas.addEventListener("pointerup", up);
  canvas.addEventListener("keydown", key);
  canvas.addEventListener("keyup", key);
  return {
    draw(context, width, height) {
      context.drawImage(paper, 0, 0, width, height);
      return true;
    },
    stop() {
      clear.hidden = true;
      clear.removeEventListener("click", wipe);
      canvas.removeEventListener("pointerdown", down);
      canvas.removeEventListener("pointermove", move);
      canvas.removeEventListener("pointerup", up);
      canvas.removeEventListener("keydown", key);
      canvas.removeEventListener("keyup", key);
    },
  };
}

async function video(feed: MediaStream | File): Promise<Source> {
  const player = document.createElement("video");
  player.muted = player.playsInline = player.loop = true;
  const address = feed instanceof File ? URL.createObjectURL(feed) : "";
  if (feed instanceof File) player.src = address;
  else player.srcObject = feed;
  await player.play();
  return {
    draw(context, width, height) {
      if (!player.videoWidth) return false;
      cover(context, player, player.videoWidth, player.videoHeight, width, height);
      return true;
    },
    stop() {
      player.pause();
      if (feed instanceof MediaStream) feed.getTracks().forEach((track) => track.stop());
      else URL.revokeObjectURL(address);
    },
  };
}

export const camera = async (): Promise<Source> => video(await navigator.mediaDevices.getUserMedia({ video: true }));
export const screen = async (): Promise<Source> => video(await navigator.mediaDevices.getDisplayMedia({ video: true }));

export async function file(chosen: File): Promise<Source> {
  if (chosen.type.startsWith("video/")) return video(chosen);
  const image = await createImageBitmap(chosen);
  return {
    draw(context, width, height) {
      cover(context, image, image.width, image.height, width, height);
      return true;
    },
    stop: () => image.close(),
  };
}

// No picture at all: the server makes frames from noise, which needs strength 1.
export const noise: Source = {
  draw(context, width, height) {
    context.fillStyle = "#000";
    context.fillRect(0, 0, width, height);
    return true;
  },
  stop() {},
};
