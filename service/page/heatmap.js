// A map of values, laid over an image as colours. No requests, no controls.

const TILE = 224; // values on the map's longer side before it is laid over the image

/** Lays a map over its region of the image; what the model does not look at becomes grey.

    values: rows of numbers from 0 on; region: left, top, width, height in pixels of the image, which may
    reach outside it; image: width, height. */
export function paint(canvas, values, { region, image }) {
  const scale = 768 / Math.max(image.width, image.height);
  Object.assign(canvas, { width: Math.ceil(image.width * scale), height: Math.ceil(image.height * scale) });
  const context = canvas.getContext("2d");
  const place = [region.left, region.top, region.width, region.height].map((pixels) => pixels * scale);
  context.fillStyle = "rgb(110 115 112 / 50%)";
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.clearRect(...place);
  context.drawImage(coloured(smoothed(values)), ...place);
}

/** The same with about TILE values on the longer side. */
function smoothed(values) {
  const factor = Math.ceil(TILE / Math.max(values.length, values[0].length));
  const transposed = (rows) => rows[0].map((_, column) => rows.map((row) => row[column]));
  const stretched = (rows) => rows.map((row) => stretch(row, factor));
  return transposed(stretched(transposed(stretched(values))));
}

/** Values with `factor` times as many between them, by Catmull and Rom's curve; canvases smooth too, but each its own way. */
function stretch(values, factor) {
  const at = (index) => values[Math.min(Math.max(index, 0), values.length - 1)];
  return Array.from({ length: values.length * factor }, (_, index) => {
    const position = (index + 0.5) / factor - 0.5;
    const cell = Math.floor(position), t = position - cell;
    const [a, b, c, d] = [at(cell - 1), at(cell), at(cell + 1), at(cell + 2)];
    return b + 0.5 * t * (c - a + t * (2 * a - 5 * b + 4 * c - d + t * (3 * (b - c) + d - a)));
  });
}

/** Values as a picture: the strongest opaque, none at all transparent. */
function coloured(values) {
  const canvas = Object.assign(document.createElement("canvas"), { width: values[0].length, height: values.length });
  const context = canvas.getContext("2d");
  const pixels = context.createImageData(canvas.width, canvas.height);
  const flat = values.flat();
  const peak = flat.reduce((most, value) => Math.max(most, value), Number.EPSILON);
  flat.forEach((value, index) => {
    const strength = Math.max(0, value / peak);
    pixels.data.set([...RAMP[Math.round(255 * strength)], 255 * Math.min(1, 1.6 * strength)], 4 * index);
  });
  context.putImageData(pixels, 0, 0);
  return canvas;
}

/** From violet to yellow in even steps of lightness (OKLCH, Ottosson 2020), so that no edge appears that is not in the map. */
function shade(strength) {
  const lightness = 0.28 + 0.6 * strength, chroma = 0.09 + 0.09 * Math.sin(0.75 * Math.PI * strength);
  const hue = ((295 + 160 * strength) * Math.PI) / 180;
  const a = chroma * Math.cos(hue), b = chroma * Math.sin(hue);
  const l = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3;
  const m = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3;
  const s = (lightness - 0.0894841775 * a - 1.291485548 * b) ** 3;
  const linear = [
    4.0767416621 * l - 3.3077115913 * m + 0.2309699292 * s,
    -1.2684380046 * l + 2.6097574011 * m - 0.3413193965 * s,
    -0.0041960863 * l - 0.7034186147 * m + 1.707614701 * s,
  ];
  return linear.map((light) => 255 * (light <= 0.0031308 ? 12.92 * Math.max(0, light) : 1.055 * light ** (1 / 2.4) - 0.055));
}

const RAMP = Array.from({ length: 256 }, (_, step) => shade(step / 255));

/** All colours side by side, from none at all to the strongest. */
export function paintRamp(canvas) {
  const values = Array.from({ length: canvas.width }, (_, step) => step);
  canvas.getContext("2d").drawImage(coloured([values]), 0, 0);
}
