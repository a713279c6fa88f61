// A fake back end: it redraws a picture strip by strip, and publishes how far it is, then the result.
import { publish, say } from "./console.js";

const WIDTH = 420;
const STEPS = 25;
const STEP_MS = 120;

let jobs = 0;

export function showConversion(user) {
  const [drop, state] = [document.getElementById("drop"), document.getElementById("convert-state")];
  const run = async (picture) => {
    try {
      await convert(picture, user(), (text) => say(state, text));
    } catch (error) {
      say(state, error.message, true);
    }
  };
  const take = (file) => createImageBitmap(file).then(run, () => say(state, "That is no picture that this browser can read.", true));
  const input = drop.querySelector("input");
  input.addEventListener("change", () => {
    if (input.files[0]) take(input.files[0]);
    input.value = "";
  });
  for (const type of ["dragenter", "dragover", "dragleave", "drop"]) {
    drop.addEventListener(type, (event) => {
      event.preventDefault();
      drop.classList.toggle("over", type === "dragenter" || type === "dragover");
      if (type === "drop" && event.dataTransfer.files[0]) take(event.dataTransfer.files[0]);
    });
  }
  document.getElementById("sample").addEventListener("click", () => run(sample()));
}

/** Publishes as a worker does: progress replaces progress (collapse key), so a flood of it pushes nothing out. */
async function convert(picture, userId, tell) {
  const job = `job-${++jobs}`;
  const canvas = new OffscreenCanvas(WIDTH, Math.max(1, Math.round((WIDTH * picture.height) / picture.width)));
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(picture, 0, 0, canvas.width, canvas.height);
  const strip = Math.ceil(canvas.height / STEPS);
  for (let step = 0; step < STEPS; step++) {
    await new Promise((done) => setTimeout(done, STEP_MS));
    redraw(context, step * strip, Math.min(strip, canvas.height - step * strip));
    const percent = Math.round((100 * (step + 1)) / STEPS);
    tell(`${job}: ${percent} %`);
    await publish([JSON.stringify({ userId, event: "convert.progress", collapseKey: `convert:${job}`, data: { job, percent } })]);
  }
  const bytes = new Uint8Array(await (await canvas.convertToBlob({ type: "image/jpeg", quality: 0.8 })).arrayBuffer());
  const image = `data:image/jpeg;base64,${btoa(Array.from(bytes, (byte) => String.fromCharCode(byte)).join(""))}`;
  const [answer] = await publish([JSON.stringify({ userId, event: "convert.done", data: { job, image } })]);
  if (answer.type === "error") throw new Error(answer.message);
  tell(`${job}: done, ${Math.ceil(image.length / 1024)} KB published.`);
}

/** Two inks, as a cheap press would. */
function redraw(context, top, height) {
  if (height <= 0) return;
  const pixels = context.getImageData(0, top, context.canvas.width, height);
  const { data } = pixels;
  for (let at = 0; at < data.length; at += 4) {
    const light = (0.3 * data[at] + 0.59 * data[at + 1] + 0.11 * data[at + 2]) / 255;
    for (const [offset, dark, bright] of [[0, 18, 250], [1, 52, 238], [2, 86, 214]]) data[at + offset] = dark + (bright - dark) * light;
  }
  context.putImageData(pixels, 0, top);
}

/** Hills at dusk: for whoever has no picture at hand. */
function sample() {
  const canvas = new OffscreenCanvas(640, 360);
  const context = canvas.getContext("2d");
  const sky = context.createLinearGradient(0, 0, 0, 360);
  for (const [at, colour] of [[0, "#27346b"], [0.5, "#d9776a"], [0.75, "#f6c177"]]) sky.addColorStop(at, colour);
  context.fillStyle = sky;
  context.fillRect(0, 0, 640, 360);
  context.fillStyle = "#fff3d6";
  context.beginPath();
  context.arc(430, 205, 38, 0, 2 * Math.PI);
  context.fill();
  for (const [base, height, colour] of [[235, 34, "#7d4f73"], [275, 46, "#503a63"], [315, 30, "#2a2747"]]) {
    context.fillStyle = colour;
    context.beginPath();
    context.moveTo(0, 360);
    for (let x = 0; x <= 640; x += 8) context.lineTo(x, base + height * Math.sin(x / (40 + base / 5)) * Math.cos(x / 190));
    context.lineTo(640, 360);
    context.fill();
  }
  return canvas;
}
