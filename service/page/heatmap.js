// Draws a heat map over an image. No requests, no controls.

const UPSAMPLED_SIZE = 224; // values on the longer side of the map when it is drawn

/** Draws a heat map over its region of the image; the area outside the model's input becomes gray.

    values: rows of numbers >= 0; region: left, top, width, height in pixels of the image, possibly
    beyond its edges; image: width, height. */
export function paintHeatmap(canvas, values, { region, image }) {
  const scale = 768 / Math.max(image.width, image.height);
  Object.assign(canvas, { width: Math.ceil(image.width * scale), height: Math.ceil(image.height * scale) });
  const context = canvas.getContext("2d");
  const rectangle = [region.left, region.top, region.width, region.height].map((pixels) => pixels * scale);
  context.fillStyle = "rgb(110 115 112 / 50%)";
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.clearRect(...rectangle);
  context.drawImage(applyColormap(upsample(values)), ...rectangle);
}

/** The values, interpolated to about UPSAMPLED_SIZE on the longer side. */
function upsample(values) {
  const factor = Math.ceil(UPSAMPLED_SIZE / Math.max(values.length, values[0].length));
  const transpose = (rows) => rows[0].map((_, column) => rows.map((row) => row[column]));
  const interpolateRows = (rows) => rows.map((row) => interpolate(row, factor));
  return transpose(interpolateRows(transpose(interpolateRows(values))));
}

/** Catmull-Rom interpolation to `factor` times as many values. A canvas can smooth too, but each browser does it differently. */
function interpolate(values, factor) {
  const at = (index) => values[Math.min(Math.max(index, 0), values.length - 1)];
  return Array.from({ length: values.length * factor }, (_, index) => {
    const position = (index + 0.5) / factor - 0.5;
    const cell = Math.floor(position), t = position - cell;
    const [a, b, c, d] = [at(cell - 1), at(cell), at(cell + 1), at(cell + 2)];
    return b + 0.5 * t * (c - a + t * (2 * a - 5 * b + 4 * c - d + t * (3 * (b - c) + d - a)));
  });
}

/** A canvas with the values in color: the highest is opaque, 0 is transparent. */
function applyColormap(values) {
  const canvas = Object.assign(document.createElement("canvas"), { width: values[0].length, height: values.length });
  const context = canvas.getContext("2d");
  const pixels = context.createImageData(canvas.width, canvas.height);
  const flat = values.flat();
  const peak = flat.reduce((max, value) => Math.max(max, value), Number.EPSILON);
  flat.forEach((value, index) => {
    const strength = Math.max(0, value / peak);
    pixels.data.set([...COLORMAP[Math.round(255 * strength)], 255 * Math.min(1, 1.6 * strength)], 4 * index);
  });
  context.putImageData(pixels, 0, 0);
  return canvas;
}

/** Violet to yellow in equal steps of lightness (OKLCH, Ottosson 2020), so that the colors add no edges to the map. */
function colorAt(strength) {
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

const COLORMAP = Array.from({ length: 256 }, (_, step) => colorAt(step / 255));

/** Draws the color bar, from 0 to the highest value. */
export function paintColorbar(canvas) {
  const values = Array.from({ length: canvas.width }, (_, step) => step);
  canvas.getContext("2d").drawImage(applyColormap([values]), 0, 0);
}
