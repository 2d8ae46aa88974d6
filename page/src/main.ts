import "./style.css";
import { build, show, type Change, type Control } from "./controls";
import * as sources from "./sources";
import { pack, unpack } from "./wire";

const $ = <T extends HTMLElement>(id: string) => document.getElementById(id) as T;
const asked = new URLSearchParams(location.search).get("token");
const token = asked ? `?token=${encodeURIComponent(asked)}` : "";

const input = $<HTMLCanvasElement>("input");
const output = $<HTMLCanvasElement>("output");
const chooser = $<HTMLSelectElement>("source");
const picker = $<HTMLInputElement>("file");
const form = $<HTMLFormElement>("controls");
const latencies: number[] = [];

let socket: WebSocket | null = null;
let session = "";
let source: sources.Source = sources.noise;
let chosen = "noise";
let shape = [1, 28, 28];
let deadline = 0;
let number = 0;
let flying = 0;
let lastSent = 0;
let lastHeard = 0;
let paused = false;
let recording = false;
let wait = 250;
let newest = -1;

function complain(id: string, text: string): void {
  const place = $(id);
  place.hidden = text === "";
  place.textContent = text;
}

function state(text: string, bad = false): void {
  $("state").textContent = text;
  $("state").classList.toggle("bad", bad);
}

function send(message: object): void {
  if (socket?.readyState === WebSocket.OPEN) socket.send(JSON.stringify(message));
}

// Settings are gathered for a moment, so that a slider that is dragged says the last of many values.
let gathered: Change = {};
let gathering = 0;
function change(one: Change): void {
  for (const [name, value] of Object.entries(one)) {
    const inner = value !== null && typeof value === "object" && !Array.isArray(value);
    gathered[name] = inner ? { ...(gathered[name] as object | undefined), ...(value as object) } : value;
  }
  clearTimeout(gathering);
  gathering = window.setTimeout(() => {
    complain("settings-error", "");
    send({ type: "settings", settings: gathered });
    gathered = {};
  }, 60);
}

function connect(): void {
  const scheme = location.protocol === "https:" ? "wss" : "ws";
  const here = location.pathname.replace(/[^/]*$/, "");
  socket = new WebSocket(`${scheme}://${location.host}${here}v1/stream${token}`);
  socket.binaryType = "arraybuffer";
  const mine = socket;
  socket.onopen = () => {
    wait = 250;
    flying = 0;
    newest = -1;
    state("connected");
  };
  socket.onmessage = (event: MessageEvent) => {
    if (typeof event.data === "string") hear(JSON.parse(event.data));
    else void receive(event.data as ArrayBuffer);
  };
  socket.onclose = (event: CloseEvent) => {
    if (socket !== mine) return;
    socket = null;
    const why = event.reason || (event.code === 1006 ? "no connection" : `closed (${event.code})`);
    state(`${why}; trying again`, true);
    window.setTimeout(connect, wait);
    wait = Math.min(5000, wait * 2);
  };
}

interface Said {
  type: string;
  [name: string]: unknown;
}

function hear(said: Said): void {
  if (said.type === "hello") {
    session = String(said["session"]);
    shape = said["shape"] as number[];
    deadline = Number(said["deadline"]) * 1000;
    for (const canvas of [input, output]) {
      canvas.width = shape[2] ?? 28;
      canvas.height = shape[1] ?? 28;
      canvas.style.aspectRatio = `${canvas.width} / ${canvas.height}`;
    }
    const before = form.childElementCount > 0 ? values() : null;
    build(form, (said["schema"] as { properties: Record<string, Control> }).properties, change);
    show(form, said["settings"] as Record<string, unknown>);
    // After a lost connection the new stream gets the settings that were chosen before.
    if (before) send({ type: "settings", settings: before });
    if (paused) send({ type: "pause" });
  } else if (said.type === "settings") {
    known = said["settings"] as Record<string, unknown>;
    show(form, known);
  } else if (said.type === "stats") {
    for (const name of ["fps", "dropped", "skipped", "late", "waiting"]) $(name).textContent = String(said[name] ?? 0);
    $("latency").textContent = `${Math.round(Number(said["p50"]))} ms`;
    $("p95").textContent = `${Math.round(Number(said["p95"]))} ms`;
  } else if (said.type === "late") {
    flying = Math.max(0, flying - 1);
  } else if (said.type === "error") {
    flying = 0;
    complain(said["frame"] === null ? "settings-error" : "stream-error", String(said["message"]));
  }
}

let known: Record<string, unknown> | null = null;
const values = () => known;

async function receive(message: ArrayBuffer): Promise<void> {
  const frame = unpack(message);
  flying = Math.max(0, flying - 1);
  lastHeard = performance.now();
  latencies.push(lastHeard - frame.captured);
  if (latencies.length > 150) latencies.shift();
  const image = await createImageBitmap(frame.picture);
  if (frame.number < newest) return image.close();
  newest = frame.number;
  const context = output.getContext("2d")!;
  context.drawImage(image, 0, 0, output.width, output.height);
  image.close();
  $("still").hidden = !frame.again;
  complain("stream-error", "");
  output.dataset["frame"] = String(frame.number);
}

