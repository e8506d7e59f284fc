// An image on a canvas, and the map of what the network looks at over it.
const LARGEST_SIDE = 1024; // pixels that are shown; the file itself is sent whole
const OPACITY = 0.7; // where the map is largest
const COLOURS = [ // every other one of heat.py
  [0, 0, 4], [33, 12, 74], [87, 16, 110], [138, 34, 106], [188, 55, 84], [228, 90, 49], [249, 142, 9], [249, 203, 53],
  [252, 255, 164],
];

/** Draw a file on a canvas and return whether this browser can. */
export async function drawImage(canvas, file) {
  let bitmap;
  try {
    bitmap = await createImageBitmap(file);
  } catch {
    return false;
  }
  const scale = Math.min(1, LARGEST_SIDE / Math.max(bitmap.width, bitmap.height));
  canvas.width = Math.max(1, Math.round(bitmap.width * scale));
  canvas.height = Math.max(1, Math.round(bitmap.height * scale));
  canvas.getContext("2d").drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  bitmap.close();
  return true;
}

/** Draw a map (rows of numbers from 0 to 1) of what a model sees on a canvas of the size of the image, as heat.draw_heat. */
export function drawHeat(canvas, map, { width, height }, { image_size: frame, resize, cells }) {
  canvas.width = width;
  canvas.height = height;
  const [left, top, right, bottom] = placeInFrame(width, height, frame, resize);
  const pixels = new ImageData(width, height);
  for (let y = 0; y < height; y++) {
    const v = (top + ((y + 0.5) / height) * (bottom - top) - 0.5 - cells.top) / cells.down;
    for (let x = 0; x < width; x++) {
      const u = (left + ((x + 0.5) / width) * (right - left) - 0.5 - cells.left) / cells.across;
      const heat = between(map, v, u);
      const at = heat * (COLOURS.length - 1);
      const step = Math.min(Math.floor(at), COLOURS.length - 2);
      const place = 4 * (y * width + x);
      for (let c = 0; c < 3; c++) {
        pixels.data[place + c] = COLOURS[step][c] + (at - step) * (COLOURS[step + 1][c] - COLOURS[step][c]);
      }
      pixels.data[place + 3] = 255 * OPACITY * heat;
    }
  }
  canvas.getContext("2d").putImageData(pixels, 0, 0);
}

/** As data.decode.place_in_frame. */
function placeInFrame(width, height, [rows, columns], resize) {
  let across = columns, down = rows;
  if (resize === "letterbox") {
    if (width * rows > height * columns) down = Math.max(1, Math.round((height * columns) / width));
    else across = Math.max(1, Math.round((width * rows) / height));
  }
  const left = Math.floor((columns - across) / 2), top = Math.floor((rows - down) / 2);
  return [left, top, left + across, top + down];
}

/** The value of a map between its cells, bilinear. */
function between(map, v, u) {
  const inside = (at, length) => Math.min(Math.max(at, 0), length - 1);
  const y = inside(v, map.length), x = inside(u, map[0].length);
  const row = Math.floor(y), column = Math.floor(x);
  const below = Math.min(row + 1, map.length - 1), beside = Math.min(column + 1, map[0].length - 1);
  const first = map[row][column] + (x - column) * (map[row][beside] - map[row][column]);
  const second = map[below][column] + (x - column) * (map[below][beside] - map[below][column]);
  return first + (y - row) * (second - first);
}