// One frame more than the stream is deep may be on its way; if nothing comes back, another is sent after a while.
function tick(): void {
  const context = input.getContext("2d", { willReadFrequently: true })!;
  context.imageSmoothingQuality = "high"; // a coarse way down to few pixels loses thin strokes
  const ready = source.draw(context, input.width, input.height);
  const now = performance.now();
  const deep = Number(known?.["steps"] ?? 4) + 1;
  const due = flying < deep ? now - lastSent >= 1000 / 60 : now - Math.max(lastSent, lastHeard) > 400;
  if (ready && !paused && due && socket?.readyState === WebSocket.OPEN && socket.bufferedAmount < 1_000_000) {
    lastSent = now;
    flying += 1;
    const mine = number++;
    if (chosen === "noise") socket.send(pack(mine, now, new ArrayBuffer(0)));
    else
      input.toBlob(
        (blob) => void blob?.arrayBuffer().then((bytes) => socket?.readyState === WebSocket.OPEN && socket.send(pack(mine, now, bytes))),
        input.width * input.height > 16384 ? "image/jpeg" : "image/png",
        0.9,
      );
  }
  spark();
  requestAnimationFrame(tick);
}

function spark(): void {
  const canvas = $<HTMLCanvasElement>("spark");
  const context = canvas.getContext("2d")!;
  const style = getComputedStyle(document.documentElement);
  const top = Math.max(50, ...latencies, Math.min(deadline, 4 * Math.max(50, ...latencies)));
  const y = (value: number) => canvas.height - 4 - (value / top) * (canvas.height - 8);
  context.clearRect(0, 0, canvas.width, canvas.height);
  context.strokeStyle = style.getPropertyValue("--accent");
  context.lineWidth = 2;
  context.beginPath();
  latencies.forEach((value, k) => context.lineTo((k / 149) * canvas.width, y(value)));
  context.stroke();
  if (deadline > 0 && deadline <= top) {
    context.strokeStyle = style.getPropertyValue("--bad");
    context.setLineDash([6, 4]);
    context.beginPath();
    context.moveTo(0, y(deadline));
    context.lineTo(canvas.width, y(deadline));
    context.stroke();
    context.setLineDash([]);
  }
}

async function choose(name: string): Promise<void> {
  complain("source-error", "");
  picker.hidden = name !== "file";
  if (name === "file" && !picker.files?.[0]) return picker.click();
  try {
    const made =
      name === "clip" ? await sources.clip(token)
      : name === "pad" ? sources.pad(input, $("clear"))
      : name === "camera" ? await sources.camera()
      : name === "screen" ? await sources.screen()
      : name === "file" ? await sources.file(picker.files![0]!)
      : sources.noise;
    source.stop();
    source = made;
    if (name === "noise") change({ strength: 1 });
    else if (chosen === "noise" && known?.["strength"] === 1) change({ strength: 0.64 });
    chosen = name;
    send({ type: "reset" });
  } catch (error) {
    complain("source-error", error instanceof Error ? error.message : String(error));
    chooser.value = chosen;
  }
}

async function save(path: string, name: string): Promise<void> {
  complain("stream-error", "");
  const answer = await fetch(`${path}${token}`);
  if (!answer.ok) {
    complain("stream-error", String((await answer.json()).detail));
    return;
  }
  const link = document.createElement("a");
  link.href = URL.createObjectURL(await answer.blob());
  link.download = name;
  link.click();
  URL.revokeObjectURL(link.href);
}

const stamp = () => new Date().toISOString().slice(0, 19).replace(/[:T]/g, "-");

const actions: Record<string, () => void> = {
  pause() {
    paused = !paused;
    $("pause").setAttribute("aria-pressed", String(paused));
    send({ type: paused ? "pause" : "resume" });
    state(paused ? "paused" : "connected");
    flying = 0;
  },
  reset() {
    send({ type: "reset" });
    flying = 0;
  },
  snapshot: () => void save(`v1/streams/${session}/snapshot`, `condiff-${stamp()}.png`),
  record() {
    recording = !recording;
    $("record").setAttribute("aria-pressed", String(recording));
    $("recording").hidden = !recording;
    if (recording) void fetch(`v1/streams/${session}/recording${token}`, { method: "POST" });
    else void save(`v1/streams/${session}/recording`, `condiff-${stamp()}.mp4`);
  },
};

for (const [name, act] of Object.entries(actions)) $(name).addEventListener("click", act);
const keys: Record<string, string> = { p: "pause", r: "reset", s: "snapshot", v: "record" };
document.addEventListener("keydown", (event) => {
  const place = event.target as HTMLElement;
  if (event.ctrlKey || event.metaKey || event.altKey || /^(INPUT|SELECT|TEXTAREA)$/.test(place.tagName)) return;
  const name = keys[event.key.toLowerCase()];
  if (name) actions[name]!();
});
chooser.addEventListener("change", () => void choose(chooser.value));
picker.addEventListener("change", () => void choose("file"));
form.addEventListener("submit", (event) => event.preventDefault());

connect();
void choose("clip");
requestAnimationFrame(tick);
